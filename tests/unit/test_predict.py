"""Predictions for any images: order, table, unreadable files, contact sheet, mistakes."""

import csv
import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from selfie_tf.config import FinetuneConfig, to_dict
from selfie_tf.data import make_source, synthetic
from selfie_tf.data.pipeline import evaluation_batches
from selfie_tf.data.source import BatchShard
from selfie_tf.evaluation import images, predict
from selfie_tf.training.build import build_classifier
from selfie_tf.training.load import LoadedRun, load_finetuned

from helpers import call, fails, save_run, succeeds, write_json

COLOURS = ("red", "green", "blue", "black")


def finetune_config(image_size=16):
    config = FinetuneConfig()
    config.data.name, config.data.image_size, config.patches.size = "builtin:shapes", image_size, 4
    config.data.crop = "center"
    config.model.width, config.model.num_heads, config.model.mlp_dim = 2, 2, 16
    config.validate()
    return config


@pytest.fixture
def colours(monkeypatch):
    """Stands in for a classifier: an image's logits are the means of its channels, and 0."""

    def logits(pixels, training):
        assert training is False and pixels.dtype == tf.uint8
        means = tf.reduce_mean(tf.cast(pixels, tf.float32), [1, 2]) / 50
        return tf.concat([means, tf.zeros_like(means[:, :1])], axis=1)

    def load(path):
        return LoadedRun(logits, finetune_config(), COLOURS, 7, f"{path} (made up)", "")

    monkeypatch.setattr(predict, "load_finetuning_run", load)


def save(path, colour, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def probabilities(colour):
    """A loop of its own."""
    values = [np.exp(float(c) / 50) for c in (*colour, 0)]
    return [value / sum(values) for value in values]


def table(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_least_certain_come_first_with_their_three_most_probable_classes(colours, tmp_path):
    found = {
        "sure.png": (250, 10, 20),
        "deep/er/torn.bmp": (100, 110, 105),
        "deep/half.png": (30, 200, 180),
        "z/torn again.png": (100, 110, 105),
    }
    for name, colour in found.items():
        save(tmp_path / "images" / name, colour)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    flags = ["--workdir=run", f"--images={tmp_path}/images", f"--output={tmp_path}/new/x.csv"]
    assert succeeds("predict", *flags) == ""
    rows = table((tmp_path / "new" / "x.csv").read_text(encoding="utf-8"))
    order = ["deep/er/torn.bmp", "z/torn again.png", "deep/half.png", "sure.png"]
    assert [row["path"] for row in rows] == order
    for row in rows:
        p = probabilities(found[row["path"]])
        best = sorted(range(4), key=lambda i: -p[i])[:3]
        words = [row["class"], row["class_2"], row["class_3"]]
        assert words == [COLOURS[i] for i in best]
        shown = [row["probability"], row["probability_2"], row["probability_3"]]
        assert [float(x) for x in shown] == pytest.approx([p[i] for i in best], abs=6e-7)
    header = "path class probability class_2 probability_2 class_3 probability_3"
    assert list(rows[0]) == header.split()


def test_standard_output_has_the_table_alone(colours, tmp_path):
    save(tmp_path / "x.png", (9, 99, 9))
    code, out, err = call("predict", "--workdir=run", f"--images={tmp_path}", "--output=-")
    assert code == 0 and len(table(out)) == 1 and out.startswith("path,class,")
    assert "run (made up): classified 1 images" in err


def test_one_file_is_named_as_itself(colours, tmp_path):
    save(tmp_path / "x" / "photo.png", (9, 99, 9))
    flags = ["--workdir=run", f"--images={tmp_path}/x/photo.png", "--output=-"]
    assert table(succeeds("predict", *flags))[0]["path"] == "photo.png"


def test_names_of_all_kinds_come_back(colours, tmp_path):
    names = {
        'say "a", b.png',
        "two\nlines.png",
        "zurück\r.png",
        "=SUM(A1).png",
        "写真 .png",
        "'.png",
    }
    for name in names:
        save(tmp_path / "images" / name, (9, 99, 9))
    flags = ["--workdir=run", f"--images={tmp_path}/images"]
    assert {row["path"] for row in table(succeeds("predict", *flags, "--output=-"))} == names
    succeeds("predict", *flags, f"--output={tmp_path}/x.csv")
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        assert {row["path"] for row in csv.DictReader(file)} == names


def test_two_classes_have_two_pairs_of_columns():
    rows = [("x", predict.best(np.array([1.0, 3.0]), ("no", "yes")))]
    p = 1 / (1 + np.exp(-2))
    assert predict.to_table(rows) == (
        "path,class,probability,class_2,probability_2\n" + f"x,yes,{p:.6f},no,{1 - p:.6f}\n"
    )


def test_probabilities_of_huge_logits_are_numbers():
    assert predict.best(np.array([1e4, -1e4, 1e4], np.float32), "abc") == [
        ("a", 0.5),
        ("c", 0.5),
        ("b", 0.0),
    ]


# Unreadable files


@pytest.fixture
def damaged(tmp_path):
    """40 images, of which 3 cannot be read; the last one is one of them."""
    for i in range(40):
        save(tmp_path / "images" / f"{i:02d}.png", (i, 3 * i, 200 - i))
    for i in (0, 17, 39):
        (tmp_path / "images" / f"{i:02d}.png").write_bytes(b"nothing")
    return tmp_path / "images"


def test_unreadable_files_are_named_and_left_out(colours, damaged):
    flags = ["--workdir=run", f"--images={damaged}", "--output=-", "--corrupt_budget=0.1"]
    code, out, err = call("predict", *flags)
    rows = table(out)
    assert code == 0 and len(rows) == 37
    assert {row["path"] for row in rows} == {
        f"{i:02d}.png" for i in range(40) if i not in (0, 17, 39)
    }
    for row in rows:  # none has the pixels of another
        i = int(row["path"][:2])
        assert float(row["probability"]) == pytest.approx(
            max(probabilities((i, 3 * i, 200 - i))), abs=6e-7
        )
    for i in (0, 17, 39):
        assert sum(f"{damaged}/{i:02d}.png" in line for line in err.splitlines()) == 1
    assert "classified 37 images, left out 3 unreadable ones" in err


def test_more_unreadable_files_than_may_be_are_an_error(colours, damaged, tmp_path):
    flags = ["--workdir=run", f"--images={damaged}", f"--output={tmp_path}/x.csv"]
    line = fails("predict", *flags)
    for part in ("of 40 images are unreadable", "0.001", "or raise --corrupt_budget", str(damaged)):
        assert part in line
    assert "config" not in line and not (tmp_path / "x.csv").exists()


def test_a_single_file_that_is_no_image(colours, tmp_path):
    (tmp_path / "x.jpg").write_text("no image")
    line = fails("predict", "--workdir=run", f"--images={tmp_path}/x.jpg", "--output=-")
    assert "none of 1 images is readable" in line and f"{tmp_path}/x.jpg" in line


# What the network sees


def test_images_are_seen_as_in_evaluation(tmp_path, rng):
    """JPEGs are shrunk while they are decoded."""
    config = finetune_config()
    config.data.crop, config.data.test_crop = "random_resized", 0.8
    for i in range(30):
        size = rng.integers(100, 300, 2)
        pixels = rng.integers(0, 256, [*size, 3], dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg")
    config.data.name = f"folder:{tmp_path}"
    source = make_source(config.data)
    (expected, _), *_ = evaluation_batches(source, config, BatchShard(3)).as_numpy_iterator()
    files = images.open_images(config, str(tmp_path))
    (indices, squares, labels, means), *_ = images.outputs(
        files, config.data, lambda x: tf.reduce_mean(tf.cast(x, tf.float32), [1, 2])
    )
    ids = files.held_out_ids()
    assert sorted(ids) == sorted(os.listdir(tmp_path)) and (labels == -1).all()
    np.testing.assert_allclose(means, squares.mean((1, 2)), rtol=1e-5)
    seen = dict(zip([ids[i] for i in indices], squares))
    for name, square in zip(source.held_out_ids(), expected):
        np.testing.assert_array_equal(seen[name], square, err_msg=name)


def test_data_by_name_gives_its_held_out_images(colours):
    flags = ["--workdir=run", "--data_name=builtin:shapes", "--output=-"]
    rows = table(succeeds("predict", *flags))
    assert {row["path"] for row in rows} == {str(i) for i in range(5000, 6000)}
    drawn, _ = synthetic.draw_shapes(np.array([int(rows[500]["path"])]), 16)
    p = probabilities(drawn[0].mean((0, 1)))
    assert float(rows[500]["probability"]) == pytest.approx(max(p), abs=6e-7)


def test_a_classifier_is_read_from_its_run(tmp_path, rng):
    config = finetune_config()
    model = build_classifier(config, 3)
    for variable in model.head.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    save_run(tmp_path / "run", config, model)
    write_json(tmp_path / "run" / "subset.json", {"class_names": ["a", "b", "c"]})
    pixels = {f"{i}.png": rng.integers(0, 256, [16, 16, 3], dtype=np.uint8) for i in range(5)}
    (tmp_path / "images").mkdir()
    for name, image in pixels.items():
        Image.fromarray(image).save(tmp_path / "images" / name)
    flags = [f"--workdir={tmp_path}/run", f"--images={tmp_path}/images", "--output=-"]
    rows = table(succeeds("predict", *flags))
    model = load_finetuned(str(tmp_path / "run"))
    for row in rows:
        logits = model(pixels[row["path"]][None], training=False).numpy()[0].astype(np.float64)
        p = np.exp(logits) / np.exp(logits).sum()
        assert row["class"] == "abc"[p.argmax()]
        assert float(row["probability"]) == pytest.approx(p.max(), abs=1e-5)
    assert len(rows) == 5


# The contact sheet


def test_the_sheet_shows_the_least_certain_in_the_order_of_the_table(
    colours, tmp_path, monkeypatch
):
    for i in range(50):
        save(tmp_path / "images" / f"{i:02d}.png", (5 * i, 60, 30))
    monkeypatch.setattr(images, "BATCH_SIZE", 16)
    drawn = []
    monkeypatch.setattr(predict.figures, "draw_sheet", lambda _, *args: drawn.append(args))
    flags = [f"--images={tmp_path}/images", "--output=-", f"--sheet={tmp_path}/new/sheet.png"]
    rows = table(succeeds("predict", "--workdir=run", *flags))
    ((squares, captions),) = drawn
    assert squares.shape == (40, 16, 16, 3) and (tmp_path / "new" / "sheet.png").exists()
    for square, text, row in zip(squares, captions, rows):
        np.testing.assert_array_equal(square[3, 3], [5 * int(row["path"][:2]), 60, 30])
        assert text == f"{row['class']}\n{float(row['probability']):.0%}"


def test_captions_have_one_line_per_class_name():
    assert predict.caption("a\n b", 0.256) == "a b\n26%"


# Mistakes


@pytest.mark.parametrize(
    "flags, expected",
    [
        ([], "--images or --data_name, one of them: give a folder"),
        (["--images=x", "--data_name=y"], "one of them: both were given"),
        (["--images=x"], "--output is missing"),
        (["--images=x", "--output=-", "--corrupt_budget=2"], "--corrupt_budget=2"),
    ],
)
def test_flags_that_do_not_go_together(flags, expected):
    assert expected in fails("predict", "--workdir=run", *flags)


def test_images_that_are_not_there(colours, tmp_path):
    flags = ["--workdir=run", "--output=-"]
    line = fails("predict", *flags, f"--images={tmp_path}/no")
    assert f"--images={tmp_path}/no: no such folder or file" in line
    line = fails("predict", *flags, f"--images={tmp_path}")
    assert f"--images={tmp_path}: no images in it" in line and ".png" in line


def test_outputs_that_cannot_be_written_are_noticed_first(tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "load_finetuning_run", None)
    save(tmp_path / "x.png", (9, 99, 9))
    flags = ["--workdir=run", f"--images={tmp_path}"]
    (tmp_path / "file").write_text("")
    line = fails("predict", *flags, f"--output={tmp_path}/file/x.csv")
    assert f"--output={tmp_path}/file/x.csv cannot be written" in line
    assert "is a folder; give a file" in fails("predict", *flags, f"--output={tmp_path}")
    line = fails("predict", *flags, "--output=-", f"--sheet={tmp_path}")
    assert f"--sheet={tmp_path} is a folder" in line


def test_a_pretraining_run_is_no_classifier(tmp_path, tiny_config):
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.json", to_dict(tiny_config))
    flags = [f"--workdir={tmp_path}/run", f"--images={tmp_path}", "--output=-"]
    assert "comes from a pretraining run; give a finetuning run" in fails("predict", *flags)
