"""Crops of one image: resized, padded, random."""

import tensorflow as tf

# The pixels of the margin. `normalize` maps 127.5 to 0.
_MARGIN = {"zeros": 0, "mean": 128}


def resize_and_center(image: tf.Tensor, size: int, fraction: float = 1.0) -> tf.Tensor:
    """Cuts out the central square and scales it.

    Args:
      image: uint8 `[h, w, 3]`.
      size: Side of the result in pixels.
      fraction: Side of the square, as a fraction of the image's shorter side.

    Returns:
      uint8 `[size, size, 3]`.
    """
    if image.shape[:2] == (size, size) and fraction == 1:
        return image
    shape = tf.shape(image)
    side = tf.minimum(shape[0], shape[1])
    side = tf.cast(tf.round(tf.cast(side, tf.float64) * fraction), tf.int32)
    square = tf.image.crop_to_bounding_box(
        image, (shape[0] - side) // 2, (shape[1] - side) // 2, side, side
    )
    # Scaling to the same size changes nothing but takes as long as any other scaling.
    square = tf.cond(side == size, lambda: square, lambda: _resize(square, size))
    return tf.ensure_shape(square, [size, size, 3])


def pad_and_crop(image: tf.Tensor, pad: int, seed: tf.Tensor, mode: str = "zeros") -> tf.Tensor:
    """Makes an image larger by `pad` pixels on each side and crops back at a random offset.

    Section 2.1 pads with zeros. Zeros before normalisation are black; zeros after it, which is what
    most code for CIFAR-10 pads with, are mid-grey. Both leave a margin in the patches of the edge,
    which tells where they belong.

    Args:
      image: uint8 `[S, S, 3]`.
      pad: Pixels on each side.
      seed: int `[2]`. The offset depends on nothing else, and is the same in all modes.
      mode: "zeros" pads with black; "mean" with mid-grey, which normalisation maps to 0; "reflect"
        mirrors the image at its edges; "enlarge" scales the image to S + 2 * `pad` pixels.

    Returns:
      uint8 `[S, S, 3]`.
    """
    margin = [[pad, pad], [pad, pad], [0, 0]]
    if mode == "enlarge":
        padded = _resize(image, image.shape[0] + 2 * pad)
    elif mode == "reflect":
        padded = tf.pad(image, margin, "REFLECT")
    else:
        padded = tf.pad(image, margin, constant_values=_MARGIN[mode])
    return tf.ensure_shape(tf.image.stateless_random_crop(padded, image.shape, seed), image.shape)


def random_resized_crop(image: tf.Tensor, size: int, min_area: float, seed: tf.Tensor) -> tf.Tensor:
    """Cuts out a random rectangle, of aspect ratio 3/4 to 4/3, and scales it to a square.

    Args:
      image: uint8 `[h, w, 3]`.
      size: Side of the result in pixels.
      min_area: Smallest fraction of the image's area to keep, in (0, 1].
      seed: int `[2]`.

    Returns:
      uint8 `[size, size, 3]`.
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(min_area, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
        min_object_covered=0.0,
    )
    return _resize(tf.slice(image, begin, extent), size)


def _resize(image, size):
    image = tf.image.resize(image, [size, size], antialias=True)
    image = tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)
    return tf.ensure_shape(image, [size, size, 3])


def training_image(image: tf.Tensor, config, seed: tf.Tensor) -> tf.Tensor:
    """Crops one training image as `config.data.crop` says, to uint8 `[S, S, 3]`."""
    data = config.data
    if data.crop == "random_resized":
        return random_resized_crop(image, data.image_size, data.min_crop_area, seed)
    image = resize_and_center(image, data.image_size)
    if data.crop == "center":
        return image
    return pad_and_crop(image, config.patches.pad, seed, data.pad_mode)
