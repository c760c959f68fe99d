"""Contrastive classification of hidden patches, classification of pixels and of images, L2."""

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


def classification_loss(
    logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Softmax cross-entropy of every image, or pixel.

    Args:
      logits: float32 `[..., K]`.
      labels: int `[...]`; -1 is no label.
      label_smoothing: part of the probability that is spread evenly over all K classes.

    Returns:
      float32 `[...]`, in nats; 0 where there is no label.
    """
    truth = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if label_smoothing:
        even = tf.reduce_sum(truth, axis=-1, keepdims=True) / logits.shape[-1]
        truth = (1 - label_smoothing) * truth + label_smoothing * even
    return -tf.reduce_sum(truth * tf.nn.log_softmax(logits), axis=-1)


def pixel_accuracy(logits: tf.Tensor, levels: tf.Tensor) -> tf.Tensor:
    """Part of an image's hidden pixels whose level is answered rightly.

    Args:
      logits: `[B, T, s, s, K]`.
      levels: int32 `[B, T, s, s]`.

    Returns:
      float32 `[B]`.
    """
    answers = tf.argmax(logits, axis=-1, output_type=levels.dtype)
    return tf.reduce_mean(tf.cast(answers == levels, tf.float32), axis=[1, 2, 3])


def top_k(logits: tf.Tensor, labels: tf.Tensor, k: int) -> tf.Tensor:
    """Whether the label is among the k largest logits; equal logits rank by class number.

    Args:
      logits: `[B, K]`.
      labels: int `[B]`; -1 is among none.

    Returns:
      float32 `[B]` of 0 and 1.
    """
    best = tf.math.top_k(logits, k).indices  # [B, k]
    hits = best == tf.cast(labels, best.dtype)[:, None]
    return tf.cast(tf.reduce_any(hits, axis=-1), tf.float32)


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
