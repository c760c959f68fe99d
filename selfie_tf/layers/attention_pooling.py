"""Attention pooling: into one vector (the network A of Selfie, section 2.2), or one a query."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.attention import AttentionBlock, LayerNorm, Transformer


class AttentionPooling(Transformer):
    """Pools N vectors into one: a learned u0 joins them, attention blocks run, u0's output is u.

    Arguments as `Transformer`.
    """

    def build(self, input_shape):
        dim = input_shape[-1]
        self.u0 = self.add_weight(
            "u0", [dim], initializer=keras.initializers.TruncatedNormal(stddev=0.02)
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training=None) -> tf.Tensor:
        """Args: inputs float `[B, N, D]`. Returns: u, `[B, D]`."""
        u0 = tf.broadcast_to(
            tf.cast(self.u0, inputs.dtype), [tf.shape(inputs)[0], 1, inputs.shape[-1]]
        )
        x = tf.concat([u0, inputs], axis=1)  # [B, 1 + N, D]
        return super().call(x, training=training)[:, 0]


class QueryPooling(keras.layers.Layer):
    """Pools N vectors once for each of T locations, by attention from a query of the location.

    The query is a learned vector plus the location's position embedding, normalised; one attention
    block lets it attend over the vectors. PatchFormer's "attention-pooled context vectors"
    (section 2.1): the plural is read as one a location.

    Args:
      num_heads: must divide the input's width D.
      mlp_dim: width of the block's intermediate layer.
      dropout_rate: see `AttentionBlock`.
      seed: int, the block's.
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
            with tf.name_scope(layer.name):
                layer.build([None, None, dim])
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, locations: tf.Tensor, training=None) -> tf.Tensor:
        """Pools `inputs` for each location.

        Args:
          inputs: float `[B, N, D]`.
          locations: position embeddings `[B, T, D]`.

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
