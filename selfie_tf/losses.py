"""Losses and accuracies: of hidden patches, of pixels and of images; and the L2 penalty."""

import tensorflow as tf


def patch_classification_loss(logits: tf.Tensor) -> tf.Tensor:
    """Computes Selfie's loss (section 2.1): which hidden patch belongs at each hidden position?

    It is the cross-entropy of a choice among the T hidden patches of the same image. Patches and
    positions are in the same random order, so patch t is the right one at position t.

    Args:
      logits: float32 `[B, T, T]`. `[b, t, j]` scores patch j at position t.

    Returns:
      float32 `[B]`, in nats, averaged over an image's T positions.
    """
    return -tf.reduce_mean(tf.linalg.diag_part(tf.nn.log_softmax(logits)), axis=-1)


def patch_accuracy(logits: tf.Tensor) -> tf.Tensor:
    """Computes the fraction of an image's hidden positions where the right patch is chosen.

    Args:
      logits: `[B, T, T]`, as in `patch_classification_loss`.

    Returns:
      float32 `[B]`; chance is 1/T.
    """
    positions = tf.range(tf.shape(logits)[1], dtype=tf.int32)
    chosen = tf.argmax(logits, axis=-1, output_type=tf.int32)  # [B, T]
    return tf.reduce_mean(tf.cast(chosen == positions, tf.float32), axis=-1)


def classification_loss(
    logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Computes the softmax cross-entropy of each image, or of each pixel.

    Args:
      logits: float32 `[..., K]`.
      labels: int `[...]`; -1 means that there is no label.
      label_smoothing: Fraction of the probability that is spread evenly over all K classes.

    Returns:
      float32 `[...]`, in nats; 0 where there is no label.
    """
    truth = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if label_smoothing:
        even = tf.reduce_sum(truth, axis=-1, keepdims=True) / logits.shape[-1]
        truth = (1 - label_smoothing) * truth + label_smoothing * even
    return -tf.reduce_sum(truth * tf.nn.log_softmax(logits), axis=-1)


def pixel_accuracy(logits: tf.Tensor, levels: tf.Tensor) -> tf.Tensor:
    """Computes the fraction of an image's hidden pixels whose grey level is predicted correctly.

    Args:
      logits: `[B, T, s, s, K]`.
      levels: int32 `[B, T, s, s]`.

    Returns:
      float32 `[B]`.
    """
    predicted = tf.argmax(logits, axis=-1, output_type=levels.dtype)
    return tf.reduce_mean(tf.cast(predicted == levels, tf.float32), axis=[1, 2, 3])


def top_k(logits: tf.Tensor, labels: tf.Tensor, k: int) -> tf.Tensor:
    """Tells whether the label is among the k largest logits.

    Args:
      logits: `[B, K]`. Of equal logits, the one of the lower class counts as larger.
      labels: int `[B]`; -1 is never among them.

    Returns:
      float32 `[B]`, 1 where it is and 0 where it is not.
    """
    best = tf.math.top_k(logits, k).indices  # [B, k]
    hits = best == tf.cast(labels, best.dtype)[:, None]
    return tf.cast(tf.reduce_any(hits, axis=-1), tf.float32)


def l2_penalty(variables) -> tf.Tensor:
    """Computes half the sum of squares of all kernels.

    Biases, embeddings, and the scales and offsets of normalisations are left out. The paper
    (section 3.2) only gives the factor of the penalty.

    Args:
      variables: Variables; those whose own name is `kernel` count.

    Returns:
      float32 scalar. Its gradient with respect to a kernel is the kernel itself.
    """
    kernels = [v for v in variables if v.name.rsplit("/", 1)[-1].split(":")[0] == "kernel"]
    return tf.add_n([tf.nn.l2_loss(v) for v in kernels])
