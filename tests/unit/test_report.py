"""The page of a run and that of a comparison: what is in them, and what they do without."""

import base64
import io
import json
import logging
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from selfie_tf import cli
from selfie_tf.config import (
    FinetuneConfig,
    PatchFormerConfig,
    SelfieConfig,
    files,
    flatten,
    to_dict,
)
from selfie_tf.data import make_source
from selfie_tf.data.subsets import labelled_source
from selfie_tf.errors import UserError
from selfie_tf.evaluation.compare import compare, make_comparison_page
from selfie_tf.training import report
from selfie_tf.training.report import leave_report, make_report

from browser import opened
from helpers import fails, succeeds, write_json

EVIL = """<script>document.title = 'evil'<\\script> "&" $x\n$"""
NAMES = sorted([EVIL, "cat", "dog"])


def save_images(folder, count=40):
    """Image i of each class is of one colour: i in red, the class in green."""
    for k, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            colour = np.full([20, 24, 3], [5 * i, 100 * k, 0], np.uint8)
            Image.fromarray(colour).save(folder / name / f"{i:02} '$<b>.png")


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path, points):
    path.write_text("".join(json.dumps(point) + "\n" for point in points))


def make_run(workdir, images, seed=0, steps=40, arrays=None, **values):
    """Leaves what a finished finetuning run leaves, with made-up predictions; returns these."""
    config = FinetuneConfig()
    config.data.name, config.data.image_size, config.patches.size = f"folder:{images}", 16, 4
    config.train.batch_size, config.train.steps, config.train.seed = 8, steps, seed
    config.optimizer.warmup_steps = 2
    for key, value in values.items():
        setattr(config.data, key, value)
    whole = make_source(config.data)
    source, subset = labelled_source(whole, config.data)
    split = "validation" if config.data.validation_fraction else "test"
    rng = np.random.default_rng(seed)
    labels = np.array([int(label) for _, _, label in source.held_out_images()])
    predictions = np.where(rng.random(len(labels)) < 0.5, labels, (labels + 1) % 3)
    top1 = float(np.mean(labels == predictions))
    found = {
        "labels": labels,
        "predictions": predictions,
        "probabilities": rng.permutation(np.linspace(0.4, 0.99, len(labels), dtype=np.float32)),
        "ids": np.array(subset["validation_ids"] or whole.held_out_ids(), str),
    }
    workdir.mkdir()
    np.savez(workdir / "predictions.npz", **{k: found[k] for k in arrays or found})
    write_json(workdir / "config.json", to_dict(config))
    write_json(workdir / "data.json", {"fingerprint": f"{source.fingerprint}#subset"})
    write_json(workdir / "subset.json", subset)
    write_json(workdir / "initialisation.json", {"from": "runs/<i>mine", "step": 7, "config": None})
    result = {
        f"{split}_loss": 1.25,
        f"{split}_top1": top1,
        "train_loss": 0.5,
        "classes": 3,
        f"{split}_images": len(labels),
        "subset": {"labelled_images": subset["images"], "trained_on": source.num_train},
        "trainable_weights": 12345,
        "resumed_at": 10,
        "steps": steps,
        "seconds": 3725.4,
        "hardware": "a machine",
        "versions": {"tensorflow": "2.x", "git_commit": None, "git_changes": ""},
    }
    write_json(workdir / "result.json", result)
    points = [{"step": s, "loss": 9.0 / s, "images_per_second": 100.0 + s} for s in (10, 20, 40)]
    write_lines(workdir / "metrics.jsonl", points)
    evaluations = [{"step": s, f"{split}_loss": 1 + 1 / s, f"{split}_top1": top1} for s in (20, 40)]
    write_lines(workdir / "evaluations.jsonl", evaluations)
    return found


@pytest.fixture
def images(tmp_path):
    save_images(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def run(tmp_path, images):
    """(work directory, predictions) of a classifier that was tested on 12 images."""
    return tmp_path / "run", make_run(tmp_path / "run", images)


def text_of(html):
    """The words of a page, as a browser would show them."""
    body = html.partition("</style>")[2]
    text = re.sub(r"<[^>]*>", " ", body)
    for entity, sign in (("lt", "<"), ("gt", ">"), ("#34", '"'), ("#39", "'"), ("amp", "&")):
        text = text.replace(f"&{entity};", sign)
    return " ".join(text.split())


def mistakes_of(predictions):
    """Indices of the wrong ones, the surest first, by a loop."""
    wrong = [i for i, y in enumerate(predictions["labels"]) if predictions["predictions"][i] != y]
    return sorted(wrong, key=lambda i: -predictions["probabilities"][i])


def shown(driver):
    """[(caption, colour)] of the thumbnails."""
    found = []
    for item in driver.find_elements("css selector", ".sheet li"):
        image = item.find_element("tag name", "img")
        content = base64.b64decode(image.get_attribute("src").partition(",")[2])
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        found.append((" ".join(item.text.split()), pixels.mean(axis=(0, 1)), image))
    return found


# A classifier


def test_a_browser_shows_the_surest_mistakes_with_their_images(run):
    workdir, predictions = run
    (workdir / "page.html").write_text(make_report(str(workdir)), encoding="utf-8")
    with opened(workdir / "page.html") as driver:
        assert driver.title == f"Classifier: {workdir}"
        items, expected = shown(driver), mistakes_of(predictions)
        assert len(items) == len(expected) > 3
        for i, (caption, colour, image) in zip(expected, items, strict=True):
            label, found = (predictions[k][i] for k in ("labels", "predictions"))
            name, sure = predictions["ids"][i], f"{predictions['probabilities'][i]:.0%}"
            words = f"{NAMES[label]}, taken for {NAMES[found]} ({sure})"
            assert caption == " ".join(f"{words} {name}".split())
            assert image.get_attribute("alt") == f"{name}: {words}"
            number = int(name.rpartition("/")[2][:2])
            np.testing.assert_allclose(colour, [5 * number, 100 * label, 0], atol=6)
        alts = [i.get_attribute("alt") for i in driver.find_elements("css selector", "figure img")]
        assert "training loss" not in alts[0] and "loss from 0.9 at step 10 to 0.225" in alts[0]
        assert alts[1].startswith("Confusion matrix of 3 classes. Most often taken: ")


def test_the_page_says_what_was_run_on_what_and_what_it_cost(run):
    workdir, predictions = run
    text = text_of(make_report(str(workdir)))
    labels = predictions["labels"]
    common = max(list(labels).count(k) for k in range(3)) / len(labels)
    accuracy = np.mean(labels == predictions["predictions"])
    for words in (
        "A classifier of 3 classes, trained on 108 labelled images of folder:",
        "40 steps of 8, from the network of runs/<i>mine (step 7).",
        f"It is right for {accuracy:.1%} of the 12 test images. Always predicting their most "
        f"frequent class is right for {common:.1%}.",
        "1 h 2 min 5 s, since the resume at step 10",
        "320, 8 per step",
        "120 images/s",
        "trainable weights 12,345",
        "hardware a machine",
        "tensorflow 2.x",
        "git_commit not known",
        "test loss 1.2500",
    ):
        assert words in text, words
    fingerprint = json.loads((workdir / "data.json").read_text())["fingerprint"]
    assert fingerprint in text


def test_at_most_24_mistakes_are_shown(tmp_path, images):
    predictions = make_run(tmp_path / "run", images, validation_fraction=0.7)
    html = make_report(str(tmp_path / "run"))
    wrong = mistakes_of(predictions)
    assert len(wrong) > 24 == html.count("<li>")
    assert f"{len(wrong)} of {len(predictions['labels'])} images are classified wrongly" in html
    assert "validation images" in html


def test_validation_images_are_found_again(tmp_path, images):
    predictions = make_run(tmp_path / "run", images, validation_fraction=0.2)
    html = make_report(str(tmp_path / "run"))
    pictures = re.findall(r'<li><img src="data:image/jpeg;base64,([^"]*)', html)
    expected = mistakes_of(predictions)
    assert len(pictures) == len(expected) > 3
    for i, picture in zip(expected, pictures, strict=True):
        colour = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).mean(axis=(0, 1))
        number = int(predictions["ids"][i].rpartition("/")[2][:2])
        np.testing.assert_allclose(colour, [5 * number, 100 * predictions["labels"][i], 0], atol=6)


@pytest.mark.parametrize("change", ["gone", "another", "relabelled"])
def test_without_its_images_the_page_names_the_mistakes(run, images, change):
    workdir, predictions = run
    if change == "gone":
        images.rename(images.parent / "elsewhere")
    elif change == "another":
        Image.new("RGB", (9, 9)).save(images / "cat" / "new.png")
    else:
        swapped = {"labels": (predictions["labels"] + 1) % 3, "predictions": predictions["labels"]}
        np.savez(workdir / "predictions.npz", **{**predictions, **swapped})
    text = text_of(make_report(str(workdir)))
    assert "The images cannot be shown: data.name=folder:" in text
    surest = mistakes_of(predictions)[0]
    assert " ".join(predictions["ids"][surest].split()) in text


def test_runs_of_older_versions(tmp_path, images):
    """They have kept no probabilities and ids, and before that no predictions."""
    arrays = make_run(tmp_path / "run", images, arrays=("labels", "predictions"))
    html = make_report(str(tmp_path / "run"))
    wrong = np.flatnonzero(arrays["labels"] != arrays["predictions"])
    assert "has kept no probabilities" in html and html.count("<li>") == len(wrong)
    assert f"number {wrong[0]}" in html
    (tmp_path / "run" / "predictions.npz").unlink()
    assert "has kept no predictions" in make_report(str(tmp_path / "run"))


def test_damaged_predictions_are_named(run):
    workdir, _ = run
    whole = (workdir / "predictions.npz").read_bytes()
    for content in (b"no archive", whole[:-30]):
        (workdir / "predictions.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"run/predictions.npz cannot be read"):
            make_report(str(workdir))


def test_a_classifier_without_mistakes(run):
    workdir, predictions = run
    right = {**predictions, "predictions": predictions["labels"]}
    np.savez(workdir / "predictions.npz", **right)
    text = text_of(make_report(str(workdir)))
    assert "0 of 12 images are classified wrongly" in text and "Most often taken" not in text


# Pretraining, and runs that go on


@pytest.mark.parametrize("config", [SelfieConfig(), PatchFormerConfig()])
def test_a_run_that_goes_on_has_a_page(tmp_path, config):
    config.data.name, config.train.steps = "builtin:shapes", 3000
    config.optimizer.warmup_steps = 9
    name = {"selfie": "patch_accuracy", "patchformer": "pixel_accuracy"}[config.method]
    write_json(tmp_path / "config.json", to_dict(config))
    text = text_of(make_report(str(tmp_path)))
    assert "it stands at step 0 of 3,000" in text
    write_lines(tmp_path / "metrics.jsonl", [{"step": 50, "loss": 2.0, name: 0.25}])
    (tmp_path / "figures").mkdir()
    picture = {"selfie": "jigsaw", "patchformer": "reconstruction"}[config.method]
    for step, red in ((0, 10), (50, 200)):
        Image.new("RGB", (4, 4), (red, 0, 0)).save(
            tmp_path / "figures" / f"{picture}_{step:08}.png"
        )
    html = make_report(str(tmp_path))
    assert "it stands at step 50 of 3,000" in text_of(html)
    (content,) = re.findall(r'src="data:image/png;base64,([^"]*)', html)
    last = Image.open(io.BytesIO(base64.b64decode(content))).getpixel((0, 0))
    assert last == (200, 0, 0)


# The config, and the command


@pytest.mark.parametrize("name", files.known())
def test_the_command_makes_the_same_config(name):
    config = files.get(name)
    config.data.name = f"folder:my '{EVIL}"
    config.data.test_split = ""
    config.train.steps, config.optimizer.learning_rate = 12_345, 3e-07
    if isinstance(config, FinetuneConfig):
        config.data.flip = False
    command = files.command(config, "runs/it's mine")
    words = shlex.split(command.replace(" \\\n", " "))
    assert words[0] == "selfie-tf" and words[2] == f"--config={name}"
    arguments = cli.parse(cli.COMMANDS[words[1]], words[2:])
    assert flatten(arguments.config) == flatten(config)
    assert arguments.flags.workdir == "runs/it's mine"


def test_the_page_lists_what_differs_from_the_nearest_config(tmp_path):
    config = files.get("quickstart")
    config.model.width, config.data.test_split = 4, "validation"
    write_json(tmp_path / "config.json", to_dict(config))
    html = make_report(str(tmp_path))
    table = html.partition('<div class="keys">')[2].partition("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert [row[:3] for row in rows] == [
        ["data.test_split", "validation", "(empty)"],
        ["model.width", "4", "8"],
    ]
    write_json(tmp_path / "config.json", to_dict(files.get("quickstart")))
    assert "The values are those of configs/quickstart.py" in make_report(str(tmp_path))


def test_a_kind_of_config_without_a_file_is_compared_with_its_defaults(monkeypatch):
    monkeypatch.setattr(files, "known", lambda kind: ["finetune_cifar10"])
    config = SelfieConfig()
    config.train.steps = 7
    assert files.nearest(config) == ("", {"train.steps": SelfieConfig().train.steps})
    assert files.command(config, "x") == ""


# At the end of a run


class FinishedRun:
    """What `leave_report` needs of a run."""

    def __init__(self, workdir, is_chief=True):
        self.workdir, self.is_chief, self.directory = str(workdir), is_chief, self

    def join(self, name):
        return f"{self.workdir}/{name}"


def test_a_run_leaves_its_page_and_names_it_last(run, caplog):
    caplog.set_level(logging.INFO)
    workdir, _ = run
    leave_report(FinishedRun(workdir, is_chief=False))
    assert not (workdir / "report.html").exists() and not caplog.messages
    leave_report(FinishedRun(workdir))
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert caplog.messages[-1] == f"report: {workdir}/report.html" and "Confusion matrix" in page
    (workdir / "report.html").write_text("as it was")
    leave_report(FinishedRun(workdir))
    assert (workdir / "report.html").read_text() == "as it was"
    assert caplog.messages[-1] == f"report: {workdir}/report.html"


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("two\nlines")])
def test_a_page_that_cannot_be_made_is_a_warning(run, monkeypatch, caplog, error):
    def fail(*_):
        raise error

    workdir, _ = run
    monkeypatch.setattr(report, "write_atomically", fail)
    leave_report(FinishedRun(workdir))
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "the report cannot be made" in record.message and "\n" not in record.message
    assert f"selfie-tf report --workdir={workdir}" in record.message


# The command


def test_the_command_writes_the_page(run, tmp_path):
    workdir, _ = run
    assert succeeds("report", f"--workdir={workdir}").endswith(f"report: {workdir}/report.html\n")
    output = tmp_path / "new" / "page.html"
    out = succeeds("report", f"--runs=a={workdir},b={workdir}", f"--output={output}")
    assert out == f"report: {output}\n" and "Comparison: a, b" in output.read_text()


@pytest.mark.parametrize(
    "flags, expected",
    [
        ([], "--workdir or --runs: give one of them"),
        (["--workdir=x", "--runs=a=x"], "--workdir or --runs: both were given"),
        (["--runs=a=x"], "--output is missing"),
        (["--runs=x", "--output=y"], "--runs=x: expected LABEL=WORKDIR"),
        (["--workdir=/no"], "/no: no config.json in it; give the work directory of a run"),
        (["--runs=a=/no", "--output=y"], "/no is not a finished finetuning run"),
        (["--workdir=/no", "--output=/"], "--output=/ is a folder"),
    ],
)
def test_mistakes_in_the_command(flags, expected):
    assert expected in fails("report", *flags)


@pytest.mark.parametrize(
    "file, content, runs",
    [
        ("initialisation.json", '{"from": "elsewhere"}', False),
        ("subset.json", '{"class_names": 3}', False),
        ("result.json", '{"test_top1": null, "seconds": 1}', True),
    ],
)
def test_a_damaged_file_of_the_run_is_one_line(run, tmp_path, file, content, runs):
    workdir, _ = run
    (workdir / file).write_text(content)
    flag = f"--runs=a={workdir}" if runs else f"--workdir={workdir}"
    line = fails("report", flag, f"--output={tmp_path}/page.html")
    assert f"{workdir}: the page cannot be made" in line and "must be damaged" in line
    assert not (tmp_path / "page.html").exists()


# Comparisons


def test_a_comparison_has_the_numbers_of_the_command_compare(tmp_path, images):
    paths = [tmp_path / name for name in "abc"]
    found = [make_run(path, images, seed, 40 + seed) for seed, path in enumerate(paths)]
    label = EVIL.replace("\n", " ")
    runs = [(label, str(paths[0])), (label, str(paths[1])), ("scratch", str(paths[2]))]
    (tmp_path / "page.html").write_text(make_comparison_page(runs), encoding="utf-8")
    with opened(tmp_path / "page.html") as driver:
        assert driver.title == f"Comparison: {label}, scratch"
        (alt,) = (i.get_attribute("alt") for i in driver.find_elements("tag name", "img"))
        tables = [
            [
                [" ".join(cell.text.split()) for cell in row.find_elements("css selector", "td,th")]
                for row in table.find_elements("tag name", "tr")
            ]
            for table in driver.find_elements("tag name", "table")
        ]
    assert alt.count(f"{label}: loss from 0.9 at step 10") == 2
    means, recalls, keys, all_runs = tables
    header, *rows, note = compare(runs).splitlines()
    assert [row[1:] for row in means] == [
        re.split("  +", line[len(label) :].strip()) for line in (header, *rows)
    ]
    assert [row[0] for row in means] == ["", label, "scratch"]
    assert note == "note: the runs also differ in train.steps"
    assert keys[1:] == [["train.steps", "40, 41", "42"], ["train.seed", "0, 1", "2"]]
    assert [row[:2] for row in all_runs[1:]] == [list(run) for run in runs]
    by_class = {}
    for k, name in enumerate(NAMES):
        values = []
        for run in found:
            mine = run["labels"] == k
            values.append(np.mean(run["predictions"][mine] == k) if mine.any() else np.nan)
        by_class[" ".join(name.split())] = [(values[0] + values[1]) / 2, values[2]]
    apart = [abs(np.subtract(*by_class[row[0]])) for row in recalls[1:]]
    assert len(apart) == 3 and apart == sorted(apart, reverse=True)
    for name, *cells in recalls[1:]:
        assert cells == [f"{value:.1%}" for value in by_class[name]]


def test_a_comparison_of_pretraining_is_refused(tmp_path):
    write_json(tmp_path / "config.json", to_dict(SelfieConfig()))
    write_json(tmp_path / "result.json", {})
    with pytest.raises(UserError, match="is not a finished finetuning run"):
        make_comparison_page([("a", str(tmp_path))])
