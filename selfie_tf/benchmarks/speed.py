"""The speed of a config: its input by stages, its train step against matrix products, its start."""

import statistics
import time

import tensorflow as tf
import tf_keras as keras

from selfie_tf.benchmarks import first_steps
from selfie_tf.benchmarks.profile import profile
from selfie_tf.benchmarks.stages import images_per_second, stages, tensorflow_alone
from selfie_tf.benchmarks.workload import Workload
from selfie_tf.config import FinetuneConfig, RunConfig
from selfie_tf.data.source import BatchShard, IndexedSource
from selfie_tf.distribution import strategy as distribution
from selfie_tf.methods import METHODS
from selfie_tf.training.build import build_classifier, build_pretrainer, compile_model
from selfie_tf.training.cost import gflop_per_image
from selfie_tf.training.run import make_deterministic

_MATMUL_SIDE = 4096
_PRECISIONS = {"float32": tf.float32, "mixed_bfloat16": tf.bfloat16}


def matmul_gflops(dtype: tf.DType, seconds: float) -> float:
    """This machine's GFLOP/s in 4096 x 4096 matrix products of `dtype`."""
    a, b = (
        tf.cast(tf.random.stateless_normal([_MATMUL_SIDE] * 2, [0, i]), dtype) for i in range(2)
    )
    multiply = tf.function(tf.matmul)
    return 2 * _MATMUL_SIDE**3 / _seconds_per_call(lambda: multiply(a, b), seconds) / 1e9


def benchmark(config: RunConfig, data_dir: str, seconds: float) -> dict:
    """Measures the first steps, the input by stages, the train step, and input and step together.

    As in training, op determinism is on without GPUs, and the model is trained in float32 and in
    mixed_bfloat16.

    Args:
      config: A config of pretraining or finetuning. Its `train.batch_size` is the batch measured.
      data_dir: See `data.make_source`.
      seconds: Least duration of the longer measurements; the others take a quarter of it.

    Returns:
      A dict for JSON: images/s, GFLOP per image, GFLOP/s of matrix products, seconds of the
      start-up, memory, and ratios.

    Raises:
      UserError: If the config cannot be trained here.
    """
    strategy = distribution.make_strategy()
    workload = Workload(config, data_dir)
    # Before this process takes memory from a GPU.
    first = {name: first_steps.measure(config, name, data_dir) for name in _PRECISIONS}
    result = _prepare(workload, strategy)
    batch_size, gflop = result["batch_size"], result["gflop_per_image"]
    result |= _input(workload, seconds)
    batch = next(iter(workload.batches()))
    for precision, dtype in _PRECISIONS.items():
        peak_before = matmul_gflops(dtype, seconds / 4)
        step = _loss_of_step(workload, strategy, precision)
        step_seconds = _seconds_per_call(lambda step=step: step(batch), seconds)
        batches = iter(workload.batches())
        both_seconds = _seconds_per_call(
            lambda step=step, batches=batches: step(next(batches)), seconds
        )
        # The machine's speed drifts; the step lies between these two.
        peak = (peak_before + matmul_gflops(dtype, seconds / 4)) / 2
        achieved = gflop * batch_size / step_seconds
        result[precision] = {
            "step_images_per_second": batch_size / step_seconds,
            "step_and_input_images_per_second": batch_size / both_seconds,
            "step_gflops": achieved,
            "matmul_gflops": peak,
            "step_to_matmul": achieved / peak,
            "input_to_step": result["input_images_per_second"] * step_seconds / batch_size,
            **first[precision],
        }
    keras.mixed_precision.set_global_policy("float32")
    return result


def profile_step(config: RunConfig, data_dir: str, folder: str) -> dict:
    """Profiles train steps in the config's precision, without the input; see `profile.profile`.

    Args:
      config, data_dir: See `benchmark`.
      folder: Where the trace for TensorBoard goes.
    """
    strategy = distribution.make_strategy()
    workload = Workload(config, data_dir)
    about = {**_prepare(workload, strategy), "precision": config.train.precision}
    step = _loss_of_step(workload, strategy, config.train.precision)
    try:
        return profile(step, next(iter(workload.batches())), folder, about)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def _prepare(workload, strategy):
    """Makes this process deterministic as training is, and says what is measured."""
    config = workload.config
    return {
        "hardware": distribution.describe(strategy),
        "op_determinism": make_deterministic(config, strategy),
        "batch_size": config.train.batch_size,
        "gflop_per_image": gflop_per_image(config, workload.num_classes),
    }


def _input(workload, seconds):
    """Images/s of the input's stages, of TensorFlow alone, and their ratios."""
    size, datasets = workload.config.train.batch_size, stages(workload)
    if "decode" in datasets:  # the headers of a folder's files are looked at once, not per epoch
        images_per_second(datasets["decode"], size, seconds / 4)
    found = {
        name: images_per_second(batches, size, seconds if name == "batch" else seconds / 4)
        for name, batches in datasets.items()
    }
    result = {
        "input_images_per_second": found["batch"],
        "input_images_per_second_up_to": found,
    }
    alone = {
        name: images_per_second(batches, size, seconds / 4)
        for name, batches in tensorflow_alone(workload).items()
    }
    if alone:
        result["tensorflow_images_per_second"] = alone
        result["decode_to_tensorflow"] = found["decode"] / alone["decode"]
        result["input_to_tensorflow"] = found["batch"] / alone["decode_crop_resize"]
    return result


def _loss_of_step(workload, strategy, precision):
    """A train step as a function from a batch to its loss, which is read: the device has ended."""
    keras.mixed_precision.set_global_policy(precision)
    with strategy.scope():
        step = _train_step(strategy, workload.build())
    return lambda batch: step(batch)["loss"].numpy()


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
        compile_model(config, model, 1)
        step = _train_step(strategy, model)
        return _seconds_per_call(lambda: step(batch)["loss"].numpy(), seconds)
    finally:
        keras.mixed_precision.set_global_policy(policy)


def _train_step(strategy, model):
    @tf.function
    def step(batch):
        return strategy.run(model.train_step, args=(batch,))

    return step


def _seconds_per_call(function, seconds):
    """Median time of calls over `seconds`, at least three, after two to warm up."""
    function(), function()
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 3:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
