"""Runs and exports of version 0.1.0, from before the modules were moved, still resume and load.

tests/data/before_the_house.tar.xz holds `run`, the work directory of a Selfie run of 8 steps that
was stopped at step 4; `final`, the checkpoint of step 8 and the result of the same run, had it not
been stopped; and `export`, that run exported. All were written by version 0.1.0.
"""

import json
import os
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.methods import read_config
from selfie_tf.training.load import load_pretrained
from selfie_tf.training.pretrain import pretrain
from selfie_tf.training.report import make_report

from helpers import ROOT, tensors, weights

pytestmark = pytest.mark.full_depth


@pytest.fixture
def stored(tmp_path):
    with tarfile.open(os.path.join(ROOT, "tests", "data", "before_the_house.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_a_stored_run_resumes_and_ends_with_the_weights_it_would_have_had(stored):
    """Within 1e-9, since another processor may round float64 otherwise."""
    config = read_config(json.loads((stored / "run" / "config.json").read_text()))
    policy = keras.mixed_precision.global_policy()
    try:
        result = pretrain(config, str(stored / "run"))
    finally:
        keras.mixed_precision.set_global_policy(policy)
    expected = tensors(stored / "final" / "state")
    found = weights(stored / "run", 8)
    assert set(found) == set(expected) and len(found) > 100
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
    before = json.loads((stored / "final" / "result.json").read_text())
    assert result["resumed_at"] == 4
    for key in ("held_out_loss", "held_out_patch_accuracy", "trainable_weights", "data", "chance"):
        assert result[key] == pytest.approx(before[key]), key


def test_a_stored_run_has_a_page(stored):
    run, text = stored / "run", "it stands at step 4 of 8"
    assert text in make_report(str(run))
    (run / "result.json").write_text((stored / "final" / "result.json").read_text())
    html = make_report(str(run))
    assert text not in html and "trained without labels on 5,000 images of builtin:shapes" in html
    assert "Patch accuracy on 16 held-out images: 0.250 cropped as in training" in html


def test_a_stored_export_loads(stored):
    model = load_pretrained(str(stored / "export"))
    expected = tensors(stored / "final" / "state")
    kernel = "model/patch_network/stem/conv/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    np.testing.assert_array_equal(model.patch_network.stem.conv.kernel, expected[kernel])
    assert len(model.trainable_weights) > 100
    features = tf.saved_model.load(str(stored / "export"))
    images = np.random.default_rng(1).integers(0, 256, [2, 16, 16, 3], np.uint8)
    served = features.signatures["serving_default"](images=tf.constant(images))["features"]
    np.testing.assert_allclose(model.image_features(images), served, rtol=1e-5, atol=1e-6)
