"""What holds for every pretraining model: batches, bits, resuming, replicas, saving, exporting."""

import dataclasses
import inspect
import json
import random
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_export import STRANGER, run_script

from selfie_tf.config import PatchFormerConfig, SelfieConfig
from selfie_tf.data import make_source, synthetic
from selfie_tf.models.classifier import ResNetClassifier, load_pretrained_weights
from selfie_tf.models.patchformer import PatchFormerPretrainer
from selfie_tf.models.selfie import SelfiePretrainer
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
    held_out_batches,
    losses,
    run,
    start,
    training_batches,
    wait_for,
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
    chance: str  # what a run says of it at its end
    specs: dict  # of one image: {name: (shape, dtype)}

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
        config.validate()
        return config


KINDS = {
    "selfie": Kind(
        TINY,
        SELFIE_PARITY,
        SelfieConfig,
        SelfiePretrainer,
        keras.optimizers.SGD,
        "chance 0.250",
        {
            "context_patches": ([12, 4, 4, 3], tf.uint8),
            "context_positions": ([12], tf.int32),
            "target_patches": ([4, 4, 4, 3], tf.uint8),
            "target_positions": ([4], tf.int32),
        },
    ),
    "patchformer": Kind(
        TINY_PATCHFORMER,
        PARITY,
        PatchFormerConfig,
        PatchFormerPretrainer,
        keras.optimizers.AdamW,
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


@pytest.fixture
def model(kind):
    return build_pretrainer(kind.make_config())


@pytest.fixture
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
def whole(kind, finished):
    """An uninterrupted run."""
    return finished(kind.flags)


def finish(kind, workdir, *flags):
    code, out, err = run(*kind.flags, *flags, f"--workdir={workdir}")
    assert code == 0, err
    return out


def test_the_same_command_elsewhere_gives_the_same_bits(kind, whole, tmp_path):
    out = finish(kind, tmp_path)
    assert f"step {STEPS}/{STEPS}" in out and "finished" in out and kind.chance in out
    assert_identical(tmp_path, weights(whole))
    assert losses(tmp_path) == losses(whole)


def test_killed_and_resumed_the_bits_are_the_same(kind, whole, tmp_path):
    kill = random.Random(time.time_ns()).randrange(7, STEPS - 1)
    flags = [*kind.flags, "--config.train.log_every=1", f"--workdir={tmp_path}"]
    process = start(*flags)
    lines = tmp_path / "metrics.jsonl"
    wait_for(lambda: lines.exists() and lines.read_text().count("\n") >= kill, process)
    process.kill()
    process.communicate()
    assert "resuming at step" in finish(kind, tmp_path, "--config.train.log_every=1")
    assert_identical(tmp_path, weights(whole))
    results = [json.loads((path / "result.json").read_text()) for path in (tmp_path, whole)]
    assert results[0]["held_out_loss"] == results[1]["held_out_loss"]


@pytest.fixture(scope="module")
def one_replica(kind, finished):
    return finished([*kind.flags, *kind.parity])


def test_two_virtual_replicas_train_as_one(kind, one_replica, tmp_path):
    out = finish(kind, tmp_path, *kind.parity, "--virtual_devices=2")
    assert "2 replica(s)" in out
    assert_close(tmp_path, one_replica)


def test_the_parts_that_finetuning_takes(kind, whole):
    model = load_pretrained(str(whole))
    assert isinstance(model, kind.model)
    stored = weights(whole)
    suffix = "patch_network/stem/conv/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    (kernel,) = [v for n, v in stored.items() if n.startswith("model/") and n.endswith(suffix)]
    np.testing.assert_array_equal(model.patch_network.stem.conv.kernel, kernel)
    assert model.attention_pooling.trainable_weights and model.positions.trainable_weights
    classifier = ResNetClassifier(5, image_size=16, width=2)
    classifier.build()
    used = load_pretrained_weights(classifier, model, "x")
    assert {"backbone/stem/conv/kernel", "backbone/group3/unit6/conv3/kernel"} <= {*used["loaded"]}
    np.testing.assert_array_equal(classifier.backbone.stem.conv.kernel, kernel)


def test_an_export_answers_and_trains_as_its_run(kind, whole, tmp_path):
    export = tmp_path / "export"
    code, _, err = run(f"--workdir={whole}", f"--output={export}", command="bin/export.py")
    assert code == 0, err
    images = synthetic.draw_shapes(np.arange(5000, 5012), 16)[0]
    answers = run_script(STRANGER, export, images, tmp_path)
    model = load_pretrained(str(whole))
    expected = model.image_features(images, training=False).numpy()
    assert expected.shape == (12, 32) and np.std(expected, axis=0).max() > 0
    # Other fusions round differently, which layer norms amplify.
    for key in ("features", "float32_features", "called"):
        np.testing.assert_allclose(answers[key], expected, rtol=1e-4, atol=5e-4)
    moved = set(answers["moved"].tolist())
    statistics = {name for name in answers["names"].tolist() if "moving_" in name}
    assert statistics and statistics <= moved
    again = load_pretrained(str(export))
    for mine, theirs in zip(again.trainable_weights, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=theirs.name)


# Models


def test_keras_fit_evaluate_and_predict(kind, model, batch):
    model.compile(kind.optimizer(0.001))
    data = tf.data.Dataset.from_tensors(batch).repeat(3)
    history = model.fit(data, verbose=0).history
    assert np.isfinite(history["loss"][0]) and history["nonfinite_steps"] == [0.0]
    accuracy = model.accuracy_metric.name
    result = model.evaluate(data, verbose=0, return_dict=True)
    assert {"loss", accuracy} <= set(result) and 0 <= result[accuracy] <= 1
    logits = model.predict(data, verbose=0)
    expected = model(batch, training=False)
    np.testing.assert_allclose(logits[:16], expected, rtol=1e-4, atol=1e-4)


def test_training_lowers_the_loss_of_a_batch(kind, model, batch):
    """By 40 steps on one batch, so by a lot."""
    model.compile(kind.optimizer(0.002))
    data = tf.data.Dataset.from_tensors(batch).repeat(20)
    first, second = (model.fit(data, verbose=0).history["loss"][0] for _ in range(2))
    assert second < 0.95 * first


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
    # Rounding to 8 bits in 36 untrained layers; logits of another function would differ by 1 or so.
    assert np.abs(logits - expected).mean() < 0.4 * np.std(expected)


def test_models_are_saved_and_loaded(kind, model, batch, tmp_path):
    expected = model(batch, training=False)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path, custom_objects={kind.model.__name__: kind.model})
    np.testing.assert_array_equal(loaded(batch, training=False), expected)
    assert loaded.get_config() == model.get_config()


def test_get_config_holds_every_argument_of_the_constructor(kind, model):
    parameters = inspect.signature(kind.model.__init__).parameters
    expected = {
        name: not p.default if isinstance(p.default, bool) else p.default
        for name, p in parameters.items()
        if name not in ("self", "kwargs")
    }
    expected |= {k: v + 1 for k, v in expected.items() if type(v) is int and k != "target_size"}
    config = kind.model(**expected).get_config()
    assert {name: config[name] for name in expected} == expected
