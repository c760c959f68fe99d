"""What holds for both classifiers: Keras's fit, evaluate and predict, get_config, saving."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.losses import classification_loss
from selfie_tf.models.classifier import ResNetClassifier
from selfie_tf.models.patchformer import PatchFormerClassifier

from helpers import ROOT, constructor_defaults

# An argument each, but for those of `constructor_defaults`.
ARGUMENTS = {
    "num_classes": 5,
    "image_size": 16,
    "width": 2,
    "stem": "small",
    "attention_layers": 1,
    "num_heads": 2,
    "mlp_dim": 16,
    "dropout_rate": 0.2,
    "label_smoothing": 0.2,
    "weight_decay": 0.01,
    "backbone_factor": 0.5,
    "frozen_steps": 1,
    "norm_momentum": 0.8,
    "norm_synchronized": True,
    "seed": 3,
}
OWN = {
    ResNetClassifier: {
        "head": "resnet36_attention",
        "grid": 2,
        "patch_by_patch": True,
        "position": "factorized",
    },
    PatchFormerClassifier: {"grid": 4, "position": "learned", "mask_ratio": 0.3},
}


@pytest.fixture(params=OWN, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    model = kind(**ARGUMENTS, **OWN[kind])
    model.build()
    return model


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, [8, 16, 16, 3], dtype=np.uint8)


def test_keras_fit_evaluate_and_predict(model, images):
    model.compile(keras.optimizers.SGD(0.001))
    labels = np.arange(8) % 5
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
    history = model.fit(data, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["nonfinite_steps"] == [0.0, 0.0]
    result = model.evaluate(data, verbose=0, return_dict=True)
    logits = model.predict(images, verbose=0)
    assert result["top1"] == pytest.approx((logits.argmax(-1) == labels).mean())
    loss = classification_loss(tf.constant(logits), tf.constant(labels))
    assert result["loss"] == pytest.approx(float(tf.reduce_mean(loss)), rel=1e-4)


def test_get_config_holds_every_argument(kind, model):
    arguments = ARGUMENTS | OWN[kind]
    assert set(arguments) == set(constructor_defaults(kind))
    config = model.get_config()
    assert {name: config[name] for name in arguments} == arguments


def test_models_are_saved_and_loaded(kind, model, images, tmp_path):
    expected = model(images, training=False)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path, custom_objects={kind.__name__: kind})
    np.testing.assert_array_equal(loaded(images, training=False), expected)
    assert loaded.get_config() == model.get_config()


def test_the_unit_behind_patchformers_pooling_sees_the_vectors_of_all_replicas():
    """With one vector per replica, of which the replica's own statistics would leave nothing.

    In a process of its own, because a process can be split into replicas only once.
    """
    code = f"""
import sys; sys.path.insert(0, {ROOT!r})
import selfie_tf, numpy as np, tensorflow as tf
from selfie_tf.distribution.strategy import make_strategy
from selfie_tf.layers.resnet import BottleneckUnit
from selfie_tf.models.patchformer import PatchFormerClassifier
strategy = make_strategy(virtual_devices=2)
with strategy.scope():
    model = PatchFormerClassifier(5, 16, grid=4, width=2, attention_layers=1, num_heads=2)
    model.build()
assert model.residual.synchronized and not model.patch_network.synchronized
vectors = np.random.default_rng(3).normal(2, 3, [2, 1, 1, 32]).astype(np.float32)
values = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(vectors[context.replica_id_in_sync_group][None])
)
alone = BottleneckUnit(8, synchronized=True)
alone.build([None, 1, 1, 32])
alone.set_weights([v.numpy() for v in model.residual.weights])
step = tf.function(lambda x: strategy.run(model.residual, args=(x,), kwargs=dict(training=True)))
found = np.concatenate(strategy.experimental_local_results(step(values)))
norm = model.residual.norm1.norm
mean, variance = 0.1 * vectors.mean((0, 1, 2)), 0.9 + 0.1 * vectors.var((0, 1, 2))
np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-4, atol=1e-5)
np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-4)
np.testing.assert_allclose(found, alone(vectors, training=True), rtol=1e-3, atol=1e-3)
assert np.abs(found - vectors).max() > 0.1  # the branch is not 0
print("of all replicas")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "of all replicas", done.stderr


def test_on_one_replica_the_unit_is_as_the_config_says():
    for synchronized in (False, True):
        model = PatchFormerClassifier(5, norm_synchronized=synchronized)
        assert model.residual.synchronized == synchronized
