"""The contrastive classification among an image's own hidden patches (section 2.1)."""

import tensorflow as tf


def patch_classification_loss(logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of choosing, for hidden place t, the hidden patch t of the same image.

    The order of an image's hidden patches is drawn at random and the same for places and patches,
    so the true class of row t is t.

    Args:
      logits: float32 `[B, T, T]`; `[b, t, j]` scores patch j at place t.

    Returns:
      float32 `[B]`, the mean over an image's T places.
    """
    return -tf.reduce_mean(tf.linalg.diag_part(tf.nn.log_softmax(logits)), axis=-1)


def patch_accuracy(logits: tf.Tensor) -> tf.Tensor:
    """Part of an image's hidden places whose patch is chosen rightly.

    Args:
      logits: `[B, T, T]`, as in `patch_classification_loss`.

    Returns:
      float32 `[B]`; chance is 1/T.
    """
    places = tf.range(tf.shape(logits)[1], dtype=tf.int32)
    chosen = tf.argmax(logits, axis=-1, output_type=tf.int32)  # [B, T]
    return tf.reduce_mean(tf.cast(chosen == places, tf.float32), axis=-1)


def l2_penalty(variables) -> tf.Tensor:
    """Half the sum of squares of the kernels among `variables`.

    Biases, embeddings and the scales and offsets of normalisations are left out (the paper,
    section 3.2, gives the magnitude only).

    Args:
      variables: iterable of variables; those whose own name is `kernel` count.

    Returns:
      float32 scalar; its gradient is the kernel itself.
    """
    kernels = [v for v in variables if v.name.rsplit("/", 1)[-1].split(":")[0] == "kernel"]
    return tf.add_n([tf.nn.l2_loss(v) for v in kernels])
