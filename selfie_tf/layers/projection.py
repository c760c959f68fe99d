"""The projection of feature vectors to those that are compared (SimCLR, Chen et al. 2020)."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.building import build


class Projection(keras.layers.Layer):
    """Two dense layers with a ReLU between them (section 2.1 of that paper).

    Args:
      hidden_dim: Width of the first layer.
      output_dim: Width of the second layer.
    """

    def __init__(self, hidden_dim: int, output_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim, self.output_dim = hidden_dim, output_dim
        self.hidden = keras.layers.Dense(hidden_dim, activation="relu", name="hidden")
        self.output_dense = keras.layers.Dense(output_dim, name="output")

    def build(self, input_shape):
        build(self.hidden, input_shape)
        build(self.output_dense, [*input_shape[:-1], self.hidden_dim])
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Projects vectors, float `[..., D]` to `[..., output_dim]`."""
        return self.output_dense(self.hidden(inputs))

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "output_dim": self.output_dim,
        }
