"""Cutting images into patches and splitting the patches, as pure tensor functions (section 2.1).

All of them run eagerly and inside tf.data, with static shapes.
"""

import tensorflow as tf


def patchify(images: tf.Tensor, size: int) -> tf.Tensor:
    """Cuts images into non-overlapping square patches, row by row.

    Args:
      images: `[..., H, W, C]`, any dtype; H and W static and divisible by `size`.
      size: side of a patch in pixels.

    Returns:
      `[..., (H/size) * (W/size), size, size, C]`, the dtype of `images`.

    Raises:
      ValueError: if H or W is not divisible by `size`.
    """
    *_, height, width, channels = images.shape
    if height % size or width % size:
        raise ValueError(f"images of {height}x{width} cannot be cut into patches of {size}x{size}")
    rows, columns = height // size, width // size
    lead = tf.shape(images)[:-3]
    n = len(images.shape) - 3
    x = tf.reshape(images, tf.concat([lead, [rows, size, columns, size, channels]], 0))
    x = tf.transpose(x, [*range(n), n, n + 2, n + 1, n + 3, n + 4])  # [..., rows, columns, p, p, C]
    x = tf.reshape(x, tf.concat([lead, [rows * columns, size, size, channels]], 0))
    return tf.ensure_shape(x, [*images.shape[:-3], rows * columns, size, size, channels])


def unpatchify(patches: tf.Tensor, rows: int) -> tf.Tensor:
    """Puts patches back into images: the inverse of `patchify`.

    Args:
      patches: `[..., N, p, p, C]`, row by row, N divisible by `rows`.
      rows: rows of the grid.

    Returns:
      `[..., rows * p, (N / rows) * p, C]`.

    Raises:
      ValueError: if N is not divisible by `rows`.
    """
    *_, count, size, _, channels = patches.shape
    if count % rows:
        raise ValueError(f"{count} patches cannot fill a grid of {rows} rows")
    columns = count // rows
    lead = tf.shape(patches)[:-4]
    n = len(patches.shape) - 4
    x = tf.reshape(patches, tf.concat([lead, [rows, columns, size, size, channels]], 0))
    x = tf.transpose(x, [*range(n), n, n + 2, n + 1, n + 3, n + 4])  # [..., rows, p, columns, p, C]
    x = tf.reshape(x, tf.concat([lead, [rows * size, columns * size, channels]], 0))
    return tf.ensure_shape(x, [*patches.shape[:-4], rows * size, columns * size, channels])


def random_split(num_patches: int, num_context: int, seed: tf.Tensor) -> tuple:
    """Draws which patches the encoder sees and which are hidden.

    Args:
      num_patches: N.
      num_context: C, of the N.
      seed: int `[2]`; the split is a function of it.

    Returns:
      context positions int32 `[C]` and target positions int32 `[N - C]`, in random order, together
      every position exactly once.
    """
    order = tf.random.experimental.stateless_shuffle(tf.range(num_patches), seed)
    context, target = order[:num_context], order[num_context:]
    return (
        tf.ensure_shape(context, [num_context]),
        tf.ensure_shape(target, [num_patches - num_context]),
    )


def split_image(image: tf.Tensor, size: int, num_context: int, seed: tf.Tensor) -> dict:
    """One image as the model's input: its patches, split at random, with their positions.

    Args:
      image: uint8 `[H, W, 3]`.
      size: side p of a patch in pixels.
      num_context: C.
      seed: int `[2]`.

    Returns:
      dict of `context_patches` uint8 `[C, p, p, 3]`, `context_positions` int32 `[C]`,
      `target_patches` uint8 `[T, p, p, 3]`, `target_positions` int32 `[T]`.
    """
    patches = patchify(image, size)  # [N, p, p, 3]
    context, target = random_split(patches.shape[0], num_context, seed)
    return {
        "context_patches": tf.gather(patches, context),
        "context_positions": context,
        "target_patches": tf.gather(patches, target),
        "target_positions": target,
    }
