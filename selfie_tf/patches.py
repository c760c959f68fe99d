"""Cutting images into patches, and hiding some of them: pure functions of tensors.

They run eagerly and inside tf.data, and their results have static shapes.
"""

import tensorflow as tf


def patchify(images: tf.Tensor, size: int) -> tf.Tensor:
    """Cuts images into non-overlapping square patches, row by row.

    Args:
      images: `[..., H, W, C]`, of any dtype. H and W are static and divisible by `size`.
      size: Side p of a patch in pixels.

    Returns:
      `[..., (H / p) * (W / p), p, p, C]`, with the dtype of `images`.

    Raises:
      ValueError: If H or W is not divisible by `size`.
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
    """Puts patches back together to images, the inverse of `patchify`.

    Args:
      patches: `[..., N, p, p, C]`, row by row. N is divisible by `rows`.
      rows: Rows of the grid.

    Returns:
      `[..., rows * p, (N / rows) * p, C]`.

    Raises:
      ValueError: If N is not divisible by `rows`.
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
    """Draws which patches stay visible and which are hidden.

    Args:
      num_patches: Number of patches, N.
      num_context: Number of visible patches, C.
      seed: int `[2]`. The split depends on nothing else.

    Returns:
      The positions of the visible patches, int32 `[C]`, and of the hidden ones, int32 `[N - C]`,
      both in random order. Each position is in exactly one of them.
    """
    order = tf.random.experimental.stateless_shuffle(tf.range(num_patches), seed)
    context, target = order[:num_context], order[num_context:]
    return (
        tf.ensure_shape(context, [num_context]),
        tf.ensure_shape(target, [num_patches - num_context]),
    )


def split_image(image: tf.Tensor, size: int, num_context: int, seed: tf.Tensor) -> dict:
    """Turns an image into Selfie's input: its patches and their positions, split at random.

    Args:
      image: uint8 `[H, W, 3]`.
      size: Side p of a patch in pixels.
      num_context: Number of visible patches, C; the other T are hidden.
      seed: int `[2]`, see `random_split`.

    Returns:
      A dict of `context_patches` uint8 `[C, p, p, 3]`, `context_positions` int32 `[C]`,
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


def random_block_split(grid: int, block: int, num_cells: int, seed: tf.Tensor) -> tuple:
    """Draws which patches are hidden, in square blocks (PatchFormer, section 2.1).

    The mask is drawn on a coarse grid of cells and upsampled to the grid of patches (nearest
    neighbour), so hidden areas are contiguous.

    Args:
      grid: Patches per side of the image.
      block: Patches per side of a cell; must divide `grid`.
      num_cells: Number of cells to hide, out of (grid / block)**2.
      seed: int `[2]`. The split depends on nothing else.

    Returns:
      The positions of the visible patches, int32 `[C]`, and of the hidden ones, int32 `[T]`, both
      ascending. T is num_cells * block**2, and C is grid**2 - T.

    Raises:
      ValueError: If `block` does not divide `grid`.
    """
    if grid % block:
        raise ValueError(f"a grid of {grid}x{grid} patches cannot be masked in blocks of {block}")
    side = grid // block
    shown, hidden = random_split(side**2, side**2 - num_cells, seed)

    def upsample(cells):  # [n] -> [n * block**2]
        corner = (cells // side) * block * grid + (cells % side) * block
        offsets = tf.range(block)[:, None] * grid + tf.range(block)  # [block, block]
        positions = corner[:, None] + tf.reshape(offsets, [1, block**2])
        return tf.sort(tf.reshape(positions, [cells.shape[0] * block**2]))

    return upsample(shown), upsample(hidden)


def gray_levels(patches: tf.Tensor, bits: int) -> tf.Tensor:
    """Quantises pixels to a few levels of grey (PatchFormer, section 2.1).

    Args:
      patches: uint8 `[..., 3]`.
      bits: How many of the grey value's most significant bits are kept, 1 to 8.

    Returns:
      int32 `[...]` in [0, 2**bits): the Rec. 601 luma of `tf.image.rgb_to_grayscale`, a byte,
      divided by 2**(8 - bits) and rounded down.
    """
    gray = tf.image.rgb_to_grayscale(patches)[..., 0]
    return tf.cast(gray, tf.int32) // 2 ** (8 - bits)


def shrink(patches: tf.Tensor, size: int, how: str) -> tf.Tensor:
    """Reduces every patch to `size` x `size` pixels.

    Args:
      patches: `[..., p, p, C]`, of any dtype.
      size: Side of the result in pixels, at most p. With "subsample" it must divide p.
      how: "center_crop" keeps the middle of the patch; "subsample" keeps one pixel in p / size, in
        rows and in columns.

    Returns:
      `[..., size, size, C]`.

    Raises:
      ValueError: If `how` is unknown, or `size` does not fit p.
    """
    side = patches.shape[-2]
    if how == "center_crop" and size <= side:
        first = (side - size) // 2
        return patches[..., first : first + size, first : first + size, :]
    if how == "subsample" and side % size == 0:
        return patches[..., :: side // size, :: side // size, :]
    raise ValueError(f"patches of {side}x{side} cannot be shrunk to {size}x{size} by {how!r}")


def mask_image(
    image: tf.Tensor,
    size: int,
    block: int,
    num_cells: int,
    target_size: int,
    target: str,
    bits: int,
    seed: tf.Tensor,
) -> dict:
    """Turns an image into PatchFormer's input: visible patches, and grey levels to predict.

    Args:
      image: uint8 `[S, S, 3]`.
      size: Side p of a patch in pixels.
      block, num_cells: The size and number of hidden cells, see `random_block_split`.
      target_size, target: How a hidden patch is reduced to s x s pixels, see `shrink`.
      bits: Bits per pixel of the grey levels, see `gray_levels`.
      seed: int `[2]`, see `random_block_split`.

    Returns:
      A dict of `context_patches` uint8 `[C, p, p, 3]`, `context_positions` int32 `[C]`,
      `target_positions` int32 `[T]`, `target_levels` int32 `[T, s, s]`.
    """
    grid = image.shape[0] // size
    patches = patchify(image, size)  # [N, p, p, 3]
    context, target_positions = random_block_split(grid, block, num_cells, seed)
    hidden = shrink(tf.gather(patches, target_positions), target_size, target)
    return {
        "context_patches": tf.gather(patches, context),
        "context_positions": context,
        "target_positions": target_positions,
        "target_levels": gray_levels(hidden, bits),
    }
