"""What holds for both classifiers: Keras's fit, evaluate and predict, get_config, saving."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.losses import classification_loss
from selfie_tf.models.classifier import ResNetClassifier
from selfie_tf.models.patchformer import PatchFormerClassifier

from helpers import constructor_defaults

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
