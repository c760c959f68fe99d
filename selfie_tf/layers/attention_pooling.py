"""Attention pooling, the network A (section 2.2)."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.attention import AttentionBlock


class AttentionPooling(keras.layers.Layer):
    """Pools N vectors into one: a learned u0 joins them, attention blocks run, u0's output is u.

    Args:
      num_layers: attention blocks.
      num_heads: must divide the input's width D.
      mlp_dim: width of the blocks' intermediate layer.
      dropout_rate: see `AttentionBlock`.
      seed: int, first of the blocks' seeds.
    """

    def __init__(
        self,
        num_layers: int = 3,
        num_heads: int = 32,
        mlp_dim: int = 640,
        dropout_rate: float = 0.1,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_layers, self.num_heads, self.mlp_dim = num_layers, num_heads, mlp_dim
        self.dropout_rate, self.seed = dropout_rate, seed
        self.blocks = [
            AttentionBlock(num_heads, mlp_dim, dropout_rate, seed + i, name=f"block{i + 1}")
            for i in range(num_layers)
        ]

    def build(self, input_shape):
        dim = input_shape[-1]
        self.u0 = self.add_weight(
            "u0", [dim], initializer=keras.initializers.TruncatedNormal(stddev=0.02)
        )
        count = None if input_shape[-2] is None else input_shape[-2] + 1
        for block in self.blocks:
            with tf.name_scope(block.name):
                block.build([input_shape[0], count, dim])
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training=None) -> tf.Tensor:
        """Args: inputs float `[B, N, D]`. Returns: u, `[B, D]`."""
        u0 = tf.broadcast_to(
            tf.cast(self.u0, inputs.dtype), [tf.shape(inputs)[0], 1, inputs.shape[-1]]
        )
        x = tf.concat([u0, inputs], axis=1)  # [B, 1 + N, D]
        for block in self.blocks:
            x = block(x, training=training)
        return x[:, 0]

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "dropout_rate": self.dropout_rate,
            "seed": self.seed,
        }
