"""Images to batches of patches, in tf.data on the host (section 2.1 of both papers).

Everything random is a function of (seed, position), see `sources`; nothing keeps state.
"""

import tensorflow as tf

from selfie_tf.data.augment import augment_patches
from selfie_tf.data.sources import Rows
from selfie_tf.patches import mask_image, split_image


def resize_and_center(image: tf.Tensor, size: int, part: float = 1.0) -> tf.Tensor:
    """Cuts out the central square and scales it.

    Args:
      image: uint8 `[h, w, 3]`.
      size: of the result in pixels.
      part: side of the square, as a part of the image's shorter side.

    Returns:
      uint8 `[size, size, 3]`.
    """
    if image.shape[:2] == (size, size) and part == 1:
        return image
    shape = tf.shape(image)
    side = tf.minimum(shape[0], shape[1])
    side = tf.cast(tf.round(tf.cast(side, tf.float64) * part), tf.int32)
    image = tf.image.crop_to_bounding_box(
        image, (shape[0] - side) // 2, (shape[1] - side) // 2, side, side
    )
    return _resize(image, size)


def pad_and_crop(image: tf.Tensor, pad: int, seed: tf.Tensor) -> tf.Tensor:
    """Pads with `pad` zero pixels on each side and crops back at a random place (section 2.1)."""
    padded = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]])
    return tf.ensure_shape(tf.image.stateless_random_crop(padded, image.shape, seed), image.shape)


def random_resized_crop(image: tf.Tensor, size: int, min_area: float, seed: tf.Tensor) -> tf.Tensor:
    """A random rectangle of the image, its aspect from 3/4 to 4/3, scaled to a square.

    Args:
      image: uint8 `[h, w, 3]`.
      size: of the result in pixels.
      min_area: least part of the image's area, in (0, 1].
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
    """One training image, cropped as `config.data.crop` says: uint8 `[S, S, 3]`."""
    data = config.data
    if data.crop == "random_resized":
        return random_resized_crop(image, data.image_size, data.min_crop_area, seed)
    image = resize_and_center(image, data.image_size)
    return pad_and_crop(image, config.patches.pad, seed) if data.crop == "pad" else image


def selfie_input(image: tf.Tensor, config, seed: tf.Tensor, training: bool) -> dict:
    """One image as `SelfiePretrainer`'s input, see `patches.split_image`."""
    return split_image(image, config.patches.size, config.num_context, seed)


def patchformer_input(image: tf.Tensor, config, seed: tf.Tensor, training: bool) -> dict:
    """One image as `PatchFormerPretrainer`'s input, see `patches.mask_image`.

    In training the visible patches get noise, as `config.augment` says; targets never do. Else
    there is `original` uint8 `[S, S, 3]` besides, for pictures.
    """
    p = config.patches
    cells, size = config.num_hidden_cells, p.target_size
    x = mask_image(image, p.size, p.mask_block, cells, size, p.target, p.target_bits, seed)
    if not training:
        return {**x, "original": image}
    noise = tf.random.experimental.stateless_fold_in(seed, 1)
    return {**x, "context_patches": augment_patches(x["context_patches"], config.augment, noise)}


_INPUTS = {"selfie": selfie_input, "patchformer": patchformer_input}


def training_batches(
    source, config, start_step: int = 0, rows: Rows | None = None, batch_size: int = 0
) -> tf.data.Dataset:
    """Endless batches of the model's input, from step `start_step` on.

    Args:
      source: see `sources.make_source`.
      config: a `config.Config` or `config.PatchFormerConfig`.
      start_step: the first batch is that of this step.
      rows: the part of every global batch to yield; default all of it.
      batch_size: rows of one element, a divisor of `rows.count`; default all of them.

    Returns:
      a dataset of dicts, see `SelfiePretrainer.call` and `PatchFormerPretrainer.call`; static
      shapes.
    """
    rows = rows or Rows(config.train.batch_size)
    seed, model_input = config.train.seed, _INPUTS[config.method]

    def cut(position, image, _):
        # Two streams of random numbers an image: even for the crop, odd for the split.
        stream = tf.stack([tf.constant(seed, tf.int64), 2 * position])
        image = training_image(image, config, stream)
        return model_input(image, config, stream + [0, 1], training=True)

    images = source.train_images(seed, start_step, rows)
    return _batch(images.map(cut, num_parallel_calls=tf.data.AUTOTUNE), batch_size or rows.count)


def labelled_batches(
    source, config, start_step: int = 0, rows: Rows | None = None, batch_size: int = 0
) -> tf.data.Dataset:
    """As `training_batches`, for finetuning: (images uint8 `[b, S, S, 3]`, labels int64 `[b]`).

    `config` is a `config.FinetuneConfig`; images are cropped and mirrored as it says.
    """
    rows = rows or Rows(config.train.batch_size)
    seed = config.train.seed

    def augment(position, image, label):
        stream = tf.stack([tf.constant(seed, tf.int64), 2 * position])
        image = training_image(image, config, stream)
        if config.data.flip:
            image = tf.image.stateless_random_flip_left_right(image, stream + [0, 1])
        return image, label

    images = source.train_images(seed, start_step, rows)
    images = images.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return _batch(images, batch_size or rows.count)


def test_batches(source, config, rows: Rows, batch_size: int = 0) -> tf.data.Dataset:
    """All held-out images with their labels, each once, as `labelled_batches`.

    The last batch is filled up with black images of label -1, so that shapes are static and every
    pipeline yields as many.
    """
    size, held_out = config.data.image_size, source.num_held_out

    def square(_, image, label):
        return resize_and_center(image, size, config.data.test_crop), label

    images = source.held_out_images(rows).map(square, num_parallel_calls=tf.data.AUTOTUNE)
    black = tf.zeros([size, size, 3], tf.uint8), tf.constant(-1, tf.int64)
    batches = -(-held_out // rows.batch_size)
    missing = batches * rows.count - rows.among(held_out)
    filler = tf.data.Dataset.from_tensors(black).repeat(missing)
    return _batch(images.concatenate(filler), batch_size or rows.count)


def _batch(elements, batch_size):
    batches = elements.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options)


def held_out_batches(
    source, config, batch_size: int, limit: int, crop: bool = True
) -> tf.data.Dataset:
    """Batches of the first held-out images, their crop and split fixed by the image alone.

    Patches get no noise.

    Args:
      source, config: as in `training_batches`.
      batch_size: the last batch may be smaller.
      limit: number of images.
      crop: whether they are cropped as training images are; else the central square is taken.

    Returns:
      a dataset of dicts, as `training_batches`.
    """

    def cut(index, image, _):
        # The same crop and hidden places in every run, whatever its seed; -1 is no run's seed.
        stream = tf.stack([tf.constant(-1, tf.int64), 2 * index])
        if crop:
            image = training_image(image, config, stream)
        else:
            image = resize_and_center(image, config.data.image_size)
        return model_input(image, config, stream + [0, 1], training=False)

    model_input = _INPUTS[config.method]
    images = source.held_out_images().take(limit)
    return images.map(cut, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)
