"""The config of a Selfie pretraining run (Trinh, Luong, Le 2019)."""

import dataclasses

from selfie_tf.config.augment import AugmentConfig
from selfie_tf.config.base import (
    INIT_FROM_WORDS,
    DataConfig,
    GridConfig,
    NetworkConfig,
    OptimizerConfig,
    PretrainConfig,
    PretrainLoopConfig,
)
from selfie_tf.config.fields import bounded, choice, text
from selfie_tf.errors import UserError


@dataclasses.dataclass
class PatchesConfig(GridConfig):
    """The grid and its split (section 2.1)."""

    context_fraction: float = bounded(
        0.75, 0, 1, "p, the fraction of the patches that the encoder sees; the rest is hidden."
    )


@dataclasses.dataclass
class SelfieModelConfig(NetworkConfig):
    """P, A, and how hidden patches are scored."""

    query: str = choice(
        "pooled",
        ("pooled", "per_location", "position"),
        "What a hidden position asks with. pooled: the context's one vector plus the position's "
        "embedding, as in the paper; per_location: each position attends over the context by "
        "itself; position: the embedding alone, a baseline without context.",
    )
    pooling: str = choice(
        "attention",
        ("attention", "mean", "max"),
        "How the context is pooled: by A, or by its special cases without weights (section 2.2).",
    )
    logit_scale: str = choice(
        "none", ("none", "sqrt_dim"), "none: the paper's dot product; sqrt_dim: over sqrt(D)."
    )
    jigsaw_weight: float = bounded(
        1.0, 0, 1e6, "Weight of the paper's loss; 0: training does without the patches and A."
    )
    instance_weight: float = bounded(
        0.0,
        0,
        1e6,
        "Weight of a loss beyond the paper, which tells two views of an image from all other "
        "images'; 0: off, as in the paper.",
    )
    temperature: float = bounded(
        0.2, 1e-3, 1e3, "instance_weight: the cosine of two views is divided by it."
    )
    projection_dim: int = bounded(
        128, 1, 2**17, "instance_weight: width of the projected views that are compared."
    )
    negatives: str = choice(
        "replica",
        ("replica", "all"),
        "instance_weight: the other images of the same replica, or of all replicas.",
    )


@dataclasses.dataclass
class ViewsConfig(AugmentConfig):
    """Two views of each training image for `model.instance_weight`: random crops with noise."""

    min_crop_area: float = bounded(
        0.2, 1e-3, 1, "Smallest fraction of the image's area that a view keeps."
    )
    size: int = bounded(
        0, 0, help="Side of the views, in pixels; smaller ones cost less. 0: data.image_size."
    )


@dataclasses.dataclass
class SelfieConfig(PretrainConfig):
    """One pretraining run of Selfie; the defaults are the paper's on CIFAR-10."""

    method: str = text("selfie", "The pretext task of this config.")
    init_from: str = text("", INIT_FROM_WORDS)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    patches: PatchesConfig = dataclasses.field(default_factory=PatchesConfig)
    model: SelfieModelConfig = dataclasses.field(default_factory=SelfieModelConfig)
    views: ViewsConfig = dataclasses.field(  # strengths as SimCLR's on CIFAR-10
        default_factory=lambda: ViewsConfig(
            jitter=0,
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
            hue=0.1,
            flip_rate=0.5,
            min_bits=8,
        )
    )
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: PretrainLoopConfig = dataclasses.field(default_factory=PretrainLoopConfig)

    @property
    def num_context(self) -> int:
        """C, the patches that the encoder sees: round(p * N), 12 of 16 or 37 of 49."""
        return round(self.patches.context_fraction * self.num_patches)

    @property
    def view_size(self) -> int:
        """The side of the views that `model.instance_weight` compares, in pixels."""
        return self.views.size or self.data.image_size

    @property
    def num_targets(self) -> int:
        """T, the hidden patches, all predicted at once."""
        return self.num_patches - self.num_context

    def validate(self) -> None:
        """See `RunConfig.validate`."""
        super().validate()
        if self.num_context < 1 or self.num_targets < 2:
            raise UserError(
                f"patches.context_fraction={self.patches.context_fraction} leaves "
                f"{self.num_context} context and {self.num_targets} target patches of "
                f"{self.num_patches}: at least 1 and 2 are needed"
            )
        model, size = self.model, self.view_size
        if model.query == "per_location" and model.pooling != "attention":
            raise UserError(
                f"model.pooling={model.pooling}: model.query=per_location attends over the context "
                "and needs model.pooling=attention"
            )
        if not model.jigsaw_weight and not model.instance_weight:
            raise UserError(
                "model.jigsaw_weight=0 and model.instance_weight=0 leave no loss: set one of them"
            )
        if model.instance_weight and self.train.batch_size < 2:
            raise UserError(
                "train.batch_size=1: model.instance_weight compares an image with the others of "
                "its batch, so at least 2 are needed"
            )
        if self.views.jitter >= size:
            raise UserError(
                f"views.jitter={self.views.jitter}: expected a number from 0 to {size - 1}"
            )
