"""Batch statistics that are estimated anew on whole images."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.config import PatchFormerConfig, SelfieConfig
from selfie_tf.evaluation import probes
from selfie_tf.training.build import build_pretrainer


@pytest.fixture(params=[SelfieConfig, PatchFormerConfig])
def config(request):
    """16-pixel images, patches of 4."""
    config = request.param()
    config.data.name, config.data.image_size, config.patches.size = "builtin:shapes", 16, 4
    config.model.width, config.model.num_heads, config.model.mlp_dim = 2, 2, 16
    config.model.attention_layers = 1
    if config.method == "patchformer":
        config.patches.target_size = 2
    config.validate()
    return config


@pytest.fixture
def network(config, rng):
    """With weights and statistics that are far from their initial ones."""
    network = build_pretrainer(config)
    for variable in network.weights:
        if variable.dtype == tf.float32 and "/" in variable.name:
            noise = rng.normal(0, 0.3, variable.shape)
            variable.assign(
                1 + noise**2 if "moving_variance" in variable.name else variable + noise
            )
    return network


@pytest.fixture
def batches(rng):
    """Two of unequal size, and of unequal brightness."""
    return [
        tf.constant(rng.integers(0, high, [size, 16, 16, 3]), tf.uint8)
        for size, high in ((40, 200), (10, 60))
    ]


def convolve(images, kernel):
    """3x3, 'SAME'."""
    height, width = images.shape[1:3]
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in np.ndindex(3, 3))


def first_inputs(config, network, images):
    """The inputs of P's first two normalisations; the first as in training."""
    x = images.numpy().astype(np.float64) / 127.5 - 1
    if config.method == "patchformer":
        x = x.reshape(-1, 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(-1, 4, 4, 3)  # patches
    x = convolve(x, network.patch_network.stem.conv.kernel.numpy())
    unit = network.patch_network.groups[0].units[0]
    norm = unit.norm1.norm
    normalised = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    normalised = np.maximum(normalised * norm.gamma.numpy() + norm.beta.numpy(), 0)
    return x, normalised @ unit.conv1.kernel.numpy()[0, 0]


def test_statistics_are_those_of_all_images(config, network, batches):
    copy = probes.reestimated(config, network, batches)
    unit = copy.patch_network.groups[0].units[0]
    inputs = zip(*(first_inputs(config, network, images) for images in batches), strict=True)
    for norm, parts in zip((unit.norm1.norm, unit.norm2.norm), inputs, strict=True):
        seen = np.concatenate(parts)
        np.testing.assert_allclose(norm.moving_mean, seen.mean((0, 1, 2)), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(norm.moving_variance, seen.var((0, 1, 2)), rtol=2e-3)


def test_the_network_is_left_as_it_is_and_the_copy_differs_in_statistics_only(
    config, network, batches
):
    before = {v.name: v.numpy() for v in network.weights}
    expected = network.image_features(batches[0], training=False)
    copy = probes.reestimated(config, network, batches)
    for variable in network.weights:
        np.testing.assert_array_equal(variable, before[variable.name], err_msg=variable.name)
    np.testing.assert_array_equal(network.image_features(batches[0], training=False), expected)
    moved = 0
    for variable in copy.weights:
        name = variable.name
        if "moving" in name and "patch_network" in name:
            assert (variable.numpy() != before[name]).all(), name
            moved += 1
        elif not name.endswith("/calls:0"):
            np.testing.assert_array_equal(variable, before[name], err_msg=name)
    assert moved == 2 * sum(
        isinstance(m, keras.layers.BatchNormalization) for m in network.patch_network.submodules
    )
    found = copy.image_features(batches[0], training=False)
    assert np.abs(found - expected).max() > 0.01


def test_a_run_in_float64_is_estimated_in_float64(config, batches):
    config.train.precision = "float64"
    with probes.loading_precision(config):
        network = build_pretrainer(config)
    copy = probes.reestimated(config, network, batches)
    assert copy.image_features(batches[0], training=False).dtype == tf.float64
    assert keras.mixed_precision.global_policy().name == "float32"
