"""Features of any images, and the files that hold them."""

import csv
import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from selfie_tf.config import FinetuneConfig
from selfie_tf.data import synthetic
from selfie_tf.evaluation import embed
from selfie_tf.training.build import build_classifier, build_pretrainer
from selfie_tf.training.load import load_finetuned, load_pretrained

from helpers import call, fails, save_run, succeeds, write_json

NAMES = ["a.png", "b/c/ä, é.png", 'b/"d"\n.png']


@pytest.fixture
def pixels(tmp_path, rng):
    """{path below tmp_path/images: image}"""
    pixels = {name: rng.integers(0, 256, [16, 16, 3], dtype=np.uint8) for name in NAMES}
    for name, image in pixels.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return pixels


def embedded(tmp_path, *flags):
    succeeds("embed", f"--output={tmp_path}/new/x.npz", *flags)
    with np.load(tmp_path / "new" / "x.npz") as file:  # no pickle
        return dict(file)


def digest_of(run):
    manifest = run / "checkpoints" / "step-00000001" / "manifest.json"
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_features_of_a_pretrained_network(tiny_config, pixels, tmp_path):
    run = tmp_path / "run"
    save_run(run, tiny_config, build_pretrainer(tiny_config))
    found = embedded(tmp_path, f"--workdir={run}", f"--images={tmp_path}/images")
    assert sorted(found["ids"]) == sorted(NAMES)
    model = load_pretrained(str(run))
    for name, features in zip(found["ids"], found["features"], strict=True):
        expected = model.image_features(pixels[name][None], training=False)[0]
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert len({x.tobytes() for x in found["features"]}) == 3
    assert found["features"].dtype == np.float32 and found["features"].shape == (3, 32)
    assert found["labels"].dtype == np.int64 and (found["labels"] == -1).all()
    assert (found["split"] == "").all() and found["class_names"].shape == (0,)
    assert found["fingerprint"] == digest_of(run)
    assert str(found["model"]).startswith(f"{run} (builtin:shapes, step 1 of ")


def test_features_of_a_classifier_are_what_its_last_layer_sees(pixels, tmp_path):
    config = FinetuneConfig()
    config.data.image_size, config.patches.size = 16, 4
    config.model.width, config.model.num_heads, config.model.mlp_dim = 2, 2, 16
    run = tmp_path / "run"
    save_run(run, config, build_classifier(config, 3))
    write_json(run / "subset.json", {"class_names": ["a", "b", "c"]})
    table = tmp_path / "x.csv"
    found = embedded(tmp_path, f"--workdir={run}", f"--images={tmp_path}/images", f"--csv={table}")
    model = load_finetuned(str(run))
    for name, features in zip(found["ids"], found["features"], strict=True):
        logits = features @ model.head.kernel.numpy() + model.head.bias.numpy()
        expected = model(pixels[name][None], training=False)[0]
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    with open(table, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[:5] == ["path", "label", "split", "feature_0", "feature_1"]
    assert [row[0] for row in rows] == found["ids"].tolist() and rows[0][1:3] == ["", ""]
    written = np.array([row[3:] for row in rows], np.float32)
    np.testing.assert_array_equal(written, found["features"])


def test_data_by_name_gives_both_splits_with_labels(means, tmp_path):
    found = embedded(tmp_path, "--workdir=run", "--data_name=builtin:shapes")
    assert found["ids"].tolist() == [str(i) for i in range(6000)]
    assert found["split"].tolist() == ["train"] * 5000 + ["test"] * 1000
    assert found["class_names"].tolist() == list(synthetic.CLASS_NAMES)
    assert found["fingerprint"] == "abc"
    drawn, labels = synthetic.draw_shapes(np.arange(6000), 16)
    np.testing.assert_array_equal(found["labels"], labels)
    np.testing.assert_allclose(found["features"], drawn.mean((1, 2)), rtol=1e-5)
    rows = embed.to_table(found).splitlines()
    assert rows[5001].startswith(f"5000,{synthetic.CLASS_NAMES[labels[5000]]},test,")


def test_unreadable_files_are_left_out(means, pixels, tmp_path):
    (tmp_path / "images" / "a.png").write_bytes(b"nothing")
    flags = ["--workdir=run", f"--images={tmp_path}/images"]
    code, out, _ = call("embed", *flags, f"--output={tmp_path}/x.npz")
    assert code == 0 and f"skipped unreadable image {tmp_path}/images/a.png" in out
    with np.load(tmp_path / "x.npz") as file:
        assert sorted(file["ids"]) == sorted(NAMES[1:])
        for name, features in zip(file["ids"], file["features"], strict=True):
            np.testing.assert_allclose(features, pixels[name].mean((0, 1)), rtol=1e-5)
    flags += ["--corrupt_budget=0", f"--output={tmp_path}/y.npz"]
    assert "1 of 3 images are unreadable" in fails("embed", *flags)
    assert not (tmp_path / "y.npz").exists()


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--output=x.npz"], "--images or --data_name"),
        (["--images=x"], "--output is missing"),
        (["--images=x", "--output=x.npz"], "/no/run: no config.json in it"),
        (["--images=x", "--output=a", "--csv=./a"], "--csv=./a is what --output names, too"),
        (["--images=x", "--output=a", "--projector=x"], "--projector=x is what --images names"),
        (["--images=x", "--output=pipe"], "--output=pipe is not a regular file"),
        (["--images=x", f"--output={'x' * 300}"], "xxx cannot be written"),
    ],
)
def test_mistakes(flags, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    assert expected in fails("embed", "--workdir=/no/run", *flags)
    assert os.listdir() == ["pipe"]
