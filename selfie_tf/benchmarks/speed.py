"""Speed as ratios measured in one run: the train step against this machine's matrix products."""

import statistics
import time

import tensorflow as tf
import tf_keras as keras

from selfie_tf.config import FinetuneConfig, PretrainConfig
from selfie_tf.data import check_batch_size, make_source
from selfie_tf.data.source import BatchShard, IndexedSource
from selfie_tf.distribution import strategy as distribution
from selfie_tf.methods import METHODS
from selfie_tf.training.build import build_classifier, build_pretrainer, compile_model
from selfie_tf.training.cost import gflop_per_image

_MATMUL_SIDE = 4096


def matmul_gflops(dtype: tf.DType, seconds: float) -> float:
    """This machine's GFLOP/s in 4096 x 4096 matrix products of `dtype`."""
    a, b = (
        tf.cast(tf.random.stateless_normal([_MATMUL_SIDE] * 2, [0, i]), dtype) for i in range(2)
    )
    multiply = tf.function(tf.matmul)
    return 2 * _MATMUL_SIDE**3 / _seconds_per_call(lambda: multiply(a, b), seconds) / 1e9


def benchmark(config: PretrainConfig, data_dir: str, seconds: float) -> dict:
    """Measures input pipeline, train step and both together, in float32 and mixed_bfloat16.

    Args:
      config: Its `train.batch_size` is the batch measured.
      data_dir: See `data.make_source`.
      seconds: Least duration of each measurement.

    Returns:
      A dict for JSON: images/s, GFLOP per image, GFLOP/s of matrix products, and ratios.
    """
    strategy = distribution.make_strategy()
    batch_size = config.train.batch_size
    method = METHODS[config.method]
    source = make_source(config.data, data_dir)
    check_batch_size(config, source)
    result = {
        "hardware": distribution.describe(strategy),
        "batch_size": batch_size,
        "gflop_per_image": gflop_per_image(config),
        "input_images_per_second": batch_size / _seconds_per_batch(config, source, seconds),
    }
    batch = next(iter(method.training_batches(source, config)))
    for precision, dtype in (("float32", tf.float32), ("mixed_bfloat16", tf.bfloat16)):
        peak_before = matmul_gflops(dtype, seconds / 4)
        keras.mixed_precision.set_global_policy(precision)
        with strategy.scope():
            step = _train_step(config, strategy, build_pretrainer(config))
        # The loss is read, so that the device has finished.
        step_seconds = _seconds_per_call(lambda step=step: step(batch)["loss"].numpy(), seconds)
        batches = iter(method.training_batches(source, config))
        both_seconds = _seconds_per_call(
            lambda step=step, batches=batches: step(next(batches))["loss"].numpy(), seconds
        )
        # The machine's speed drifts; the step lies between these two.
        peak = (peak_before + matmul_gflops(dtype, seconds / 4)) / 2
        achieved = result["gflop_per_image"] * batch_size / step_seconds
        result[precision] = {
            "step_images_per_second": batch_size / step_seconds,
            "step_and_input_images_per_second": batch_size / both_seconds,
            "step_gflops": achieved,
            "matmul_gflops": peak,
            "step_to_matmul": achieved / peak,
            "input_to_step": result["input_images_per_second"] * step_seconds / batch_size,
        }
    keras.mixed_precision.set_global_policy("float32")
    return result


def step_seconds(config, batch_size: int, seconds: float, num_classes: int = 10) -> float:
    """Times training steps of a config on random images, at the config's precision.

    Args:
      config: A config of pretraining or finetuning.
      batch_size: Images per step; `train.batch_size` is not used.
      seconds: Least duration of the measurement.
      num_classes: Of finetuning.

    Returns:
      The median duration of a step in seconds.
    """
    strategy, size = tf.distribute.get_strategy(), config.data.image_size
    images = tf.random.stateless_uniform([batch_size, size, size, 3], [0, 0], 0, 256, tf.int32)
    images = tf.cast(images, tf.uint8)
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(config.train.precision)
    try:
        if isinstance(config, FinetuneConfig):
            model = build_classifier(config, num_classes)
            batch = images, tf.zeros([batch_size], tf.int64)
        else:
            model = build_pretrainer(config)
            source, shard = IndexedSource(images, images), BatchShard(batch_size)
            method = METHODS[config.method]
            batch = next(iter(method.training_batches(source, config, shard=shard)))
        step = _train_step(config, strategy, model)
        return _seconds_per_call(lambda: step(batch)["loss"].numpy(), seconds)
    finally:
        keras.mixed_precision.set_global_policy(policy)


def _train_step(config, strategy, model):
    compile_model(config, model, 1)

    @tf.function
    def step(batch):
        return strategy.run(model.train_step, args=(batch,))

    return step


def _seconds_per_batch(config, source, seconds):
    iterator = iter(METHODS[config.method].training_batches(source, config))
    next(iterator)  # the shuffle buffer is filled
    count, start = 0, time.perf_counter()
    # Many batches in a row and their mean, not a median: a few are always ready beforehand.
    while time.perf_counter() - start < seconds or count < 20:
        next(iterator)
        count += 1
    return (time.perf_counter() - start) / count


def _seconds_per_call(function, seconds):
    """Median time of calls over `seconds`, at least three, after two to warm up."""
    function(), function()
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 3:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
