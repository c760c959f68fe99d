"""SavedModels: served and finetuned without selfie_tf, and read back by it."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from selfie_tf.data import synthetic
from selfie_tf.errors import UserError
from selfie_tf.training.load import load_finetuned, load_pretrained

from helpers import (
    TINY,
    TINY_FINETUNE,
    TINY_FINETUNE_PATCHFORMER,
    TINY_PATCHFORMER,
    assert_identical,
    fails,
    result_of,
    run,
    succeeds,
    weights,
)

ATTENTION = [*TINY_FINETUNE, "--config.model.head=resnet36_attention"]
SIZE = 16

# A stranger's script: no selfie_tf, no Keras; one step of training from the `train` trace.
STRANGER = """
import sys
import numpy as np
import tensorflow as tf

def use(path, images):
    model = tf.saved_model.load(path)
    answers = dict(model.signatures["serving_default"](images=images))
    answers |= {f"float32_{k}": v for k, v in
                model.signatures["serving_float32"](images=images.astype("float32")).items()}
    answers["called"] = model(images, False)
    before = {v.name: v.numpy() for v in model.variables}
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(images, True) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(g is not None for g in gradients)
    for variable, gradient in zip(model.trainable_variables, gradients):
        variable.assign_sub(1e-4 * gradient)
    answers["loss_after"] = tf.reduce_mean(model(images, True) ** 2)
    answers["loss_before"] = loss
    moved = [v.name for v in model.variables if (v.numpy() != before[v.name]).any()]
    if hasattr(model, "class_names"):
        answers["class_names"] = model.class_names()
    answers = {k: v.numpy() for k, v in answers.items()}
    answers = {k: v.astype(str) if v.dtype == object else v for k, v in answers.items()}
    np.savez(f"{path}.npz", moved=moved, names=list(before), **answers)

for path in sys.argv[2:]:
    use(path, np.load(sys.argv[1]))
assert not any(name.startswith("selfie_tf") for name in sys.modules)
"""

HUB = """
import os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np
import tensorflow_hub as hub
import tf_keras as keras

images, path = np.load(sys.argv[1]), sys.argv[2]
layer = hub.KerasLayer(path, trainable=True)
model = keras.Sequential([keras.Input(images.shape[1:], dtype="uint8"), layer,
                          keras.layers.Dense(3)])
answers = layer(images).numpy()
before = [v.numpy() for v in layer.weights]
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(images, np.arange(len(images)) % 3, verbose=0)
moved = [v.name for v, b in zip(layer.weights, before) if (v.numpy() != b).any()]
assert not any(name.startswith("selfie_tf") for name in sys.modules)
np.savez(f"{path}.npz", answers=answers, moved=moved,
         trainable=[v.name for v in layer.trainable_weights])
"""


def run_script(text, folder, images, *exports):
    """Runs a script of somebody who has no selfie_tf: the arrays that it writes per export."""
    (folder / "script.py").write_text(text)
    np.save(folder / "images.npy", images)
    arguments = [str(x) for x in (folder / "script.py", folder / "images.npy", *exports)]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [np.load(f"{export}.npz") for export in exports]


@pytest.fixture(scope="module")
def images():
    return synthetic.draw_shapes(np.arange(5000, 5012), SIZE)[0]


@pytest.fixture(scope="module")
def pretrained(shared):
    return shared(TINY)


@pytest.fixture(scope="module")
def finetuned(pretrained, shared):
    """With attention pooling, whose dropout keeps a count."""
    return shared([*ATTENTION, f"--config.init_from={pretrained}"], "finetune")


@pytest.fixture(scope="module")
def runs(pretrained, finetuned, shared):
    """{name: work directory}: pretraining and finetuning, by both methods."""
    patchformer = shared(TINY_PATCHFORMER)
    flags = [*TINY_FINETUNE_PATCHFORMER, f"--config.init_from={patchformer}"]
    return {
        "features": pretrained,
        "classifier": finetuned,
        "patchformer_features": patchformer,
        "patchformer_classifier": shared(flags, "finetune"),
    }


@pytest.fixture(scope="module")
def exports(runs, tmp_path_factory):
    """{name: export of the run}; one had left something behind when it was killed before."""
    root = tmp_path_factory.mktemp("exports")
    (root / "features.tmp-1").mkdir()
    for name, workdir in runs.items():
        slash = "/" * (name == "features")
        out = succeeds("export", f"--workdir={workdir}", f"--output={root}/{name}{slash}")
        assert f"exported {workdir} (builtin:shapes, step 24 of 24) to {root}/{name}" in out
    return {name: root / name for name in runs}


@pytest.fixture(scope="module")
def features(exports):
    return exports["features"]


@pytest.fixture(scope="module")
def classifier(exports):
    return exports["classifier"]


@pytest.fixture(scope="module")
def answers(exports, images, tmp_path_factory):
    """{name: what a stranger finds in the export}."""
    folder = tmp_path_factory.mktemp("stranger")
    return dict(zip(exports, run_script(STRANGER, folder, images, *exports.values()), strict=True))


def assert_trained(answers):
    names = answers["names"].tolist()
    statistics = [name for name in names if "moving_" in name]
    assert statistics and set(statistics) <= set(answers["moved"].tolist())
    # More than half of them; a small step rounds away where gradients are small.
    kernels = {name for name in names if name.endswith("kernel:0")}
    assert len(kernels & set(answers["moved"].tolist())) > len(kernels) / 2 > 5


def test_features_in_a_strangers_process(answers, pretrained, images):
    model, found = load_pretrained(str(pretrained)), answers["features"]
    expected = model.patch_features(images[:, None], training=False)[:, 0].numpy()
    assert expected.shape == (12, 32) and np.abs(expected).max() > 0.01
    np.testing.assert_array_equal(model.image_features(images, training=False), expected)
    for key in ("features", "float32_features", "called"):
        np.testing.assert_allclose(found[key], expected, rtol=1e-5, atol=1e-5, err_msg=key)
    assert_trained(found)
    assert found["loss_after"] < found["loss_before"]  # no dropout in it
    assert not any("attention" in name for name in found["names"].tolist())


def test_a_classifier_in_a_strangers_process(answers, finetuned, images):
    expected = load_finetuned(str(finetuned))(images, training=False).numpy()
    found = answers["classifier"]
    for key in ("logits", "float32_logits", "called"):
        np.testing.assert_allclose(found[key], expected, rtol=1e-5, atol=1e-5, err_msg=key)
    exps = np.exp(expected - expected.max(-1, keepdims=True))
    probabilities = exps / exps.sum(-1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
    assert found["class_names"].tolist() == list(synthetic.CLASS_NAMES)
    named = [synthetic.CLASS_NAMES[i] for i in expected.argmax(-1)]
    assert found["class"].tolist() == named
    assert_trained(found)


def test_features_of_patchformer_in_a_strangers_process(answers, runs, images):
    found = answers["patchformer_features"]
    model = load_pretrained(str(runs["patchformer_features"]))
    expected = model.image_features(images, training=False).numpy()
    assert expected.shape == (12, 32) and np.std(expected, axis=0).max() > 0
    # Other fusions round differently, which layer norms amplify.
    for key in ("features", "float32_features", "called"):
        np.testing.assert_allclose(found[key], expected, rtol=1e-4, atol=5e-4)
    moved = set(found["moved"].tolist())
    statistics = {name for name in found["names"].tolist() if "moving_" in name}
    assert statistics and statistics <= moved


def test_a_classifier_of_patchformer_in_a_strangers_process(answers, runs, images):
    found = answers["patchformer_classifier"]
    model = load_finetuned(str(runs["patchformer_classifier"]))
    expected = model(images, training=False).numpy()
    # Other fusions round differently, which layer norms amplify; logits differ by 0.1 and more.
    for key in ("logits", "float32_logits", "called"):
        np.testing.assert_allclose(found[key], expected, atol=5e-4)
    moved = set(found["moved"].tolist())
    assert any("patch_dropout/calls" in name for name in moved)
    assert any("moving_mean" in name for name in moved)


def test_features_in_a_hub_layer(features, pretrained, images, tmp_path):
    model = load_pretrained(str(pretrained))
    expected = model.patch_features(images[:, None], training=False)[:, 0]
    shutil.copytree(features, tmp_path / "export")
    (found,) = run_script(HUB, tmp_path, images, tmp_path / "export")
    np.testing.assert_allclose(found["answers"], expected, rtol=1e-5, atol=1e-5)
    trainable = [v.name for v in model.patch_network.trainable_weights]
    assert len(found["trainable"]) == len(trainable)
    moved = found["moved"].tolist()
    assert any("moving_mean" in name for name in moved) and len(moved) > 40


@pytest.mark.parametrize("name", ["features", "classifier", "patchformer_features"])
def test_an_export_loads_as_the_run_it_is_of(name, runs, exports):
    load = load_finetuned if name == "classifier" else load_pretrained
    mine, theirs = load(str(exports[name])), load(str(runs[name]))
    found = {v.name: v for v in mine.weights if "/" in v.name}
    expected = {v.name: v for v in theirs.weights if "/" in v.name}
    assert set(found) == set(expected) and len(found) > 40
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_finetuning_from_an_export_is_finetuning_from_its_run(features, finetuned, tmp_path):
    flags = [*ATTENTION, f"--config.init_from={features}", f"--workdir={tmp_path}"]
    out = succeeds("finetune", *flags)
    assert "the sha256 of all" in out
    assert f"loaded from {features} (builtin:shapes, step 24 of 24)" in out
    assert_identical(tmp_path, weights(finetuned))
    assert result_of(tmp_path)["test_loss"] == result_of(finetuned)["test_loss"]


def test_an_export_is_not_exported_and_its_card_may_be_added_to(features, tmp_path):
    copy = tmp_path / "export"
    shutil.copytree(features, copy)
    (copy / "README.md").write_text("mine")
    assert load_pretrained(str(copy)).patch_network.built
    line = fails("export", f"--workdir={copy}", f"--output={tmp_path}/new")
    assert f"--workdir={copy} is an export already" in line


def test_what_a_killed_export_left_is_removed(features):
    assert not (features.parent / "features.tmp-1").exists()
    assert (features / "saved_model.pb").exists()


def test_the_model_card_says_what_it_is(classifier, finetuned):
    card = (classifier / "README.md").read_text()
    result = result_of(finetuned)
    for part in (
        "# Image classifier",
        "builtin:shapes, step 24 of 24",
        f"- test_top1: {result['test_top1']:g}",
        "| optimizer.learning_rate | 0.05 |",
        "disc, ring, square",
        f"`selfie-tf export --workdir={finetuned} --output={classifier}`",
    ):
        assert part in card
    import hashlib

    digest = hashlib.sha256((classifier / "saved_model.pb").read_bytes()).hexdigest()
    assert f"{digest}  saved_model.pb" in card


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
def test_a_damaged_export_is_refused(name, damage, features, tmp_path):
    copy = tmp_path / "export"
    shutil.copytree(features, copy)
    content = bytearray((copy / name).read_bytes())
    if damage == "truncated":
        (copy / name).write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
    else:
        (copy / name).unlink()
    with pytest.raises(UserError, match=f"{copy}: {name} changed or lost since the export"):
        load_pretrained(str(copy))


def test_a_truncated_export_is_one_line_of_the_command(features, tmp_path):
    copy = tmp_path / "export"
    shutil.copytree(features, copy)
    os.truncate(copy / "saved_model.pb", 1000)
    flags = ["finetune", *ATTENTION, f"--config.init_from={copy}", f"--workdir={tmp_path}/run"]
    line = fails(*flags)
    assert f"{copy}: saved_model.pb changed or lost" in line
    (copy / "selfie_tf.json").write_text("{")
    line = fails(*flags)
    assert "selfie_tf.json cannot be used" in line
    (copy / "selfie_tf.json").unlink()
    line = fails(*flags)
    assert "not one of selfie-tf export" in line


def test_where_an_export_cannot_go(pretrained, tmp_path):
    def fails_to(output, workdir=pretrained):
        return fails("export", f"--workdir={workdir}", f"--output={output}")

    (tmp_path / "there").mkdir()
    assert f"--output={tmp_path}/there exists already" in fails_to(tmp_path / "there")
    (tmp_path / "file").write_text("")
    assert "--output=" in fails_to(tmp_path / "file" / "x")
    assert "give a local folder" in fails_to("gs://bucket/x")
    line = fails_to(tmp_path / "new", tmp_path / "nothing")
    assert f"{tmp_path}/nothing: no config.json in it" in line
    assert not (tmp_path / "new").exists()


def test_the_example_runs_on_an_export(features, tmp_path):
    images, labels = synthetic.draw_shapes(np.arange(100), 32)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "images" / synthetic.CLASS_NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    arguments = features, tmp_path / "images", tmp_path / "out"
    code, out, err = run(*arguments, command="examples/finetune_with_keras.py")
    assert code == 0, err
    assert out.count("val_accuracy") == 5
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    assert loaded.serve(images[:3].astype(np.float32)).shape == (3, 10)
