"""What all models share: the training step, and the way from pixels to P's vectors."""

import tensorflow as tf
import tf_keras as keras

from selfie_tf.layers.resnet import ResNetV2
from selfie_tf.losses import l2_penalty
from selfie_tf.optimizers import apply_gradients


class TrainableModel(keras.Model):
    """A Keras model whose training step adds L2 to the loss and counts non-finite steps.

    A subclass sets `_arguments` to the arguments of its constructor, calls `_make_metrics`, and
    implements `loss_and_accuracy`. One with more metrics overrides `measure` and `more_metrics`.

    Steps are traced without AutoGraph: no model has Python control flow over tensors, and rewriting
    the source of each layer only takes time.
    """

    def _make_metrics(self, accuracy: str, weight_decay: float) -> None:
        """Makes the metrics.

        Args:
          accuracy: Name of the accuracy metric.
          weight_decay: Factor of the L2 penalty in the loss.
        """
        self.weight_decay = weight_decay
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.accuracy_metric = keras.metrics.Mean(name=accuracy)
        self.l2_metric = keras.metrics.Mean(name="l2")
        self.gradient_norm_metric = keras.metrics.Mean(name="gradient_norm")
        self.nonfinite_metric = keras.metrics.Sum(name="nonfinite_steps")

    def apply_gradients(self, gradients: list) -> list:
        """Takes one optimizer step; call it in replica context.

        Args:
          gradients: Of all trainable variables, summed over replicas.

        Returns:
          The gradients that the step was taken with.
        """
        apply_gradients(self.optimizer, gradients, self.trainable_variables)
        return gradients

    def loss_and_accuracy(self, data, training: bool) -> tuple:
        """Measures the model on a batch.

        Args:
          data: One element of the dataset.
          training: Whether layers behave as in training.

        Returns:
          Losses and accuracies per image, both float `[B]`.
        """
        raise NotImplementedError

    def measure(self, data, training: bool) -> dict:
        """Measures all metrics of a batch.

        Args:
          data: One element of the dataset.
          training: Whether layers behave as in training.

        Returns:
          {metric: values per image, float `[B]`}; the mean of "loss" is what training minimises.
        """
        losses, accuracies = self.loss_and_accuracy(data, training)
        return {self.loss_metric.name: losses, self.accuracy_metric.name: accuracies}

    @property
    def more_metrics(self) -> list:
        """Metrics that are logged beside loss and accuracy."""
        return []

    @property
    def metrics(self):
        return [
            self.loss_metric,
            self.accuracy_metric,
            *self.more_metrics,
            self.l2_metric,
            self.gradient_norm_metric,
            self.nonfinite_metric,
        ]

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data) -> dict:
        """Takes one optimizer step on the global batch."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            measured = self.measure(data, training=True)
            loss = tf.reduce_mean(measured[self.loss_metric.name])
            l2 = tf.zeros_like(loss)
            if self.weight_decay:  # otherwise a pass over all weights is saved
                l2 = self.weight_decay * l2_penalty(self.trainable_variables)
            scaled = (loss + l2) / replicas  # gradients are summed over replicas
        norm = apply_step(self, tape, scaled)
        self.l2_metric.update_state(l2)
        self.gradient_norm_metric.update_state(norm)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        self.nonfinite_metric.update_state(1.0 - tf.cast(finite, tf.float32))
        return self._updated(measured)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data) -> dict:
        """Measures loss and accuracy of a batch."""
        measured = self.measure(data, training=False)
        result = self._updated(measured)
        return {name: result[name] for name in measured}

    def predict_step(self, data) -> tf.Tensor:
        return self(data, training=False)

    def _updated(self, measured):
        for metric in self.metrics:
            if metric.name in measured:
                metric.update_state(measured[metric.name])
        return {metric.name: metric.result() for metric in self.metrics}

    def get_config(self):
        return {**super().get_config(), **self._arguments}


def apply_step(model: TrainableModel, tape: tf.GradientTape, scaled_loss: tf.Tensor) -> tf.Tensor:
    """Takes one optimizer step; call it in replica context.

    Args:
      model: A compiled model.
      tape: The tape that recorded `scaled_loss`.
      scaled_loss: The replica's mean loss divided by the number of replicas, a scalar. Gradients
        are summed over replicas.

    Returns:
      The global norm of the gradient that was applied, a scalar.
    """
    gradients = tape.gradient(scaled_loss, model.trainable_variables)
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        gradients = tf.distribute.get_replica_context().all_reduce("sum", gradients)
    gradients = model.apply_gradients(gradients)
    return tf.linalg.global_norm(gradients)


def normalize(images: tf.Tensor, dtype) -> tf.Tensor:
    """Maps pixels from [0, 255] to [-1, 1].

    In the model and not in the input, so that bytes are what travels to the device.
    """
    return tf.cast(tf.cast(images, tf.float32) / 127.5 - 1.0, dtype)


def patch_vectors(network: ResNetV2, patches: tf.Tensor, training=None) -> tf.Tensor:
    """Computes the vector h of every patch: P's feature map, averaged.

    Args:
      network: P.
      patches: uint8, or float in [0, 255], `[B, N, p, p, 3]`.
      training: Whether batch normalisation uses the batch's statistics.

    Returns:
      `[B, N, D]` in the network's compute dtype.
    """
    count = patches.shape[1]
    x = tf.reshape(patches, [-1, *patches.shape[2:]])  # [B * N, p, p, 3]
    x = network(normalize(x, network.compute_dtype), training=training)
    x = tf.reduce_mean(x, axis=[1, 2])  # [B * N, D]
    return tf.reshape(x, [-1, count, x.shape[-1]])
