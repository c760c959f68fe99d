"""The part of a training step that every model shares."""

import tensorflow as tf
import tf_keras as keras


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
    model.optimizer.apply_gradients(
        zip(gradients, model.trainable_variables), skip_gradients_aggregation=True
    )
    return tf.linalg.global_norm(gradients)
