"""Building sublayers under their own names."""

import tensorflow as tf
import tf_keras as keras


def build(layer: keras.layers.Layer, input_shape) -> None:
    """Builds a layer, its variables named below the layer's own name.

    Keras itself opens this name scope in `__call__` only. Layers that build their sublayers need it
    too, so that names tell which of several equal sublayers a variable belongs to.

    Args:
      layer: The layer to build.
      input_shape: What `layer.build` takes.
    """
    with tf.name_scope(layer.name):
        layer.build(input_shape)


def build_chain(layers, input_shape) -> None:
    """Builds layers of which each takes the output of the one before.

    Args:
      layers: Layers with `compute_output_shape`.
      input_shape: Shape of the first layer's input.
    """
    for layer in layers:
        build(layer, input_shape)
        input_shape = layer.compute_output_shape(input_shape)
