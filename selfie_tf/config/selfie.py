"""The config of a Selfie pretraining run (Trinh, Luong, Le 2019)."""

import dataclasses

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


@dataclasses.dataclass
class SelfieConfig(PretrainConfig):
    """One pretraining run of Selfie; the defaults are the paper's on CIFAR-10."""

    method: str = text("selfie", "The pretext task; it tells the kinds of configs apart.")
    init_from: str = text("", INIT_FROM_WORDS)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    patches: PatchesConfig = dataclasses.field(default_factory=PatchesConfig)
    model: SelfieModelConfig = dataclasses.field(default_factory=SelfieModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: PretrainLoopConfig = dataclasses.field(default_factory=PretrainLoopConfig)

    @property
    def num_context(self) -> int:
        """C, the patches that the encoder sees: round(p * N), 12 of 16 or 37 of 49."""
        return round(self.patches.context_fraction * self.num_patches)

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
        if self.model.query == "per_location" and self.model.pooling != "attention":
            raise UserError(
                f"model.pooling={self.model.pooling}: model.query=per_location attends over the "
                "context and needs model.pooling=attention"
            )
