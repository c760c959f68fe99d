"""The training step that every model shares."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.losses import l2_penalty
from selfie_tf.optimizers import apply_gradients


class StepModel(keras.Model):
    """A Keras model whose training step adds L2, and counts steps that are not finite.

    A subclass sets `_arguments` (those of its constructor), calls `_make_metrics`, and has
    `outcomes`.

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

    def outcomes(self, data, training: bool) -> tuple:
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
            losses, accuracies = self.outcomes(data, training=True)
            loss = tf.reduce_mean(losses)
            l2 = tf.zeros_like(loss)
            if self.weight_decay:  # else no pass over all the weights
                l2 = self.weight_decay * l2_penalty(self.trainable_variables)
            scaled = (loss + l2) / replicas  # gradients are summed over replicas
        norm = descend(self, tape, scaled)
        self.l2_metric.update_state(l2)
        self.gradient_norm_metric.update_state(norm)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        self.nonfinite_metric.update_state(1.0 - tf.cast(finite, tf.float32))
        return self._updated(losses, accuracies)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data) -> dict:
        """Loss and accuracy of a batch."""
        result = self._updated(*self.outcomes(data, training=False))
        return {name: result[name] for name in ("loss", self.accuracy_metric.name)}

    def predict_step(self, data) -> tf.Tensor:
        return self(data, training=False)

    def _updated(self, losses, accuracies):
        self.loss_metric.update_state(losses)
        self.accuracy_metric.update_state(accuracies)
        return {metric.name: metric.result() for metric in self.metrics}

    def get_config(self):
        return {**super().get_config(), **self._arguments}


def descend(model: keras.Model, tape: tf.GradientTape, scaled_loss: tf.Tensor) -> tf.Tensor:
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
