"""What the models share of their wiring."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.positions import FactorizedPositions, LearnedPositions
from selfie_tf.layers.resnet import ResNetV2


def normalize(images: tf.Tensor, dtype) -> tf.Tensor:
    """Pixels in [0, 255] to [-1, 1]; in the model, so that bytes are what travels to the device."""
    return tf.cast(tf.cast(images, tf.float32) / 127.5 - 1.0, dtype)


def make_positions(position: str, grid: int, dim: int) -> keras.layers.Layer:
    """Position embeddings of width `dim` for a grid: "learned" or "factorized".

    Raises:
      ValueError: on another `position`.
    """
    if position not in ("learned", "factorized"):
        raise ValueError(f"position={position!r}: expected 'learned' or 'factorized'")
    kind = LearnedPositions if position == "learned" else FactorizedPositions
    return kind(grid, grid, dim, name="positions")


def patch_vectors(network: ResNetV2, patches: tf.Tensor, training=None) -> tf.Tensor:
    """h of every patch: P's feature map, averaged.

    Args:
      network: P.
      patches: uint8 or float in [0, 255], `[B, N, p, p, 3]`.

    Returns:
      `[B, N, D]` in the network's compute dtype.
    """
    count = patches.shape[1]
    x = tf.reshape(patches, [-1, *patches.shape[2:]])  # [B * N, p, p, 3]
    x = network(normalize(x, network.compute_dtype), training=training)
    x = tf.reduce_mean(x, axis=[1, 2])  # [B * N, D]
    return tf.reshape(x, [-1, count, x.shape[-1]])


def constructor_arguments(values: dict) -> dict:
    """A constructor's arguments, for `get_config`, from the `locals()` that it begins with."""
    return {k: v for k, v in values.items() if k not in ("self", "kwargs", "__class__")}


def build_under_name(layers_and_shapes) -> None:
    """Builds each layer under its own name, which Keras does only in `__call__`.

    Args:
      layers_and_shapes: pairs; a layer may be None.
    """
    for layer, shape in layers_and_shapes:
        if layer is not None:
            with tf.name_scope(layer.name):
                layer.build(shape)
