"""What holds for every pretraining model: batches, bits, resuming, replicas, saving."""

import dataclasses
import random
import re
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.config import PatchFormerConfig, SelfieConfig
from selfie_tf.data import make_source
from selfie_tf.models.classifier import ResNetClassifier
from selfie_tf.models.patchformer import PatchFormerPretrainer
from selfie_tf.models.selfie import SelfiePretrainer
from selfie_tf.models.transfer import load_pretrained_weights
from selfie_tf.training.build import build_pretrainer
from selfie_tf.training.load import load_pretrained

from helpers import (
    PARITY,
    SELFIE_PARITY,
    STEPS,
    TINY,
    TINY_PATCHFORMER,
    assert_close,
    assert_identical,
    assert_same_logs,
    constructor_defaults,
    held_out_batches,
    run,
    start,
    succeeds,
    training_batches,
    wait_for_log,
    weights,
)


@dataclasses.dataclass
class Kind:
    """A model, how it is run, and what its batches are."""

    flags: list
    parity: list
    config: type
    model: type
    optimizer: type
    learning_rate: float  # at which 40 steps on one batch lower its loss by a lot
    chance: str  # what a run says of it at its end
    specs: dict  # of one image: {name: (shape, dtype)}
    settings: dict = dataclasses.field(
        default_factory=dict
    )  # of the config's model, in `flags` too

    def make_config(self):
        """The config of a tiny run, as `flags` has it in essence."""
        config = self.config()
        config.data.name = "builtin:shapes"
        config.data.image_size, config.patches.size = 16, 4
        config.data.crop, config.data.min_crop_area = "random_resized", 0.5
        config.model.width, config.model.num_heads, config.model.mlp_dim = 2, 2, 16
        config.model.attention_layers = 1
        config.train.batch_size = 16
        if config.method == "patchformer":
            config.patches.target_size = 2
        for name, value in self.settings.items():
            setattr(config.model, name, value)
        config.validate()
        return config


KINDS = {
    "selfie": Kind(
        TINY,
        SELFIE_PARITY,
        SelfieConfig,
        SelfiePretrainer,
        keras.optimizers.SGD,
        0.05,
        "chance 0.250",
        {
            "context_patches": ([12, 4, 4, 3], tf.uint8),
            "context_positions": ([12], tf.int32),
            "target_patches": ([4, 4, 4, 3], tf.uint8),
            "target_positions": ([4], tf.int32),
        },
    ),
    "selfie_beyond_the_paper": Kind(
        [
            *TINY,
            "--config.model.query=per_location",
            "--config.model.instance_weight=0.5",
            "--config.model.negatives=all",
        ],
        SELFIE_PARITY,
        SelfieConfig,
        SelfiePretrainer,
        keras.optimizers.SGD,
        0.05,
        "chance 0.250",
        {
            "context_patches": ([12, 4, 4, 3], tf.uint8),
            "context_positions": ([12], tf.int32),
            "target_patches": ([4, 4, 4, 3], tf.uint8),
            "target_positions": ([4], tf.int32),
            "views": ([2, 16, 16, 3], tf.uint8),
        },
        {"query": "per_location", "instance_weight": 0.5, "negatives": "all"},
    ),
    "patchformer": Kind(
        TINY_PATCHFORMER,
        PARITY,
        PatchFormerConfig,
        PatchFormerPretrainer,
        keras.optimizers.AdamW,
        0.002,
        "always the most frequent level",
        {
            "context_patches": ([8, 4, 4, 3], tf.uint8),
            "context_positions": ([8], tf.int32),
            "target_positions": ([8], tf.int32),
            "target_levels": ([8, 2, 2], tf.int32),
        },
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def batch(kind):
    config = kind.make_config()
    batch = next(iter(training_batches(make_source(config.data), config)))
    return {name: tensor.numpy() for name, tensor in batch.items()}


# Batches


def test_batches_are_static_and_bytes_travel(kind):
    config = kind.make_config()
    spec = training_batches(make_source(config.data), config, batch_size=8).element_spec
    assert set(spec) == set(kind.specs)
    for name, (shape, dtype) in kind.specs.items():
        assert spec[name].shape.as_list() == [8, *shape] and spec[name].dtype == dtype, name


def test_a_batch_is_a_function_of_the_step(kind):
    config = kind.make_config()
    source = make_source(config.data)
    batches = iter(training_batches(source, config))
    for _ in range(3):
        fourth = next(batches)
    fourth = next(batches)
    resumed = next(iter(training_batches(source, config, start_step=3)))
    other = next(iter(training_batches(source, config, start_step=4)))
    for name, tensor in fourth.items():
        np.testing.assert_array_equal(resumed[name], tensor, err_msg=name)
        assert (other[name].numpy() != tensor.numpy()).any(), name


def test_positions_are_each_patch_once_and_patches_are_the_images(kind):
    config = kind.make_config()
    source = make_source(config.data)
    (images,) = source.held_out_images().map(lambda _, image, __: image).batch(5).take(1)
    (batch,) = held_out_batches(source, config, 5, 5, crop=False)
    for b in range(5):
        places = [*batch["context_positions"][b].numpy(), *batch["target_positions"][b].numpy()]
        assert sorted(places) == list(range(16))
        for patch, place in zip(batch["context_patches"][b], batch["context_positions"][b]):
            row, column = divmod(int(place), 4)
            expected = images[b, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            np.testing.assert_array_equal(patch, expected)


# Runs


@pytest.fixture(scope="module")
def whole(kind, shared):
    """An uninterrupted run."""
    return shared(kind.flags)


def test_a_run_reports_its_progress_and_its_end(kind, whole):
    out = (whole / "stdout.txt").read_text()
    assert f"step {STEPS}/{STEPS}" in out and "finished" in out and kind.chance in out
    (line,) = re.findall(r"first step done after ([\d.]+) s: (.*)", out)
    parts = re.findall(r"([a-z ]+) ([\d.]+)", line[1])
    names = [name.strip() for name, _ in parts]
    assert names == ["imports", "data", "model", "pictures", "first step"]
    assert sum(float(seconds) for _, seconds in parts) == pytest.approx(float(line[0]), abs=0.3)


def test_a_killed_process_is_resumed_with_the_same_bits(kind, whole, tmp_path):
    """By a command in this process, as `whole` was made: a process computes the same bits."""
    flags = [*kind.flags, f"--workdir={tmp_path}"]
    process = start(*flags)
    wait_for_log(tmp_path, random.Random(time.time_ns()).choice([8, 12, 16, 20]), process)
    process.kill()
    process.communicate()
    assert "resuming at step" in succeeds("pretrain", *flags)
    assert_identical(tmp_path, weights(whole))
    assert_same_logs(tmp_path, whole)


def test_two_virtual_replicas_train_as_one(kind, shared, tmp_path):
    flags = [*kind.flags, *kind.parity]
    code, out, err = run(*flags, "--virtual_devices=2", f"--workdir={tmp_path}")
    assert code == 0, err
    assert "2 replica(s)" in out
    assert_close(tmp_path, shared(flags))


def test_the_parts_that_finetuning_takes(kind, whole):
    model = load_pretrained(str(whole))
    assert isinstance(model, kind.model)
    stored = weights(whole)
    suffix = "patch_network/stem/conv/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    (kernel,) = [v for n, v in stored.items() if n.startswith("model/") and n.endswith(suffix)]
    np.testing.assert_array_equal(model.patch_network.stem.conv.kernel, kernel)
    assert model.patch_network(np.zeros([2, 32, 32, 3], np.float32)).shape == (2, 8, 8, 32)
    assert model.attention_pooling.trainable_weights and model.positions.trainable_weights
    classifier = ResNetClassifier(5, image_size=16, width=2)
    classifier.build()
    used = load_pretrained_weights(classifier, model, "x")
    assert {"backbone/stem/conv/kernel", "backbone/group3/unit1/conv3/kernel"} <= {*used["loaded"]}
    np.testing.assert_array_equal(classifier.backbone.stem.conv.kernel, kernel)


# Models


@pytest.fixture(scope="module")
def built(kind):
    keras.utils.set_random_seed(1)
    model = build_pretrainer(kind.make_config())
    return model, model.get_weights()


@pytest.fixture
def model(built):
    """The model with its initial weights."""
    model, initial = built
    model.set_weights(initial)
    return model


def test_keras_fit_evaluate_and_predict(kind, model, batch):
    model.compile(kind.optimizer(kind.learning_rate))
    data = tf.data.Dataset.from_tensors(batch)
    first, second = (model.fit(data.repeat(20), verbose=0).history for _ in range(2))
    assert first["nonfinite_steps"] == second["nonfinite_steps"] == [0.0]
    assert second["loss"][0] < 0.9 * first["loss"][0]
    accuracy = model.accuracy_metric.name
    result = model.evaluate(data, verbose=0, return_dict=True)
    assert {"loss", accuracy} <= set(result) and 0 <= result[accuracy] <= 1
    logits = model.predict(data, verbose=0)
    np.testing.assert_allclose(logits, model(batch, training=False), rtol=1e-4, atol=1e-4)


def test_a_loss_that_is_not_finite_is_counted(kind, model, batch):
    for variable in model.positions.trainable_weights:
        variable.assign(tf.fill(variable.shape, np.nan))
    model.compile(kind.optimizer(0.01), run_eagerly=True)
    assert model.train_step(batch)["nonfinite_steps"] == 1.0


def test_mixed_bfloat16_keeps_float32_weights_and_logits(kind, model, batch):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        mixed = build_pretrainer(kind.make_config())
    finally:
        keras.mixed_precision.set_global_policy("float32")
    mixed.set_weights(model.get_weights())
    assert all(v.dtype == tf.float32 for v in mixed.trainable_variables)
    logits, expected = mixed(batch, training=False), model(batch, training=False)
    assert logits.dtype == tf.float32 and np.isfinite(logits).all()
    assert (logits.numpy() != tf.cast(tf.cast(logits, tf.bfloat16), tf.float32).numpy()).any()
    # Rounding to 8 bits in a dozen untrained layers; logits of another function would differ by 1.
    assert np.abs(logits - expected).mean() < 0.4 * np.std(expected)


def test_models_are_saved_and_loaded(kind, model, batch, tmp_path):
    expected = model(batch, training=False)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path, custom_objects={kind.model.__name__: kind.model})
    np.testing.assert_array_equal(loaded(batch, training=False), expected)
    assert loaded.get_config() == model.get_config()


def test_get_config_holds_every_argument_of_the_constructor(kind, model):
    expected = {
        name: not default if isinstance(default, bool) else default
        for name, default in constructor_defaults(kind.model).items()
    }
    expected |= {k: v + 1 for k, v in expected.items() if type(v) is int and k != "target_size"}
    config = kind.model(**expected).get_config()
    assert {name: config[name] for name in expected} == expected
