"""Speed as ratios measured in one run: the train step against this machine's matrix products."""

import statistics
import time

import tensorflow as tf
import tf_keras as keras

from selfie_tf import distribute
from selfie_tf.config import PretrainConfig
from selfie_tf.data.pipeline import training_batches
from selfie_tf.data.sources import make_source
from selfie_tf.layers.resnet import EXPANSION, STRIDES_PER_GROUP, UNITS_PER_GROUP
from selfie_tf.pretraining import build_pretrainer
from selfie_tf.training import compile_model

_MATMUL_SIDE = 4096


def gflop_per_image(config: PretrainConfig) -> float:
    """Counts the floating-point operations of one training step per image, in 1e9.

    Multiplications and additions of the convolutions and matrix products, forward, times 3 (the
    backward pass computes one product of the same size for the input's and one for the kernel's
    gradient):

    - a k x k convolution from c to d channels with output h x w: 2 k^2 c d h w. Taps in the
      padding count, as is usual, also where the implementation skips them (3x3 at 2x2 positions:
      4 of 9 taps are real), so the figure compares implementations by images/s;
    - an attention block, see `attention_block_flop`;
    - Selfie's logits: 2 T^2 D.

    Element-wise work, normalisation, the position look-up and the optimizer are left out.

    Args:
      config: a `config.Config` or `config.PatchFormerConfig`.

    Returns:
      GFLOP an image.
    """
    count = {"selfie": _selfie_flop, "patchformer": _patchformer_flop}[config.method]
    return 3 * count(config) / 1e9


def _selfie_flop(config):
    model, dim, targets = config.model, config.model.hidden_dim, config.num_targets
    total = config.num_patches * patch_network_flop(model.width, model.stem, config.patches.size)
    if model.pooling == "attention":
        n = config.num_context + 1
        total += model.attention_layers * attention_block_flop(n, n, dim, model.mlp_dim)
    return total + 2 * targets**2 * dim


def _patchformer_flop(config):
    model, dim, p = config.model, config.model.hidden_dim, config.patches
    seen, targets = config.num_context, config.num_targets
    total = seen * patch_network_flop(model.width, model.stem, p.size)
    total += model.attention_layers * attention_block_flop(seen, seen, dim, model.mlp_dim)
    queries = 1 if model.query == "pooled" else targets
    total += attention_block_flop(queries, seen, dim, model.mlp_dim)
    return total + targets * decoder_flop(dim, p.target_size, 2**p.target_bits)


def attention_block_flop(queries: int, keys: int, dim: int, mlp_dim: int) -> int:
    """Forward operations of an attention block from `queries` vectors over `keys`."""
    projections = 2 * queries * dim**2 + 2 * keys * dim**2  # query and output; key and value
    products = 2 * queries * keys * dim  # scores, and weighted values
    return 2 * (projections + products + 2 * queries * dim * mlp_dim)


def patch_network_flop(width: int, stem: str, side: int) -> int:
    """Forward operations of P for one patch of `side` pixels, see `gflop_per_image`."""
    if stem == "imagenet":
        side = _halve(side)
        flop = 2 * 7**2 * 3 * width * side**2
        side = _halve(side)
    else:
        flop = 2 * 3**2 * 3 * width * side**2
    channels = width
    for group in range(3):
        filters = width * 2**group
        for unit in range(UNITS_PER_GROUP[group]):
            strided = unit == 0 and STRIDES_PER_GROUP[group] == 2
            out = _halve(side) if strided else side
            flop += _unit_flop(channels, filters, side, out, project=unit == 0)
            channels, side = EXPANSION * filters, out
    return flop


def decoder_flop(dim: int, size: int, outputs: int) -> int:
    """Forward operations of `UpsamplingDecoder` for one vector, see `gflop_per_image`."""
    flop, channels, side = 0, dim, 1
    while side < size:
        side *= 2
        filters = max(1, channels // 2 // EXPANSION)
        flop += _unit_flop(channels, filters, side, side, project=True)
        channels = EXPANSION * filters
    return flop + 2 * channels * outputs * size**2


def _unit_flop(channels, filters, side, out, project):
    flop = 2 * channels * filters * side**2  # 1x1
    flop += 2 * 3**2 * filters**2 * out**2  # 3x3, strided
    flop += 2 * filters * EXPANSION * filters * out**2  # 1x1
    return flop + project * 2 * channels * EXPANSION * filters * out**2


def _halve(side):
    return -(-side // 2)


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
      config: its `train.batch_size` is the batch measured.
      data_dir: see `data.sources.make_source`.
      seconds: for each measurement, at least.

    Returns:
      a dict for JSON: images/s, GFLOP an image, matrix product GFLOP/s and ratios.
    """
    strategy = distribute.make_strategy()
    batch_size = config.train.batch_size
    source = make_source(config, data_dir)
    result = {
        "hardware": distribute.describe(strategy),
        "batch_size": batch_size,
        "gflop_per_image": gflop_per_image(config),
        "input_images_per_second": batch_size / _seconds_per_batch(config, source, seconds),
    }
    batch = next(iter(training_batches(source, config)))
    for precision, dtype in (("float32", tf.float32), ("mixed_bfloat16", tf.bfloat16)):
        peak_before = matmul_gflops(dtype, seconds / 4)
        keras.mixed_precision.set_global_policy(precision)
        with strategy.scope():
            model = build_pretrainer(config)
            compile_model(config, model, 1)

        @tf.function
        def step(batch, model=model):
            return strategy.run(model.train_step, args=(batch,))

        # The loss is read, so that the device has finished.
        step_seconds = _seconds_per_call(lambda step=step: step(batch)["loss"].numpy(), seconds)
        batches = iter(training_batches(source, config))
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


def _seconds_per_batch(config, source, seconds):
    iterator = iter(training_batches(source, config))
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
