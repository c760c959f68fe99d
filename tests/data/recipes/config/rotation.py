"""The config of rotation prediction."""

import dataclasses

from selfie_tf.config.base import (
    GridConfig,
    ImagesConfig,
    LoopConfig,
    NetworkConfig,
    OptimizerConfig,
    PretrainConfig,
)
from selfie_tf.config.fields import bounded, text


@dataclasses.dataclass
class RotationLoopConfig(LoopConfig):
    picture_every: int = bounded(1000, 1, help="Steps between two pictures.")


@dataclasses.dataclass
class RotationDataConfig(ImagesConfig):
    eval_images: int = bounded(2048, 1, help="Held-out images to evaluate at the end, at most.")


@dataclasses.dataclass
class RotationConfig(PretrainConfig):
    """One pretraining run of rotation prediction."""

    method: str = text("rotation", "The pretext task.")
    init_from: str = text("", "Run or export to continue from.")
    data: RotationDataConfig = dataclasses.field(default_factory=RotationDataConfig)
    patches: GridConfig = dataclasses.field(default_factory=GridConfig)
    model: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: RotationLoopConfig = dataclasses.field(default_factory=RotationLoopConfig)
