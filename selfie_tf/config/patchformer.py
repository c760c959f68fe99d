"""The config of a PatchFormer pretraining run (ICLR 2020 submission)."""

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
class MasksConfig(GridConfig):
    """The grid, what is hidden of it, and what is to be decoded (section 2.1)."""

    mask_ratio: float = bounded(
        0.6, 0, 1, "Fraction of the blocks of patches that is hidden, rounded to whole blocks."
    )
    mask_block: int = bounded(2, 1, help="Side of such a block in patches; must divide the grid.")
    target_size: int = bounded(
        8, 2, help="Side in pixels of what is decoded of each hidden patch, a power of two."
    )
    target: str = choice(
        "center_crop",
        ("center_crop", "subsample"),
        "What is decoded: the middle of the patch, or evenly spaced pixels of all of it; the "
        "paper says both.",
    )
    target_bits: int = bounded(2, 1, 8, "Bits of grey that are decoded: 2**bits levels.")


@dataclasses.dataclass
class PatchFormerModelConfig(NetworkConfig):
    """P, the Transformer, and how hidden positions query the context."""

    attention_layers: int = bounded(10, 1, 100, "Blocks of the Transformer.")
    num_heads: int = bounded(16, 1, help="Attention heads per block; must divide 16 * width.")
    mlp_dim: int = bounded(4096, 1, 2**17, "Units of a block's intermediate dense layer.")
    position: str = choice(
        "factorized",
        ("learned", "factorized"),
        "Position embeddings. learned: one per patch; factorized: row plus column.",
    )
    query: str = choice(
        "per_location",
        ("per_location", "pooled"),
        "per_location: each hidden position attends over the context; pooled: one vector for all "
        "positions plus the position's embedding, as in Selfie.",
    )
    label_smoothing: float = bounded(
        0.01, 0, 0.999, "Fraction of a label that is spread over all grey levels, in training."
    )


@dataclasses.dataclass
class PatchFormerConfig(PretrainConfig):
    """One pretraining run of PatchFormer; the defaults are the paper's."""

    method: str = text("patchformer", "The pretext task of this config.")
    init_from: str = text("", INIT_FROM_WORDS)
    data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(
            name="tfds:imagenet2012", image_size=224, crop="random_resized", shuffle_buffer=16_384
        )
    )
    patches: MasksConfig = dataclasses.field(default_factory=lambda: MasksConfig(size=16))
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    model: PatchFormerModelConfig = dataclasses.field(default_factory=PatchFormerModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(
            name="adamw", learning_rate=2e-4, warmup_steps=10_000, weight_decay=1e-3
        )
    )
    train: PretrainLoopConfig = dataclasses.field(
        default_factory=lambda: PretrainLoopConfig(
            steps=300_000, batch_size=128, picture_every=10_000
        )
    )

    @property
    def num_hidden_cells(self) -> int:
        """Blocks that are hidden (29 of 49)."""
        return round(self.patches.mask_ratio * (self.grid // self.patches.mask_block) ** 2)

    @property
    def num_targets(self) -> int:
        """T, the hidden patches (116 of 196; the paper's 118 are no whole blocks)."""
        return self.num_hidden_cells * self.patches.mask_block**2

    @property
    def num_context(self) -> int:
        """C, the visible patches."""
        return self.num_patches - self.num_targets

    def validate(self) -> None:
        """See `RunConfig.validate`."""
        super().validate()
        p, jitter = self.patches, self.augment.jitter
        largest = self.data.image_size // 2
        if not 2 <= p.size <= largest:
            raise UserError(f"patches.size={p.size}: expected a number from 2 to {largest}")
        for key, value, limit in (
            ("patches.mask_block", p.mask_block, self.grid),
            ("patches.target_size", p.target_size, p.size),
            ("augment.jitter", jitter, p.size - 1),
        ):
            if value > limit:
                low = {"patches.mask_block": 1, "patches.target_size": 2}.get(key, 0)
                raise UserError(f"{key}={value}: expected a number from {low} to {limit}")
        if self.grid % p.mask_block:
            raise UserError(
                f"patches.mask_block={p.mask_block} does not divide the grid of "
                f"{self.grid}x{self.grid} patches; 1 hides single patches"
            )
        if p.target_size & (p.target_size - 1):
            raise UserError(f"patches.target_size={p.target_size}: expected a power of two")
        if p.target == "subsample" and p.size % p.target_size:
            raise UserError(
                f"patches.target_size={p.target_size} does not divide patches.size={p.size}: "
                "patches.target=subsample needs that"
            )
        if self.num_context < 1 or self.num_targets < 1:
            raise UserError(
                f"patches.mask_ratio={p.mask_ratio} leaves {self.num_context} visible and "
                f"{self.num_targets} hidden patches of {self.num_patches}: at least one block of "
                f"{p.mask_block}x{p.mask_block} of each is needed"
            )
