"""SavedModels: served and finetuned without selfie_tf, and read back by it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from selfie_tf.data import synthetic
from selfie_tf.training.load import load_finetuned, load_pretrained

from helpers import ROOT, TINY, TINY_FINETUNE, run

SIZE = 16

# A stranger's script: no selfie_tf, no Keras; one step of training from the `train` trace.
STRANGER = """
import sys
import numpy as np
import tensorflow as tf

path, data, out = sys.argv[1:]
images = np.load(data)
model = tf.saved_model.load(path)
assert not any(name.startswith("selfie_tf") for name in sys.modules)
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
np.savez(out, moved=moved, names=list(before), **answers)
"""

HUB = """
import os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np
import tensorflow_hub as hub
import tf_keras as keras

path, data, out = sys.argv[1:]
images = np.load(data)
layer = hub.KerasLayer(path, trainable=True)
model = keras.Sequential([keras.Input(images.shape[1:], dtype="uint8"), layer,
                          keras.layers.Dense(3)])
answers = layer(images).numpy()
before = [v.numpy() for v in layer.weights]
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(images, np.arange(len(images)) % 3, verbose=0)
moved = [v.name for v, b in zip(layer.weights, before) if (v.numpy() != b).any()]
assert not any(name.startswith("selfie_tf") for name in sys.modules)
np.savez(out, answers=answers, moved=moved, trainable=[v.name for v in layer.trainable_weights])
"""


@pytest.fixture(scope="module")
def images():
    return synthetic.draw_shapes(np.arange(5000, 5012), SIZE)[0]


@pytest.fixture(scope="module")
def pretrained(finished):
    return finished(TINY)


def finetune(workdir, *flags):
    flags = [*TINY_FINETUNE, *flags, f"--workdir={workdir}"]
    return run(*flags, command="bin/finetune.py")


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """With attention pooling, whose dropout keeps a count."""
    workdir = tmp_path_factory.mktemp("runs") / "finetuned"
    code, _, err = finetune(workdir, "--config.model.head=resnet36_attention")
    assert code == 0, err
    return workdir


def export(workdir, output):
    return run(f"--workdir={workdir}", f"--output={output}", command="bin/export.py")


@pytest.fixture(scope="module")
def features(pretrained, tmp_path_factory):
    output = tmp_path_factory.mktemp("exports") / "features"
    code, out, err = export(pretrained, output)
    assert code == 0, err
    assert f"exported {pretrained} (builtin:shapes, step 24 of 24) to {output}" in out
    return output


@pytest.fixture(scope="module")
def classifier(finetuned, tmp_path_factory):
    output = tmp_path_factory.mktemp("exports") / "classifier"
    code, _, err = export(finetuned, output)
    assert code == 0, err
    return output


def run_script(text, export, images, folder):
    """The arrays that a script of a fresh process writes."""
    (folder / "script.py").write_text(text)
    np.save(folder / "images.npy", images)
    arguments = [str(x) for x in (export, folder / "images.npy", folder / "out.npz")]
    command = [sys.executable, str(folder / "script.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "out.npz")


def assert_trained(answers):
    names = answers["names"].tolist()
    statistics = [name for name in names if "moving_" in name]
    assert statistics and set(statistics) <= set(answers["moved"].tolist())
    # More than half of the 43; a small step rounds away where gradients are small.
    assert sum(name.endswith("kernel:0") for name in answers["moved"]) > 21


def test_features_in_a_fresh_process(features, pretrained, images, tmp_path):
    model = load_pretrained(str(pretrained))
    expected = model.patch_features(images[:, None], training=False)[:, 0].numpy()
    answers = run_script(STRANGER, features, images, tmp_path)
    assert expected.shape == (12, 32) and np.abs(expected).max() > 0.01
    for key in ("features", "float32_features", "called"):
        np.testing.assert_allclose(answers[key], expected, rtol=1e-5, atol=1e-5, err_msg=key)
    assert_trained(answers)
    assert answers["loss_after"] < answers["loss_before"]  # no dropout in it
    assert not any("attention" in name for name in answers["names"].tolist())


def test_a_classifier_in_a_fresh_process(classifier, finetuned, images, tmp_path):
    expected = load_finetuned(str(finetuned))(images, training=False).numpy()
    answers = run_script(STRANGER, classifier, images, tmp_path)
    for key in ("logits", "float32_logits", "called"):
        np.testing.assert_allclose(answers[key], expected, rtol=1e-5, atol=1e-5, err_msg=key)
    exps = np.exp(expected - expected.max(-1, keepdims=True))
    probabilities = exps / exps.sum(-1, keepdims=True)
    np.testing.assert_allclose(answers["probabilities"], probabilities, atol=1e-5)
    assert answers["class_names"].tolist() == list(synthetic.CLASS_NAMES)
    named = [synthetic.CLASS_NAMES[i] for i in expected.argmax(-1)]
    assert answers["class"].tolist() == named
    assert_trained(answers)


def test_features_in_a_hub_layer(features, pretrained, images, tmp_path):
    model = load_pretrained(str(pretrained))
    expected = model.patch_features(images[:, None], training=False)[:, 0]
    answers = run_script(HUB, features, images, tmp_path)
    np.testing.assert_allclose(answers["answers"], expected, rtol=1e-5, atol=1e-5)
    trainable = [v.name for v in model.patch_network.trainable_weights]
    assert len(answers["trainable"]) == len(trainable)
    moved = answers["moved"].tolist()
    assert any("moving_mean" in name for name in moved) and len(moved) > 100


def test_an_export_loads_as_the_run_it_is_of(features, classifier, pretrained, finetuned, images):
    for load, path, workdir in (
        (load_pretrained, features, pretrained),
        (load_finetuned, classifier, finetuned),
    ):
        mine, theirs = load(str(path)), load(str(workdir))
        found = {v.name: v for v in mine.weights if "/" in v.name}
        expected = {v.name: v for v in theirs.weights if "/" in v.name}
        assert set(found) == set(expected) and len(found) > 100
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("head", ["resnet50", "resnet36_attention"])
def test_finetuning_from_an_export_is_finetuning_from_its_run(head, features, pretrained, tmp_path):
    values = [f"--config.model.head={head}", "--config.train.steps=6"]
    losses = []
    for source in (features, pretrained):
        workdir = tmp_path / source.name
        code, out, err = finetune(workdir, f"--config.init_from={source}", *values)
        assert code == 0, err
        losses.append(json.loads((workdir / "result.json").read_text())["test_loss"])
        if source == features:
            assert "the sha256 of all" in out
            assert f"loaded from {features} (builtin:shapes, step 24 of 24)" in out
    assert losses[0] == losses[1]


def test_an_export_is_not_exported_and_its_card_may_be_added_to(features, tmp_path):
    copy = tmp_path / "export"
    shutil.copytree(features, copy)
    (copy / "README.md").write_text("mine")
    assert load_pretrained(str(copy)).patch_network.built
    assert f"--workdir={copy} is an export already" in fails(export, copy, tmp_path / "new")


def test_what_a_killed_export_left_is_removed(pretrained, tmp_path):
    left = tmp_path / "out.tmp-1"
    left.mkdir()
    code, _, err = export(pretrained, f"{tmp_path}/out/")  # with a slash
    assert code == 0, err
    assert not left.exists() and (tmp_path / "out" / "saved_model.pb").exists()


def test_the_model_card_says_what_it_is(classifier, finetuned):
    card = (classifier / "README.md").read_text()
    result = json.loads((finetuned / "result.json").read_text())
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


def fails(*arguments):
    code, _, err = arguments[0](*arguments[1:])
    assert code == 1 and "Traceback" not in err, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and err.splitlines()[-1] == errors[0], err
    return errors[0]


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
    from selfie_tf.errors import UserError

    with pytest.raises(UserError, match=f"{copy}: {name} changed or lost since the export"):
        load_pretrained(str(copy))


def test_a_truncated_export_is_one_line_of_the_command(features, tmp_path):
    copy = tmp_path / "export"
    shutil.copytree(features, copy)
    os.truncate(copy / "saved_model.pb", 1000)
    line = fails(finetune, tmp_path / "run", f"--config.init_from={copy}")
    assert f"{copy}: saved_model.pb changed or lost" in line
    (copy / "selfie_tf.json").write_text("{")
    line = fails(finetune, tmp_path / "run", f"--config.init_from={copy}")
    assert "selfie_tf.json cannot be used" in line
    (copy / "selfie_tf.json").unlink()
    line = fails(finetune, tmp_path / "run", f"--config.init_from={copy}")
    assert "not one of selfie-tf export" in line


def test_where_an_export_cannot_go(pretrained, tmp_path):
    (tmp_path / "there").mkdir()
    line = fails(export, pretrained, tmp_path / "there")
    assert f"--output={tmp_path}/there is there already" in line
    (tmp_path / "file").write_text("")
    assert "--output=" in fails(export, pretrained, tmp_path / "file" / "x")
    assert "give a local folder" in fails(export, pretrained, "gs://bucket/x")
    line = fails(export, tmp_path / "nothing", tmp_path / "new")
    assert f"{tmp_path}/nothing: no config.json in it" in line
    assert not (tmp_path / "new").exists()


def test_the_example_runs_on_an_export(features, tmp_path):
    images, labels = synthetic.draw_shapes(np.arange(100), 32)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "images" / synthetic.CLASS_NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    script = os.path.join(ROOT, "examples", "finetune_with_keras.py")
    arguments = [str(features), str(tmp_path / "images"), str(tmp_path / "out")]
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("val_accuracy") == 5
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    assert loaded.serve(images[:3].astype(np.float32)).shape == (3, 10)
