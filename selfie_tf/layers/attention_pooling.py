"""Attention pooling: into one vector (Selfie's network A, section 2.2), or one per query."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.attention import AttentionBlock, LayerNorm, Transformer
from selfie_tf.layers.building import build


class AttentionPooling(Transformer):
    """Pools N vectors into one with a Transformer.

    A learned vector u0 joins the N vectors; the Transformer's output at u0 is the pooled vector u.
    The arguments are those of `Transformer`.
    """

    def build(self, input_shape):
        dim = input_shape[-1]
        self.u0 = self.add_weight(
            "u0", [dim], initializer=keras.initializers.TruncatedNormal(stddev=0.02)
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training=None) -> tf.Tensor:
        """Pools the vectors of each image.

        Args:
          inputs: float `[B, N, D]`.
          training: Whether dropout is on.

        Returns:
          u, `[B, D]`.
        """
        u0 = tf.broadcast_to(
            tf.cast(self.u0, inputs.dtype), [tf.shape(inputs)[0], 1, inputs.shape[-1]]
        )
        x = tf.concat([u0, inputs], axis=1)  # [B, 1 + N, D]
        return super().call(x, training=training)[:, 0]

    def pool_at(self, inputs: tf.Tensor, locations: tf.Tensor, training=None) -> tf.Tensor:
        """Pools the vectors of each image once per location, beyond the paper.

        One u0 per location joins the N vectors, each with its location's position embedding added.
        It attends to itself and to the N vectors, as in `call`. The N vectors attend to each other
        alone, and so do not depend on which locations are asked for.

        Args:
          inputs: float `[B, N, D]`.
          locations: Position embeddings of the locations, `[B, T, D]`.
          training: Whether dropout is on.

        Returns:
          `[B, T, D]`.
        """
        count, total = locations.shape[1], locations.shape[1] + inputs.shape[1]
        queries = tf.cast(self.u0, inputs.dtype) + locations  # [B, T, D]
        x = tf.concat([queries, inputs], axis=1)  # [B, T + N, D]
        mask = tf.eye(total, dtype=tf.bool) | (tf.range(total) >= count)
        return super().call(x, training=training, mask=mask)[:, :count]


class QueryPooling(keras.layers.Layer):
    """Pools N vectors once per location, with a query that attends over them.

    The query of a location is a learned vector plus the location's position embedding, normalised.
    One attention block lets it attend over the N vectors. These are PatchFormer's "attention-pooled
    context vectors" (section 2.1), where the plural is read as one per location.

    Args:
      num_heads: Attention heads; must divide the input's width D.
      mlp_dim: Width of the block's intermediate layer.
      dropout_rate: See `AttentionBlock`.
      seed: Seed of the block, see `AttentionBlock`.
    """

    def __init__(
        self,
        num_heads: int = 16,
        mlp_dim: int = 4096,
        dropout_rate: float = 0.1,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads, self.mlp_dim = num_heads, mlp_dim
        self.dropout_rate, self.seed = dropout_rate, seed
        self.query_norm = LayerNorm(name="query_norm")
        self.block = AttentionBlock(num_heads, mlp_dim, dropout_rate, seed, name="block")

    def build(self, input_shape):
        dim = input_shape[-1]
        self.query = self.add_weight(
            "query", [dim], initializer=keras.initializers.TruncatedNormal(stddev=0.02)
        )
        for layer in (self.query_norm, self.block):
            build(layer, [None, None, dim])
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, locations: tf.Tensor, training=None) -> tf.Tensor:
        """Pools the vectors of each image once per location.

        Args:
          inputs: float `[B, N, D]`.
          locations: Position embeddings of the locations, `[B, T, D]`.
          training: Whether dropout is on.

        Returns:
          `[B, T, D]`.
        """
        queries = self.query_norm(tf.cast(self.query, locations.dtype) + locations)
        return self.block(queries, inputs, training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "dropout_rate": self.dropout_rate,
            "seed": self.seed,
        }
