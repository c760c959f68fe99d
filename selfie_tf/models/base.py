"""What every model shares: its training step, and the wiring of its parts."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.positions import FactorizedPositions, LearnedPositions
from selfie_tf.layers.resnet import ResNetV2
from selfie_tf.losses import l2_penalty
from selfie_tf.optimizers import apply_gradients


class TrainableModel(keras.Model):
    """A Keras model whose training step adds L2, and counts steps that are not finite.

    A subclass sets `_arguments` (those of its constructor), calls `_make_metrics`, and has
    `loss_and_accuracy`.

    Steps are traced without AutoGraph: nothing in the models is Python control flow over tensors,
    and rewriting each layer's source only takes time.
    """

    def _make_metrics(self, accuracy: str, weight_decay: float) -> None:
        """`accuracy` is the metric's name, `weight_decay` the factor of the L2 penalty."""
        self.weight_decay = weight_decay
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.accuracy_metric = keras.metrics.Mean(name=accuracy)
        self.l2_metric = keras.metrics.Mean(name="l2")
        self.gradient_norm_metric = keras.metrics.Mean(name="gradient_norm")
        self.nonfinite_metric = keras.metrics.Sum(name="nonfinite_steps")

    def loss_and_accuracy(self, data, training: bool) -> tuple:
        """(losses, accuracies) of the images of `data`, both float `[B]`."""
        raise NotImplementedError

    @property
    def metrics(self):
        return [
            self.loss_metric,
            self.accuracy_metric,
            self.l2_metric,
            self.gradient_norm_metric,
            self.nonfinite_metric,
        ]

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data) -> dict:
        """One optimizer step on the global batch."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            losses, accuracies = self.loss_and_accuracy(data, training=True)
            loss = tf.reduce_mean(losses)
            l2 = tf.zeros_like(loss)
            if self.weight_decay:  # else no pass over all the weights
                l2 = self.weight_decay * l2_penalty(self.trainable_variables)
            scaled = (loss + l2) / replicas  # gradients are summed over replicas
        norm = apply_step(self, tape, scaled)
        self.l2_metric.update_state(l2)
        self.gradient_norm_metric.update_state(norm)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        self.nonfinite_metric.update_state(1.0 - tf.cast(finite, tf.float32))
        return self._updated(losses, accuracies)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data) -> dict:
        """Loss and accuracy of a batch."""
        result = self._updated(*self.loss_and_accuracy(data, training=False))
        return {name: result[name] for name in ("loss", self.accuracy_metric.name)}

    def predict_step(self, data) -> tf.Tensor:
        return self(data, training=False)

    def _updated(self, losses, accuracies):
        self.loss_metric.update_state(losses)
        self.accuracy_metric.update_state(accuracies)
        return {metric.name: metric.result() for metric in self.metrics}

    def get_config(self):
        return {**super().get_config(), **self._arguments}


def apply_step(model: keras.Model, tape: tf.GradientTape, scaled_loss: tf.Tensor) -> tf.Tensor:
    """One optimizer step of `model`; call it in replica context.

    Args:
      model: compiled.
      tape: that recorded `scaled_loss`.
      scaled_loss: scalar; the replica's mean loss over the number of replicas, as gradients are
        summed over these.

    Returns:
      the gradient's global norm, a scalar.
    """
    gradients = tape.gradient(scaled_loss, model.trainable_variables)
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        gradients = tf.distribute.get_replica_context().all_reduce("sum", gradients)
    apply_gradients(model.optimizer, gradients, model.trainable_variables)
    return tf.linalg.global_norm(gradients)


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
