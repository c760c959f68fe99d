"""Crops of one image: resized, padded, random."""

import tensorflow as tf


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
    image = tf.image.crop_to_bounding_box(
        image, (shape[0] - side) // 2, (shape[1] - side) // 2, side, side
    )
    return _resize(image, size)


def pad_and_crop(image: tf.Tensor, pad: int, seed: tf.Tensor) -> tf.Tensor:
    """Pads each side with `pad` zero pixels and crops back at a random offset (section 2.1)."""
    padded = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]])
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
    return pad_and_crop(image, config.patches.pad, seed) if data.crop == "pad" else image
