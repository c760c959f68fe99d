"""The input pipeline, stage by stage, and TensorFlow's own decoder beside it."""

import copy
import itertools
import os
import time

import tensorflow as tf

from selfie_tf.benchmarks.workload import Workload
from selfie_tf.data.crops import training_image
from selfie_tf.data.decode import read_bytes
from selfie_tf.data.folder import FolderSource
from selfie_tf.data.pipeline import labelled_inputs, training_inputs
from selfie_tf.data.source import BatchShard, IndexedSource, without_autotuning
from selfie_tf.data.tfds import TFDSSource
from selfie_tf.methods import METHODS

_FILES = 500  # JPEGs that TensorFlow's own decoder is timed with
_PARALLEL = {"num_parallel_calls": tf.data.AUTOTUNE}


def stages(workload: Workload) -> dict:
    """Makes the training input up to each of its stages.

    A stage is here only if the source has it: images in memory are not decoded, records of TFDS are
    read in the order of their files, and finetuning cuts no patches.

    Args:
      workload: What is trained on.

    Returns:
      {stage: dataset}, in order: `list` (which image is next), `read` (the file or record),
      `decode` (to pixels), `augment` (crops and views), `cut` (into patches, with their noise),
      `batch`. The last is what training takes; the others have one number per image of a batch.
    """
    config, source = workload.config, workload.source
    shard = BatchShard(config.train.batch_size)
    found = {**_reading(source, config.train.seed, shard)}
    if workload.finetunes:
        found["augment"] = labelled_inputs(source, config, 0, shard)
    else:
        method = METHODS[config.method]
        for stage, make_input in (("augment", _keep), ("cut", method.make_input)):
            inputs = training_inputs(source, config, make_input, method.make_views, 0, shard)
            found[stage] = inputs
    batches = {name: _touched(images, shard.batch_size) for name, images in found.items()}
    return {**batches, "batch": workload.batches()}


def images_per_second(batches: tf.data.Dataset, batch_size: int, seconds: float) -> float:
    """Times a dataset of batches for `seconds`, and for 20 batches at least."""
    iterator = iter(batches)
    next(iterator)  # the shuffle buffer is filled
    count, start = 0, time.perf_counter()
    # Many batches in a row and their mean, not a median: a few are always ready beforehand.
    while time.perf_counter() - start < seconds or count < 20:
        next(iterator)
        count += 1
    return count * batch_size / (time.perf_counter() - start)


def tensorflow_alone(workload: Workload) -> dict:
    """Makes what TensorFlow does with a folder's JPEGs at its best, as a bound for the pipeline.

    The files are in memory, none is looked at, and no function keeps state.

    Args:
      workload: What is trained on.

    Returns:
      {"decode": dataset, "decode_crop_resize": dataset}, elements as in `stages`. The crop is that
      of the config. Empty where there are no JPEGs that TensorFlow decodes.
    """
    files = _jpegs(workload.source) if isinstance(workload.source, FolderSource) else []
    if not files:
        return {}
    config, batch_size = workload.config, workload.config.train.batch_size
    numbered = tf.data.Dataset.from_tensor_slices(files).repeat().enumerate()
    decoded = numbered.map(lambda i, file: (i, tf.io.decode_jpeg(file, channels=3)), **_PARALLEL)
    cropped = decoded.map(
        lambda i, image: training_image(image, config, tf.stack([i, i])), **_PARALLEL
    )
    return {
        "decode": _touched(decoded, batch_size),
        "decode_crop_resize": _touched(cropped, batch_size),
    }


def _keep(image, config, seed, training):
    return {"image": image}


def _reading(source, seed, shard):
    """The stages of a source, up to its images."""
    images = source.train_images(seed, 0, shard)
    if isinstance(source, TFDSSource):
        raw = copy.copy(source)
        raw.parse = lambda position, record: (position, record)
        return {"read": raw.train_images(seed, 0, shard), "decode": images}
    if not isinstance(source, IndexedSource):
        return {"decode": images}
    order = copy.copy(source)
    order._read = lambda numbers, locate, *_: numbers.map(locate, **_PARALLEL)
    order = order.train_images(seed, 0, shard)
    if isinstance(source, FolderSource):
        paths = tf.constant(_paths(source))
        files = order.map(lambda _, index: tf.io.read_file(tf.gather(paths, index)), **_PARALLEL)
        return {"list": order, "read": files, "decode": images}
    items = source._train
    if not tf.is_tensor(items) or items.dtype != tf.string:
        return {"list": order, "read": images}  # pixels in memory
    records = order.map(lambda _, index: tf.gather(items, index), **_PARALLEL)
    return {"list": order, "read": records, "decode": images}


def _paths(source):
    return [os.path.join(source.location, name) for name in source.train_ids()]


def _jpegs(source):
    """The contents of some of a folder's JPEGs."""
    found = []
    names = (p for p in _paths(source) if p.lower().endswith((".jpg", ".jpeg")))
    for path in itertools.islice(names, _FILES):
        try:
            content = read_bytes(path)
            tf.io.decode_jpeg(content, channels=3)
            found.append(content)
        except (OSError, ValueError, tf.errors.OpError):
            continue  # the pipeline skips it, too
    return found


def _touched(images, batch_size):
    """Batches of one number per image, which cannot be had without all of the image."""

    def touch(*parts):
        firsts = [
            tf.strings.length(part) if part.dtype == tf.string else tf.reshape(part, [-1])[0]
            for part in tf.nest.flatten(parts)
        ]
        return tf.add_n([tf.cast(first, tf.int64) for first in firsts])

    options = tf.data.Options()
    options.deterministic = True
    batches = images.map(touch, **_PARALLEL).batch(batch_size, drop_remainder=True)
    return without_autotuning(batches.prefetch(tf.data.AUTOTUNE)).with_options(options)
