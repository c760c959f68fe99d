"""The config of rotation prediction."""

import dataclasses

from selfie_tf.config.base import (
    DataConfig,
    GridConfig,
    NetworkConfig,
    OptimizerConfig,
    PretrainConfig,
    PretrainLoopConfig,
)
from selfie_tf.config.fields import text


@dataclasses.dataclass
class RotationConfig(PretrainConfig):
    """One pretraining run of rotation prediction."""

    method: str = text("rotation", "The pretext task.")
    init_from: str = text("", "Run or export to continue from.")
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    patches: GridConfig = dataclasses.field(default_factory=GridConfig)
    model: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: PretrainLoopConfig = dataclasses.field(default_factory=PretrainLoopConfig)
