"""Images to batches of patches, in tf.data on the host (section 2.1 of both papers).

Everything random is a function of (seed, position), see `source`; nothing keeps state.
"""

import tensorflow as tf

from selfie_tf.data.crops import resize_and_center, training_image
from selfie_tf.data.source import BatchShard, without_autotuning


def training_batches(
    source,
    config,
    make_input,
    make_views,
    start_step: int = 0,
    shard: BatchShard | None = None,
    batch_size: int = 0,
) -> tf.data.Dataset:
    """Makes endless batches of a pretraining model's input.

    Args:
      source: See `data.make_source`.
      config: A `config.PretrainConfig`.
      make_input: A function from an image to the model's input, see `methods.Method.make_input`.
      make_views: A function from the uncropped image to more of it, see `Method.make_views`.
      start_step: The step of the first batch.
      shard: The rows of every global batch to yield; all of them by default.
      batch_size: Rows per element, a divisor of `shard.count`; all of them by default.

    Returns:
      A dataset of dicts of static shape, see `SelfiePretrainer.call` and
      `PatchFormerPretrainer.call`.
    """
    shard = shard or BatchShard(config.train.batch_size)
    inputs = training_inputs(source, config, make_input, make_views, start_step, shard)
    return _batch(inputs, batch_size or shard.count)


def training_inputs(
    source, config, make_input, make_views, start_step: int, shard: BatchShard
) -> tf.data.Dataset:
    """Makes what `training_batches` puts into batches: a dict per image."""
    seed = config.train.seed

    def cut(position, image, _):
        # Two streams of random numbers per image: even for the crop, odd for the split.
        stream = tf.stack([tf.constant(seed, tf.int64), 2 * position])
        views = make_views(image, config, stream + [0, 1])
        image = training_image(image, config, stream)
        return {**make_input(image, config, stream + [0, 1], training=True), **views}

    images = source.train_images(seed, start_step, shard)
    return images.map(cut, num_parallel_calls=tf.data.AUTOTUNE)


def held_out_batches(
    source, config, make_input, batch_size: int, limit: int, crop: bool = True
) -> tf.data.Dataset:
    """Makes batches of the first held-out images, without noise.

    The crop and the hidden patches of an image depend on nothing else, so that runs compare.

    Args:
      source, config, make_input: As in `training_batches`.
      batch_size: Images per batch; the last batch may be smaller.
      limit: Number of images, at most.
      crop: Whether to crop as in training; otherwise the central square is taken.

    Returns:
      A dataset of dicts, as `training_batches`.
    """

    def cut(index, image, _):
        # The same crop and hidden positions for every seed; -1 is no run's seed.
        stream = tf.stack([tf.constant(-1, tf.int64), 2 * index])
        if crop:
            image = training_image(image, config, stream)
        else:
            image = resize_and_center(image, config.data.image_size)
        return make_input(image, config, stream + [0, 1], training=False)

    images = source.held_out_images().take(limit)
    images = images.map(cut, num_parallel_calls=tf.data.AUTOTUNE)
    return without_autotuning(images.batch(batch_size))


def labelled_batches(
    source, config, start_step: int = 0, shard: BatchShard | None = None, batch_size: int = 0
) -> tf.data.Dataset:
    """Makes endless batches for finetuning; images are cropped and mirrored.

    Args:
      config: A `config.FinetuneConfig`.
      source, start_step, shard, batch_size: As in `training_batches`.

    Returns:
      A dataset of (images uint8 `[b, S, S, 3]`, labels int64 `[b]`).
    """
    shard = shard or BatchShard(config.train.batch_size)
    images = labelled_inputs(source, config, start_step, shard)
    return _batch(images, batch_size or shard.count)


def labelled_inputs(source, config, start_step: int, shard: BatchShard) -> tf.data.Dataset:
    """Makes what `labelled_batches` puts into batches: an image and its label."""
    seed = config.train.seed

    def augment(position, image, label):
        stream = tf.stack([tf.constant(seed, tf.int64), 2 * position])
        image = training_image(image, config, stream)
        if config.data.flip:
            image = tf.image.stateless_random_flip_left_right(image, stream + [0, 1])
        return image, label

    images = source.train_images(seed, start_step, shard)
    return images.map(augment, num_parallel_calls=tf.data.AUTOTUNE)


def evaluation_batches(source, config, shard: BatchShard, batch_size: int = 0) -> tf.data.Dataset:
    """Makes batches of all held-out images and their labels, each once.

    The last batch is filled up with black images of label -1, so that shapes are static and all
    pipelines yield the same number of batches.

    Args:
      source, config, shard, batch_size: As in `labelled_batches`.

    Returns:
      A dataset of (images uint8 `[b, S, S, 3]`, labels int64 `[b]`).
    """
    size, held_out = config.data.image_size, source.num_held_out

    def square(_, image, label):
        return resize_and_center(image, size, config.data.test_crop), label

    images = source.held_out_images(shard).map(square, num_parallel_calls=tf.data.AUTOTUNE)
    black = tf.zeros([size, size, 3], tf.uint8), tf.constant(-1, tf.int64)
    batches = -(-held_out // shard.batch_size)
    missing = batches * shard.count - shard.among(held_out)
    filler = tf.data.Dataset.from_tensors(black).repeat(missing)
    return _batch(images.concatenate(filler), batch_size or shard.count)


def _batch(elements, batch_size):
    batches = elements.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return without_autotuning(batches).with_options(options)
