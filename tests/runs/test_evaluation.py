"""Evaluation of pretrained and finetuned runs, and their comparison."""

import csv
import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from selfie_tf.data import synthetic
from selfie_tf.errors import UserError
from selfie_tf.evaluation import probes
from selfie_tf.evaluation.compare import compare
from selfie_tf.training import classes
from selfie_tf.training.load import load_finetuned

from helpers import TINY, TINY_FINETUNE, call, fails, read_json, result_of, save_noise, succeeds


def test_confusion_matrix_and_table_match_a_loop(rng):
    labels, answers = rng.integers(0, 4, 50), rng.integers(0, 3, 50)
    matrix = classes.confusion_matrix(labels, answers, 5)
    names = [*"abcde"]  # d is never answered, e has no image
    for i in range(5):
        for j in range(5):
            assert matrix[i, j] == sum(
                1 for x, y in zip(labels, answers, strict=True) if (x, y) == (i, j)
            )
    for i, row in enumerate(classes.per_class(labels, answers, names)):
        mine, told = labels == i, answers == i
        assert row["class"] == names[i] and row["images"] == mine.sum()
        if mine.any():
            assert row["recall"] == pytest.approx((answers[mine] == i).mean())
            wrong = [np.sum(answers[mine] == j) if j != i else -1 for j in range(5)]
            assert row["confused_with"] == names[int(np.argmax(wrong))]
        else:
            assert row["recall"] is None and row["confused_with"] is None
        if told.any():
            assert row["precision"] == pytest.approx((labels[told] == i).mean())
        else:
            assert row["precision"] is None
    recalls = [(answers[labels == i] == i).mean() for i in range(4)]  # e has no image
    assert classes.balanced_accuracy(labels, answers) == pytest.approx(np.mean(recalls))


def test_knn_votes_by_cosine(rng):
    """Against a loop; lengths must not matter."""
    train, test = rng.normal(size=[40, 5]), rng.normal(size=[30, 5])
    train *= rng.uniform(0.1, 10, [40, 1])
    labels, wanted = rng.integers(0, 2, 40), rng.integers(0, 2, 30)
    right = 0
    for x, y in zip(test, wanted, strict=True):
        cosines = [t @ x / np.linalg.norm(t) / np.linalg.norm(x) for t in train]
        nearest = np.argsort(cosines)[-7:]  # odd, so that no vote is tied
        right += int(labels[nearest].mean() > 0.5) == y
    found = probes.knn_accuracy(train, labels, test, wanted, 7)
    assert found == pytest.approx(right / 30)
    assert probes.knn_accuracy(train[:3], [1, 1, 1], test, wanted, 20) == wanted.mean()


def test_a_linear_probe_finds_a_direction_of_small_variance(rng):
    """Features are standardised: one of 1e-4 times the size still counts."""
    features = rng.normal(size=[200, 6]) * [1, 1, 1, 1, 1, 1e-4]
    labels = (features[:, 5] > 0).astype(int)
    found = probes.linear_probe_accuracy(features[:150], labels[:150], features[150:], labels[150:])
    assert found > 0.85
    noise = probes.linear_probe_accuracy(
        features[:150, :5], labels[:150], features[150:, :5], labels[150:]
    )
    assert noise < 0.7


# Commands


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory):
    """Two finetuned runs, a and b, and a pretrained one."""
    root = tmp_path_factory.mktemp("runs")
    finished(TINY_FINETUNE, "finetune").rename(root / "a")
    finished([*TINY_FINETUNE, "--config.train.seed=1"], "finetune").rename(root / "b")
    finished(TINY).rename(root / "pretrained")
    return root


def is_png(path):
    with Image.open(path) as picture:
        return picture.format == "PNG"


def test_a_finetuned_run(runs):
    out = succeeds("evaluate", f"--workdir={runs}/a")
    result = read_json(runs / "a" / "evaluation.json")
    images, labels = synthetic.draw_shapes(np.arange(5000, 6000), 16)
    answers = load_finetuned(str(runs / "a")).predict(images, verbose=0).argmax(-1)
    expected = classes.confusion_matrix(labels, answers, 10)
    assert np.abs(np.array(result["confusion_matrix"]) - expected).sum() <= 4  # rounding
    known = result_of(runs / "a")
    assert result["test_top1"] == pytest.approx(known["test_top1"], abs=2e-3)
    assert f"test top1 {result['test_top1']:.4f}" in out
    balanced = np.mean([row["recall"] for row in result["classes"]])
    assert result["test_balanced_accuracy"] == pytest.approx(balanced)
    assert f"mean of the classes' recall: {balanced:.4f}" in out
    assert all(name in out for name in synthetic.CLASS_NAMES)
    assert is_png(runs / "a" / "figures" / "confusion.png")


def test_a_pretrained_run(runs, tmp_path):
    flags = [f"--workdir={runs}/pretrained", f"--output={tmp_path}", "--train_images=300"]
    out = succeeds("evaluate", *flags)
    result, known = read_json(tmp_path / "evaluation.json"), result_of(runs / "pretrained")
    for key in ("held_out_patch_accuracy", "held_out_patch_accuracy_uncropped"):
        assert result[key] == pytest.approx(known[key], abs=0.02)
    probes = result["probes"]
    assert probes["training_images"] == 300 and probes["test_images"] == 1000
    assert probes["statistics_images"] == 2048
    rows = {}
    for key in ("pretrained", "untrained", "pretrained_reestimated", "untrained_reestimated"):
        knn, linear = (f"{probes[key][name]:.3f}" for name in ("knn_top1", "linear_probe_top1"))
        name = key.replace("_", ", ").replace("reest", "re-est")
        assert [name, knn, linear] in [re.split("  +", line) for line in out.splitlines()]
        rows[key] = (knn, linear)
    assert len(set(rows.values())) == 4
    assert "re-estimated: with batch statistics of 2048 whole training images" in out


@pytest.mark.parametrize(
    "command, flags, loss",
    [("pretrain", TINY, "held_out_loss"), ("finetune", TINY_FINETUNE, "test_loss")],
)
def test_evaluation_is_in_the_precision_of_training(finished, tmp_path, command, flags, loss):
    workdir = finished([*flags, "--config.train.precision=mixed_bfloat16"], command)
    more = ["--train_images=100"] if command == "pretrain" else []
    succeeds("evaluate", f"--workdir={workdir}", f"--output={tmp_path}", *more)
    # In float32 they differ by 0.02 % and more.
    assert read_json(tmp_path / "evaluation.json")[loss] == pytest.approx(
        result_of(workdir)[loss], rel=1e-5
    )


def test_an_export_and_a_fraction_of_the_labels(runs, tmp_path):
    succeeds("export", f"--workdir={runs}/pretrained", f"--output={tmp_path}/export")
    results = []
    for workdir in (runs / "pretrained", tmp_path / "export"):
        flags = [f"--workdir={workdir}", f"--output={tmp_path}/{workdir.name}-evaluation"]
        succeeds("evaluate", *flags, "--label_fraction=0.02")
        path = tmp_path / f"{workdir.name}-evaluation" / "evaluation.json"
        results.append(json.loads(path.read_text())["probes"])
    assert results[0] == results[1] and results[0]["training_images"] == 100

    save_noise(tmp_path / "images", ["a.png", "b/c.png"])
    found = []
    for workdir in (runs / "pretrained", tmp_path / "export"):
        flags = [f"--workdir={workdir}", f"--images={tmp_path}/images"]
        succeeds("embed", *flags, f"--output={tmp_path}/x.npz")
        with np.load(tmp_path / "x.npz") as file:
            found.append(dict(file))
    np.testing.assert_array_equal(found[0]["features"], found[1]["features"])
    digest = hashlib.sha256((tmp_path / "export" / "selfie_tf.json").read_bytes()).hexdigest()
    assert found[1]["fingerprint"] == digest != found[0]["fingerprint"]


def test_predictions_of_a_run_and_of_its_export_are_those_of_its_evaluation(runs, tmp_path):
    succeeds("export", f"--workdir={runs}/a", f"--output={tmp_path}/export")
    tables = []
    for workdir in (runs / "a", tmp_path / "export"):
        flags = [f"--workdir={workdir}", "--data_name=builtin:shapes", "--output=-"]
        tables.append(succeeds("predict", *flags))
    assert tables[0] == tables[1]
    header, *rows = csv.reader(io.StringIO(tables[0]))
    assert header[:3] == ["path", "class", "probability"] and len(rows) == 1000
    with np.load(runs / "a" / "predictions.npz") as file:
        expected = file["predictions"]
    found = {int(row[0]) - 5000: synthetic.CLASS_NAMES.index(row[1]) for row in rows}
    assert np.mean([found[i] == expected[i] for i in range(1000)]) >= 0.998  # near ties


CATS_AND_DOGS = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(12)]


def test_other_data_is_evaluated_by_name(runs, tmp_path):
    save_noise(tmp_path / "images", CATS_AND_DOGS)
    data = f"--data_name=folder:{tmp_path}/images"
    out = succeeds("evaluate", f"--workdir={runs}/pretrained", f"--output={tmp_path}/p", data)
    assert "20 nearest neighbours" in out and f"folder:{tmp_path}/images" in out
    line = fails("evaluate", f"--workdir={runs}/a", f"--output={tmp_path}/f", data)
    assert "has the classes cat, dog" in line and "disc, ring" in line


def test_a_folder_that_has_changed_is_refused(runs, tmp_path):
    """Other images would be held out than were kept from training."""
    save_noise(tmp_path / "images", CATS_AND_DOGS)
    data = f"--config.data.name=folder:{tmp_path}/images"
    flags = [*TINY_FINETUNE, data, "--config.data.label_fraction=1", "--config.train.steps=5"]
    succeeds("finetune", *flags, f"--workdir={tmp_path}/run")
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(b"nothing")
    line = fails("evaluate", f"--workdir={tmp_path}/run")
    assert "or raise --corrupt_budget" in line
    flags = [f"--workdir={tmp_path}/run", "--corrupt_budget=1"]
    assert "none of 2 images is readable" in fails("evaluate", *flags)
    (tmp_path / "images" / "cat" / "0.png").rename(tmp_path / "images" / "cat" / "new.png")
    assert "other images than the run" in fails("evaluate", f"--workdir={tmp_path}/run")


def test_a_run_on_a_list_of_labels(tmp_path):
    """A flat folder: the listed images are trained on, or tested on if they are held out."""
    save_noise(tmp_path / "images", [f"{i:02d}.png" for i in range(60)])
    labels = tmp_path / "labels.csv"
    lines = [f"{i:02d}.png,{'odd' if i % 2 else 'even'}\n" for i in range(40)]
    labels.write_text("".join(lines))
    flags = [
        *TINY_FINETUNE,
        "--config.train.steps=5",
        "--config.data.label_fraction=1",
        f"--config.data.name=folder:{tmp_path}/images",
        f"--config.data.labels={labels}",
        f"--workdir={tmp_path}/run",
    ]
    succeeds("finetune", *flags)
    result = result_of(tmp_path / "run")
    tested = result["test_images"]
    assert 0 < tested < 10 and result["subset"]["trained_on"] == 40 - tested
    assert read_json(tmp_path / "run" / "subset.json")["class_names"] == ["even", "odd"]
    out = succeeds("evaluate", f"--workdir={tmp_path}/run")
    assert f"test top1 {result['test_top1']:.4f}" in out and "even" in out

    flags = [f"--workdir={tmp_path}/run", f"--data_name=folder:{tmp_path}/images", "--output=-"]
    assert len(succeeds("predict", *flags).splitlines()) == 1 + 6

    labels.write_text("".join([*lines[:-1], "39.png,even\n"]))
    line = fails("evaluate", f"--workdir={tmp_path}/run")
    assert "its lists have other labels" in line


def test_an_output_that_cannot_be_is_noticed_at_once(runs, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = call("evaluate", f"--workdir={runs}/a", f"--output={tmp_path}/file")
    assert code == 1 and "recall" not in out
    assert f"--output={tmp_path}/file cannot be written" in err.splitlines()[-1]


@pytest.mark.parametrize("name", ["bogus", "bogus:x"])
def test_data_names_that_are_none(runs, tmp_path, name):
    flags = [f"--workdir={runs}/a", f"--output={tmp_path}", f"--data_name={name}"]
    line = fails("evaluate", *flags)
    assert f"data.name='{name}': expected" in line and "tfds:" in line


def test_runs_that_are_not_there(tmp_path):
    assert "no config.json in it" in fails("evaluate", f"--workdir={tmp_path}")
    assert "--workdir is missing" in fails("evaluate")


def test_comparison_of_means_and_deviations(runs, tmp_path):
    results = [result_of(runs / x) for x in "ab"]
    paths = [("two seeds", str(runs / x)) for x in "ab"] + [("one", str(runs / "a"))]
    table = compare(paths, str(tmp_path / "new" / "x.png"))
    values = np.array([r["test_top1"] for r in results])
    spread = abs(values[0] - values[1]) / np.sqrt(2)
    assert f"{values.mean():.4f} ± {spread:.4f}" in table
    lines = table.splitlines()
    assert [line.split("  ")[0].strip() for line in lines[1:]] == ["two seeds", "one"]
    assert f"{values[0]:.4f}" in lines[2] and "±" not in lines[2] and "note" not in table
    assert is_png(tmp_path / "new" / "x.png")


def test_comparison_names_what_else_differs(runs, tmp_path):
    config = read_json(runs / "a" / "config.json")
    config["train"]["steps"] = 7
    config["init_from"] = "elsewhere"
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = result_of(runs / "a")
    (tmp_path / "result.json").write_text(json.dumps(result))
    table = compare([("a", str(runs / "a")), ("b", str(tmp_path))])
    assert "note: the runs also differ in train.steps" in table
    result = {k.replace("test_", "validation_"): v for k, v in result.items()}
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match="some were evaluated on test, some on validation"):
        compare([("a", str(runs / "a")), ("b", str(tmp_path))])


@pytest.mark.parametrize(
    "value, expected",
    [
        ("", "--runs="),
        ("a", "--runs=a: expected LABEL=WORKDIR"),
        ("a=/no", "/no is not a finished finetuning run"),
    ],
)
def test_comparison_of_nothing(value, expected):
    assert expected in fails("compare", f"--runs={value}")


def test_a_pretraining_run_is_no_finetuning_run(runs):
    with pytest.raises(UserError, match="is not a finished finetuning run"):
        compare([("x", str(runs / "pretrained"))])
