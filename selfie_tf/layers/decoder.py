"""From a vector to a small map of logits: the residual upsampling decoder of PatchFormer."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.building import build
from selfie_tf.layers.resnet import EXPANSION, BottleneckUnit, NormReLU


class UpsamplingDecoder(keras.layers.Layer):
    """Doubles a 1x1 map until it is `size` x `size`, with a bottleneck unit after each doubling.

    PatchFormer (section 2.1) only says "a regular residual upsampling decoder". Here each stage
    repeats every pixel 2x2 (nearest neighbour). A pre-activation bottleneck unit, as in P, then
    halves the channels.

    Args:
      size: Side of the map in pixels, a power of two from 2 up.
      num_outputs: Channels of the map, K.
      norm_momentum: Momentum of batch normalisation's moving statistics.
      synchronized: Whether batch statistics are taken over all replicas.

    Raises:
      ValueError: If `size` is no power of two.
    """

    def __init__(self, size, num_outputs, norm_momentum=0.9, synchronized=False, **kwargs):
        super().__init__(**kwargs)
        if size < 2 or size & (size - 1):
            raise ValueError(f"size={size}: expected a power of two from 2 up")
        self.size, self.num_outputs = size, num_outputs
        self.norm_momentum, self.synchronized = norm_momentum, synchronized

    def build(self, input_shape):
        channels = input_shape[-1]
        self.units = []
        for stage in range(self.size.bit_length() - 1):
            unit = BottleneckUnit(
                max(1, channels // 2 // EXPANSION),
                project=True,
                norm_momentum=self.norm_momentum,
                synchronized=self.synchronized,
                name=f"unit{stage + 1}",
            )
            side = 2 ** (stage + 1)
            build(unit, [None, side, side, channels])
            self.units.append(unit)
            channels = EXPANSION * unit.filters
        self.final_norm = NormReLU(self.norm_momentum, self.synchronized, name="final_norm")
        # Logits are float32 also under mixed precision.
        dtype = None if self.compute_dtype == "float64" else "float32"
        self.output_dense = keras.layers.Dense(self.num_outputs, dtype=dtype, name="output")
        for layer in (self.final_norm, self.output_dense):
            build(layer, [None, self.size, self.size, channels])
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training=None) -> tf.Tensor:
        """Decodes vectors to maps.

        Args:
          inputs: float `[N, D]`.
          training: Whether batch normalisation uses the batch's statistics.

        Returns:
          Logits `[N, size, size, K]`, float32 (or float64).
        """
        x = inputs[:, None, None]  # [N, 1, 1, D]
        for unit in self.units:
            x = tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)  # [N, 2 h, 2 w, channels]
            x = unit(x, training=training)  # [N, 2 h, 2 w, channels / 2]
        return self.output_dense(self.final_norm(x, training=training))

    def get_config(self):
        return {
            **super().get_config(),
            "size": self.size,
            "num_outputs": self.num_outputs,
            "norm_momentum": self.norm_momentum,
            "synchronized": self.synchronized,
        }
