"""Cutting images into patches, splitting and masking them, as pure tensor functions.

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


def random_block_split(grid: int, block: int, num_cells: int, seed: tf.Tensor) -> tuple:
    """Draws which patches are hidden, in blocks (PatchFormer, section 2.1).

    The mask is drawn on a coarse grid of cells and upsampled to the patch grid by nearest
    neighbour, so that what is hidden is contiguous.

    Args:
      grid: patches a side.
      block: patches a side of a cell; must divide `grid`.
      num_cells: cells to hide, of the (grid / block)**2.
      seed: int `[2]`; the split is a function of it.

    Returns:
      context positions int32 `[C]` and target positions int32 `[T]`, T = num_cells * block**2 and
      C = grid**2 - T, both ascending, together every position exactly once.

    Raises:
      ValueError: if `block` does not divide `grid`.
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
    """Quantises pixels to their most significant bits of grey (PatchFormer, section 2.1).

    Args:
      patches: uint8 `[..., 3]`.
      bits: 1 to 8.

    Returns:
      int32 `[...]` in [0, 2**bits): Rec. 601 luma, rounded to a byte as
      `tf.image.rgb_to_grayscale` does, divided by 2**(8 - bits).
    """
    gray = tf.image.rgb_to_grayscale(patches)[..., 0]
    return tf.cast(gray, tf.int32) // 2 ** (8 - bits)


def shrink(patches: tf.Tensor, size: int, how: str) -> tf.Tensor:
    """Leaves `size` x `size` pixels of every patch.

    Args:
      patches: `[..., p, p, C]`, any dtype.
      size: at most p; must divide it to "subsample".
      how: "center_crop", the middle pixels, or "subsample", every (p / size)-th pixel.

    Returns:
      `[..., size, size, C]`.

    Raises:
      ValueError: if `how` is another, or `size` does not fit p.
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
    """One image as PatchFormer's input: the visible patches, and the grey levels of the hidden.

    Args:
      image: uint8 `[S, S, 3]`.
      size: side p of a patch in pixels.
      block, num_cells: of the mask, see `random_block_split`.
      target_size, target: what is left of each hidden patch, see `shrink`.
      bits: of the levels, see `gray_levels`.
      seed: int `[2]`.

    Returns:
      dict of `context_patches` uint8 `[C, p, p, 3]`, `context_positions` int32 `[C]`,
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
