"""Losses and accuracies: of hidden patches, pixels, images and their views; the L2 penalty."""

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


def nt_xent(z1: tf.Tensor, z2: tf.Tensor, temperature: float, all_replicas: bool = False) -> tuple:
    """Compares each view of an image with all other views: SimCLR's NT-Xent (Chen et al. 2020).

    A view's logits are its cosines with all views but itself, divided by the temperature. The right
    choice is the other view of the same image.

    Args:
      z1: float32 `[B, E]`, the first view of each image.
      z2: float32 `[B, E]`, the second view.
      temperature: What cosines are divided by.
      all_replicas: Whether the views of all replicas are compared, not only those of the same one.
        Every replica must call this in replica context, with the same B. The gradient then counts
        what the views contribute to the losses of other replicas.

    Returns:
      Two float32 `[B]`, each averaged over an image's two views: the cross-entropy in nats, and
      whether the right view has the largest logit.
    """
    z = tf.math.l2_normalize(tf.concat([z1, z2], axis=0), axis=-1)  # [2B, E]
    count = tf.shape(z)[0]
    own = tf.range(count)  # the columns of these views
    others = z
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if all_replicas and replicas > 1:
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
        # The sum of blocks that are zero but for each replica's own: static shapes on TPUs, and
        # each strategy can sum.
        block = tf.one_hot(replica, replicas, dtype=z.dtype)[:, None, None] * z  # [R, 2B, E]
        others = tf.reshape(context.all_reduce("sum", block), [-1, z.shape[-1]])  # [R * 2B, E]
        own += replica * count
    logits = tf.matmul(z, others, transpose_b=True) / temperature  # [2B, 2B] or [2B, R * 2B]
    itself = tf.range(tf.shape(others)[0]) == own[:, None]
    logits = tf.where(itself, tf.constant(-1e9, z.dtype), logits)
    right = tf.roll(own, count // 2, axis=0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(right, logits)  # [2B]
    both = [tf.reshape(x, [2, -1]) for x in (losses, top_k(logits, right, 1))]  # [2, B]
    return tuple(tf.reduce_mean(x, axis=0) for x in both)


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
