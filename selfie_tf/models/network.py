"""The arguments that all models share, and the layers that are made from them."""

import dataclasses

from selfie_tf.layers.attention_pooling import AttentionPooling
from selfie_tf.layers.positions import FactorizedPositions, LearnedPositions
from selfie_tf.layers.resnet import ResNetV2

_POSITIONS = {"learned": LearnedPositions, "factorized": FactorizedPositions}


@dataclasses.dataclass(frozen=True)
class Network:
    """Patch network P, position embeddings and attention. Every model takes these arguments.

    Attributes:
      grid: Patches per side.
      width: Channels of P's stem. All other channel counts are multiples of it.
      stem: "small" or "imagenet", see `ResNetV2`.
      attention_layers: Number of attention blocks.
      num_heads: Attention heads; must divide the width of P's vectors.
      mlp_dim: Width of the intermediate layer of an attention block.
      dropout_rate: Fraction of units that is dropped, see `AttentionBlock`.
      position: "learned", one embedding per position; or "factorized", the sum of an embedding per
        row and one per column.
      norm_momentum: Momentum of batch normalisation's moving statistics.
      norm_synchronized: Whether batch statistics are taken over all replicas.
      seed: Seed of the dropout.

    Raises:
      ValueError: If `position` is unknown.
    """

    grid: int = 4
    width: int = 64
    stem: str = "small"
    attention_layers: int = 3
    num_heads: int = 32
    mlp_dim: int = 640
    dropout_rate: float = 0.1
    position: str = "learned"
    norm_momentum: float = 0.9
    norm_synchronized: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.position not in _POSITIONS:
            raise ValueError(f"position={self.position!r}: expected 'learned' or 'factorized'")

    @property
    def first_block_seed(self) -> int:
        """Seed of the first attention block; the others count on from here."""
        return 1000 * self.seed

    def take(self, kwargs: dict) -> "Network":
        """Moves the network's arguments out of a constructor's keyword arguments.

        Args:
          kwargs: Keyword arguments; those of the network are removed from it.

        Returns:
          The network, with the values of `self` for arguments that are not in `kwargs`.
        """
        names = {field.name for field in dataclasses.fields(self)} & kwargs.keys()
        return dataclasses.replace(self, **{name: kwargs.pop(name) for name in names})

    def arguments(self) -> dict:
        """Returns {argument: value}."""
        return dataclasses.asdict(self)

    def make_backbone(self, name: str, num_groups: int = 3) -> ResNetV2:
        """Makes P, or with four groups the body of ResNet-50."""
        return ResNetV2(
            width=self.width,
            num_groups=num_groups,
            stem=self.stem,
            norm_momentum=self.norm_momentum,
            synchronized=self.norm_synchronized,
            name=name,
        )

    def make_positions(self, dim: int) -> LearnedPositions:
        """Makes position embeddings of width `dim` for the grid."""
        return _POSITIONS[self.position](self.grid, self.grid, dim, name="positions")

    def make_attention_pooling(self) -> AttentionPooling:
        """Makes Selfie's attention pooling A."""
        return AttentionPooling(
            self.attention_layers,
            self.num_heads,
            self.mlp_dim,
            self.dropout_rate,
            self.first_block_seed,
            name="attention_pooling",
        )
