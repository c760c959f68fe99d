"""Tests of the patch network: convolutions against a NumPy loop, structure, saving, precision."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.config import NetworkConfig
from selfie_tf.config.base import feature_map_side
from selfie_tf.layers import resnet

# (map side, kernel side, strides): every special path, and its neighbours on the ordinary one.
CONVOLUTIONS = [
    (1, 3, 1),
    (1, 3, 2),
    (2, 3, 1),
    (4, 3, 2),
    (4, 1, 1),
    (4, 1, 2),
    (5, 1, 2),
    (2, 3, 2),
    (4, 3, 1),
    (5, 3, 2),
    (8, 3, 2),
    (6, 7, 2),
]


def convolve_by_loop(images, kernel, strides):
    """'SAME' convolution, one tap at a time."""
    n, height, width, channels = images.shape
    size, _, _, filters = kernel.shape
    out_height, out_width = -(-height // strides), -(-width // strides)
    top = max((out_height - 1) * strides + size - height, 0) // 2
    left = max((out_width - 1) * strides + size - width, 0) // 2
    outputs = np.zeros([n, out_height, out_width, filters])
    for y in range(out_height):
        for x in range(out_width):
            for i in range(size):
                for j in range(size):
                    row, column = strides * y + i - top, strides * x + j - left
                    if 0 <= row < height and 0 <= column < width:
                        outputs[:, y, x] += images[:, row, column] @ kernel[i, j]
    return outputs


def random_case(side, size, strides, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(0.3, 1, [3, side, side, 5]).astype(np.float32)
    kernel = rng.normal(0.1, 1, [size, size, 5, 4]).astype(np.float32)
    out_side = -(-side // strides)
    upstream = rng.normal(-0.2, 1, [3, out_side, out_side, 4]).astype(np.float32)
    return images, kernel, upstream


@pytest.mark.parametrize("side, size, strides", CONVOLUTIONS)
def test_convolve_equals_a_loop(side, size, strides):
    images, kernel, _ = random_case(side, size, strides)
    outputs = resnet.convolve(tf.constant(images), tf.constant(kernel), strides)
    np.testing.assert_allclose(outputs, convolve_by_loop(images, kernel, strides), atol=2e-5)


@pytest.mark.parametrize("side, size, strides", CONVOLUTIONS)
def test_gradients_equal_a_loop(side, size, strides):
    """The output is linear in either argument: a unit step gives the exact derivative."""
    images, kernel, upstream = random_case(side, size, strides)
    images_tensor, kernel_tensor = tf.constant(images), tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch([images_tensor, kernel_tensor])
        outputs = resnet.convolve(images_tensor, kernel_tensor, strides)
    gradients = tape.gradient(outputs, [images_tensor, kernel_tensor], output_gradients=upstream)

    expected_kernel = np.zeros_like(kernel)
    for index in np.ndindex(*kernel.shape):
        step = np.zeros_like(kernel)
        step[index] = 1
        expected_kernel[index] = np.sum(upstream * convolve_by_loop(images, step, strides))
    np.testing.assert_allclose(gradients[1], expected_kernel, atol=1e-4)

    # One image is the unit step at each (row, column, channel): a batch of H * W * C images.
    steps = np.eye(side * side * 5, dtype=np.float32).reshape([-1, side, side, 5])
    responses = convolve_by_loop(steps, kernel, strides).reshape([len(steps), -1])
    expected_images = (upstream.reshape([3, -1]) @ responses.T).reshape(images.shape)
    np.testing.assert_allclose(gradients[0], expected_images, atol=1e-4)


@pytest.mark.parametrize("side, size, strides", [(2, 3, 1), (4, 3, 2), (4, 1, 2), (4, 1, 1)])
def test_unknown_shapes_give_the_same_values(side, size, strides):
    images, kernel, _ = random_case(side, size, strides)
    expected = resnet.convolve(tf.constant(images), tf.constant(kernel), strides)
    for shape in ([None, side, side, 5], [None, None, None, 5]):
        traced = tf.function(
            lambda x: resnet.convolve(x, tf.constant(kernel), strides),  # noqa: B023
            input_signature=[tf.TensorSpec(shape)],
        )
        np.testing.assert_allclose(traced(images), expected, atol=2e-5)


@pytest.mark.parametrize(
    "side, size, strides, is_matmul",
    [
        (1, 3, 1, True),
        (1, 3, 2, True),
        (2, 3, 1, True),
        (2, 3, 2, True),
        (4, 3, 2, True),
        (8, 1, 1, True),
        (8, 1, 2, True),
        (None, 1, 1, True),
        (4, 3, 1, False),
        (8, 3, 2, False),
        (None, 3, 1, False),
    ],
)
def test_which_convolutions_are_matrix_products(side, size, strides, is_matmul):
    traced = tf.function(
        lambda x: resnet.convolve(x, tf.zeros([size, size, 5, 4]), strides),
        input_signature=[tf.TensorSpec([None, side, side, 5])],
    )
    operations = {op.type for op in traced.get_concrete_function().graph.get_operations()}
    assert ("MatMul" in operations) == is_matmul
    assert ("Conv2D" in operations) != is_matmul


@pytest.mark.parametrize(
    "side, num_groups, stem, out_side, group_sides",
    [
        (8, 3, "small", 2, [8, 4, 2]),
        (32, 3, "small", 8, [32, 16, 8]),
        (32, 4, "small", 4, [32, 16, 8, 4]),
        (32, 3, "imagenet", 2, [8, 4, 2]),
        (224, 3, "imagenet", 14, [56, 28, 14]),
        (224, 4, "imagenet", 7, [56, 28, 14, 7]),
        (8, 1, "small", 8, [8]),
    ],
)
def test_shapes(side, num_groups, stem, out_side, group_sides):
    network = resnet.ResNetV2(width=2, num_groups=num_groups, stem=stem)
    inputs = keras.Input([side, side, 3])
    channels = 8 * 2 ** (num_groups - 1)
    assert network(inputs).shape.as_list() == [None, out_side, out_side, channels]
    declared = network.compute_output_shape([5, side, side, 3])
    assert tuple(declared) == (5, out_side, out_side, channels)
    assert network.output_dim == channels
    shape, sides = network.stem.compute_output_shape([5, side, side, 3]), []
    for group in network.groups:
        shape = group.compute_output_shape(shape)
        sides.append(shape[1])
    assert sides == group_sides
    anything = network.compute_output_shape([None, None, None, 3])
    assert tuple(anything) == (None, None, None, channels)


@pytest.mark.parametrize("side", [8, 15, 32, 224])
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_configs_know_the_shapes_of_the_patch_network(side, stem):
    """Without TensorFlow, so they count them once more."""
    network = resnet.ResNetV2(width=3, num_groups=3, stem=stem)
    shape = network.compute_output_shape([None, side, side, 3])
    assert shape[1] == feature_map_side(side, stem)
    assert network.output_dim == NetworkConfig(width=3).hidden_dim


@pytest.mark.full_depth
def test_number_of_parameters_at_the_papers_size():
    def unit(channels, filters, project):
        norms = 2 * channels + 2 * filters + 2 * filters  # scale and offset before each convolution
        convolutions = channels * filters + 9 * filters**2 + filters * 4 * filters
        return norms + convolutions + (channels * 4 * filters if project else 0)

    expected, channels = 3 * 3 * 3 * 64, 64  # stem
    for filters, num_units in ((64, 3), (128, 4), (256, 6)):
        for i in range(num_units):
            expected += unit(channels, filters, project=i == 0)
            channels = 4 * filters
    expected += 2 * channels  # final normalisation
    assert expected == 8_532_032

    network = resnet.ResNetV2()
    network.build([None, 8, 8, 3])
    assert sum(int(np.prod(v.shape)) for v in network.trainable_variables) == expected


@pytest.mark.full_depth
def test_variable_names():
    network = resnet.ResNetV2(width=2, name="patch_network")
    network(tf.zeros([1, 8, 8, 3]))
    names = [v.name for v in network.variables]
    assert len(set(names)) == len(names)
    kernels = [v for v in network.variables if v.name.endswith("kernel:0")]
    assert len(kernels) == 1 + 3 * (3 + 4 + 6) + 3  # stem, units, projections
    assert all(v.shape.rank == 4 for v in kernels)
    assert "patch_network/stem/conv/kernel:0" in names
    assert "patch_network/group2/unit1/projection/kernel:0" in names
    assert "patch_network/group3/unit6/norm3/norm/moving_mean:0" in names
    assert "patch_network/final_norm/norm/gamma:0" in names


def randomise(layer, seed=0):
    """Gives every variable, moving statistics too, an asymmetric value."""
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        value = rng.normal(0.02, 0.2, variable.shape)
        if "gamma" in variable.name or "variance" in variable.name:
            value = 1 + np.abs(value)
        variable.assign(value)


@pytest.mark.parametrize("channels, inside", [(8, "float32"), (24, "float32"), (16, "bfloat16")])
def test_bfloat16_normalises_other_than_16_channels_in_float32(channels, inside):
    x = np.random.default_rng(0).normal(3, 2, [4, 3, 3, channels]).astype(np.float32)
    x = tf.cast(x, tf.bfloat16)
    exact, layer = resnet.NormReLU(), resnet.NormReLU(dtype="mixed_bfloat16")
    expected = tf.cast(exact(tf.cast(x, tf.float32), training=True), tf.bfloat16)
    outputs = layer(x, training=True)
    assert outputs.dtype == tf.bfloat16 and layer.norm.compute_dtype == inside
    np.testing.assert_allclose(tf.cast(outputs, "float32"), tf.cast(expected, "float32"), 1e-2)
    for name in ("moving_mean", "moving_variance"):
        assert getattr(layer.norm, name).dtype == tf.float32
        np.testing.assert_allclose(getattr(layer.norm, name), getattr(exact.norm, name), 1e-2)


@pytest.mark.parametrize("strides, project", [(1, False), (1, True), (2, True)])
def test_unit_is_pre_activated(strides, project):
    """Equation by equation: normalisation and ReLU come before each convolution."""
    channels = 8 if not project else 6
    unit = resnet.BottleneckUnit(2, strides=strides, project=project)
    unit.build([None, 4, 4, channels])
    randomise(unit)
    images = np.random.default_rng(1).normal(0.2, 1, [3, 4, 4, channels]).astype(np.float32)

    def norm_relu(x, layer):
        norm = layer.norm
        scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + 1e-5)
        return np.maximum((x - norm.moving_mean.numpy()) * scale + norm.beta.numpy(), 0)

    first = norm_relu(images, unit.norm1)
    shortcut = images
    if project:
        shortcut = convolve_by_loop(first, unit.projection.kernel.numpy(), strides)
    x = convolve_by_loop(first, unit.conv1.kernel.numpy(), 1)
    x = convolve_by_loop(norm_relu(x, unit.norm2), unit.conv2.kernel.numpy(), strides)
    x = convolve_by_loop(norm_relu(x, unit.norm3), unit.conv3.kernel.numpy(), 1)
    np.testing.assert_allclose(unit(images, training=False), x + shortcut, atol=1e-4)


def test_network_is_stem_groups_and_final_norm():
    network = resnet.ResNetV2(width=2, num_groups=2)
    network.build([None, 8, 8, 3])
    randomise(network)
    images = np.random.default_rng(1).normal(0.2, 1, [3, 8, 8, 3]).astype(np.float32)
    x = network.stem(images)
    for group in network.groups:
        assert [unit.project for unit in group.units] == [True] + [False] * (len(group.units) - 1)
        for unit in group.units:
            x = unit(x, training=False)
    np.testing.assert_allclose(
        network(images, training=False), network.final_norm(x, training=False), atol=1e-5
    )


def test_imagenet_stem_pools():
    stem = resnet.Stem(2, "imagenet")
    images = np.random.default_rng(1).normal(0.2, 1, [2, 16, 16, 3]).astype(np.float32)
    outputs = stem(images).numpy()
    x = convolve_by_loop(images, stem.conv.kernel.numpy(), 2)  # [2, 8, 8, 2]
    padded = np.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]], constant_values=-np.inf)
    expected = np.max(
        [padded[:, i : i + 8 : 2, j : j + 8 : 2] for i in range(3) for j in range(3)], axis=0
    )
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_same_weights_on_patches_and_full_images():
    """Far from the padding, the special paths of patches and the ordinary ones must agree."""
    group = resnet.ResNetGroup(2, 2, strides=2)
    group.build([None, 4, 4, 6])
    randomise(group)
    patch = np.random.default_rng(1).normal(0.2, 1, [1, 4, 4, 6]).astype(np.float32)
    outputs = group(patch, training=False)  # [1, 2, 2, 8], 3x3 convolutions by rows
    kernels = group.units[1].conv2.kernel, group.units[0].conv2.kernel
    assert all(tuple(kernel.shape) == (3, 3, 2, 2) for kernel in kernels)
    traced = tf.function(
        lambda x: group(x, training=False), input_signature=[tf.TensorSpec([None, None, None, 6])]
    )
    np.testing.assert_allclose(outputs, traced(patch), atol=1e-5)

    network = resnet.ResNetV2(width=2)
    assert network(tf.zeros([2, 8, 8, 3])).shape == [2, 2, 2, 32]
    before = len(network.variables)
    assert network(tf.zeros([2, 32, 32, 3])).shape == [2, 8, 8, 32]
    assert len(network.variables) == before


def test_statistics_of_the_batch_in_training_and_moving_ones_in_inference():
    layer = resnet.NormReLU(momentum=0.75)
    x = np.random.default_rng(0).normal(3, 2, [5, 2, 2, 4]).astype(np.float32)
    np.testing.assert_allclose(layer(x, training=False), np.maximum(x, 0), rtol=1e-4)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = np.maximum((x - mean) / np.sqrt(variance + 1e-5), 0)
    np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-4)
    np.testing.assert_allclose(layer.norm.moving_mean, 0.25 * mean, rtol=1e-4)

    network = resnet.ResNetV2(width=2, num_groups=1, norm_momentum=0.75)
    images = tf.random.stateless_normal([4, 8, 8, 3], [0, 1])
    alone = network(images[:1], training=False)
    np.testing.assert_allclose(network(images, training=False)[:1], alone, atol=1e-5)
    moving = [v for v in network.variables if "moving" in v.name]
    before = [v.numpy() for v in moving]
    network(images, training=True)
    assert all(np.any(v.numpy() != old) for v, old in zip(moving, before, strict=True))


LAYERS = [
    (
        resnet.ResNetV2,
        dict(width=4, num_groups=2, stem="imagenet", norm_momentum=0.8, synchronized=True),
    ),
    (
        resnet.ResNetGroup,
        dict(filters=3, num_units=2, strides=2, norm_momentum=0.8, synchronized=True),
    ),
    (
        resnet.BottleneckUnit,
        dict(filters=3, strides=2, project=True, norm_momentum=0.8, synchronized=True),
    ),
    (resnet.NormReLU, dict(momentum=0.8, synchronized=True)),
    (resnet.Convolution, dict(filters=3, kernel_size=5, strides=2)),
    (resnet.Stem, dict(filters=3, kind="imagenet")),
]


@pytest.mark.parametrize("layer_class, arguments", LAYERS)
def test_get_config_has_every_argument(layer_class, arguments):
    parameters = inspect.signature(layer_class.__init__).parameters
    assert set(arguments) == set(parameters) - {"self", "kwargs"}
    defaults = {name: parameters[name].default for name in arguments}
    assert all(arguments[name] != defaults[name] for name in arguments)
    config = layer_class(**arguments, name="mine").get_config()
    base = set(keras.layers.Layer().get_config())
    assert {name: config[name] for name in set(config) - base} == arguments
    again = layer_class.from_config(config)
    assert again.name == "mine" and again.get_config() == config


@pytest.mark.full_depth
def test_arguments_reach_the_layers():
    network = resnet.ResNetV2(width=2, norm_momentum=0.8, synchronized=True)
    network.build([None, 8, 8, 3])
    norms = [m for m in network.submodules if isinstance(m, keras.layers.BatchNormalization)]
    assert len(norms) == 3 * (3 + 4 + 6) + 1
    for norm in norms:
        assert (norm.momentum, norm.synchronized, norm.epsilon) == (0.8, True, 1e-5)


def test_a_saved_model_loads_and_gives_the_same_outputs(tmp_path):
    inputs = keras.Input([8, 8, 3])
    model = keras.Model(inputs, resnet.ResNetV2(width=2)(inputs))
    randomise(model)
    images = tf.random.stateless_normal([2, 8, 8, 3], [0, 1])
    model.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(
        tmp_path / "network.keras", custom_objects={"ResNetV2": resnet.ResNetV2}
    )
    expected = model(images, training=False)
    assert np.ptp(expected) > 0.1
    np.testing.assert_array_equal(loaded(images, training=False), expected)


class SubclassedModel(keras.Model):
    """A model that does not build its network before it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.network = resnet.ResNetV2(width=2, num_groups=2)

    def call(self, images):
        return self.network(images)


def test_a_saved_subclassed_model_loads(tmp_path):
    model = SubclassedModel()
    images = tf.random.stateless_normal([2, 8, 8, 3], [0, 1])
    model(images)
    randomise(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras",
        custom_objects={"SubclassedModel": SubclassedModel, "ResNetV2": resnet.ResNetV2},
    )
    np.testing.assert_array_equal(loaded(images), model(images))


def test_mixed_precision_keeps_float32_variables():
    images = tf.random.stateless_normal([8, 8, 8, 3], [0, 1])
    exact = resnet.ResNetV2(width=4)
    exact.build(images.shape)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = resnet.ResNetV2(width=4)
        network.build(images.shape)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    network.set_weights(exact.get_weights())
    with tf.GradientTape() as tape:
        outputs = network(images, training=True)
        loss = tf.reduce_mean(tf.cast(outputs, tf.float32) ** 2)
    gradients = tape.gradient(loss, network.trainable_variables)
    assert outputs.dtype == tf.bfloat16
    assert all(v.dtype == tf.float32 for v in network.variables)
    assert all(g.dtype == tf.float32 and np.all(np.isfinite(g)) for g in gradients)
    # bfloat16 keeps 8 bits: after 42 convolutions rounding is a tenth of the signal here.
    expected = exact(images, training=True).numpy()
    assert 0 < np.std(tf.cast(outputs, tf.float32) - expected) < 0.2 * np.std(expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: resnet.ResNetV2(num_groups=5), "num_groups=5: expected 1 to 4"),
        (lambda: resnet.ResNetV2(stem="big"), "stem='big': expected 'small' or 'imagenet'"),
        (lambda: resnet.BottleneckUnit(4, strides=2), "project must be True"),
        (lambda: resnet.BottleneckUnit(4).build([1, 2, 2, 4]), "16 channels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
