"""The README is a door: short, and its numbers are those of the results."""

import csv
import glob
import importlib.util
import itertools
import os
import re
import shutil

import numpy as np
import pytest

from selfie_tf.cli import config_files
from selfie_tf.errors import UserError
from selfie_tf.experiments import probes, rows, tables

from helpers import ROOT

with open(os.path.join(ROOT, "README.md")) as file:
    README = file.read()
with open(os.path.join(ROOT, "docs", "RESULTS.md")) as file:
    RESULTS = file.read()


def test_it_is_short():
    assert 120 <= len(README.splitlines()) <= 160


def test_its_numbers_are_those_of_the_results():
    numbers = set(re.findall(r"\d+\.\d(?: ± \d\.\d)? %", README))
    assert len(numbers) >= 8 and all(number in RESULTS for number in numbers)


def test_its_table_is_the_short_one_of_the_results():
    lines = re.findall(r"^(\| .*\d labels .*?) ?\|$", README, re.M)
    assert len(lines) == 3 and all(f"\n{line} | " in RESULTS for line in lines)


def test_picture_and_text_tell_the_same_number():
    """The picture counts its own images, so the text gives that number, too."""
    for text in (README, RESULTS):
        caption = re.search(r"24 positions.*?\*\n", text, re.S)[0]
        assert re.findall(r"\d+ %", caption)[:2] == ["88 %", "79 %"]


def test_the_python_is_eight_lines():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert sum(bool(line.strip()) for line in block.splitlines()) <= 8


@pytest.mark.parametrize(
    "path", glob.glob(os.path.join(ROOT, "docs", "results", "*.csv")), ids=os.path.basename
)
def test_tables_of_experiments_are_those_of_their_runs(path):
    """docs/results/NAME.csv has the runs of experiments/NAME; the page has their tables."""
    name = os.path.basename(path).removesuffix(".csv")
    predictions = os.path.join(ROOT, "docs", "results", f"{name}_predictions")
    experiment = config_files.load_experiment(f"experiments/{name}")
    cells = {cell.name for cell in experiment.cells()}
    found = rows.read_table(path)
    assert found and {row["cell"] for row in found} <= cells
    finetuned = tables.to_markdown(tables.summarize(experiment, found, predictions))
    for table in (finetuned, probes.to_markdown(experiment, found)):
        assert f"{table}\n" in RESULTS  # all of it: a blank line follows


def rows_of(name):
    return rows.read_table(os.path.join(ROOT, "docs", "results", f"{name}.csv"))


@pytest.mark.parametrize(
    "start, name, task, recipes",
    [
        ("| quickstart, 250 labels", "quickstart", "5%", ("scratch", "selfie", "plus")),
        (
            "| CIFAR-10 (JPEG copy), 500 labels",
            "cifar10",
            "1%",
            ("scratch", "published", "instance-view16"),
        ),
        (
            "| CIFAR-10 (JPEG copy), 2,500 labels",
            "cifar10",
            "5%",
            ("scratch", "published", "instance-view16"),
        ),
    ],
)
def test_the_short_table_is_that_of_the_runs(start, name, task, recipes):
    (line,) = re.findall(rf"^{re.escape(start)} \(.*$", RESULTS, re.M)
    experiment, found = config_files.load_experiment(f"experiments/{name}"), rows_of(name)
    predictions = os.path.join(ROOT, "docs", "results", f"{name}_predictions")
    lines = {}
    for x in tables.summarize(experiment, found, predictions):
        if x.baseline in ("", "scratch"):
            lines[x.recipe, x.task] = x
    means = [f"{tables.percent(lines[r, task].mean, lines[r, task].deviation)} %" for r in recipes]
    gains = [tables.points(lines[r, task].difference) for r in recipes[1:]]
    assert [cell.strip() for cell in line.split("|")[2:7]] == means + gains
    assert f"{lines[recipes[-1], task].pretrainings} pretrainings each" in line


@pytest.mark.parametrize("name", ["quickstart", "second_machine/quickstart"])
def test_the_seeds_of_the_quickstart_are_those_of_its_runs(name):
    found = {row["cell"]: row for row in rows_of(name)}
    for seed in range(5):
        scratch, selfie, plus = (
            100 * found[f"{recipe}/{seed}/5%/{seed}"]["top1"]
            for recipe in ("scratch", "selfie", "plus")
        )
        patch = found[f"selfie/{seed}/pretrain"]["held_out_patch_accuracy"]
        expected = f"| {seed} | {scratch:.1f} | {selfie:.1f} | {selfie - scratch:+.1f} "
        expected += f"| {patch:.3f} | {plus:.1f} | {plus - scratch:+.1f} |"
        assert expected in RESULTS


def test_the_table_of_the_second_machine_is_that_of_its_runs():
    name = "second_machine/quickstart"
    experiment = config_files.load_experiment("experiments/quickstart")
    predictions = os.path.join(ROOT, "docs", "results", f"{name}_predictions")
    table = tables.to_markdown(tables.summarize(experiment, rows_of(name), predictions))
    assert f"\n\n{table}\n" in RESULTS


def test_the_suggested_labels_are_those_of_their_runs():
    with open(os.path.join(ROOT, "docs", "results", "suggest_labels", "results.csv")) as file:
        found = list(csv.DictReader(file))
    for method in ("random", "`kmeans`", "`farthest`"):
        cells = [method]
        for column in ("finetuned", "linear_probe"):
            mine, random = (
                100 * np.array([float(row[column]) for row in found if row["method"] == name])
                for name in (method.strip("`"), "random")
            )
            gain = mine - random
            half = 2.776445 * gain.std(ddof=1) / np.sqrt(5)  # Student's t, 4 degrees of freedom
            flips = [np.mean(gain * signs) for signs in itertools.product((-1, 1), repeat=5)]
            p = np.mean(np.abs(flips) >= abs(gain.mean()) - 1e-9)
            cells.append(f"{mine.mean():.1f} ± {mine.std(ddof=1):.1f}")
            cells.append(f"{gain.mean():+.1f} ± {half:.1f} ({p:.3f})" if gain.any() else "")
        line = " | ".join(cells)
        assert f"| {line} |" in RESULTS


def test_new_runs_replace_the_tables_of_those_before(tmp_path):
    spec = importlib.util.spec_from_file_location(
        "update_results", os.path.join(ROOT, "docs", "update_results.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results, workdir = tmp_path / "docs" / "results", tmp_path / "runs"
    workdir.mkdir()
    found = rows.read_table(os.path.join(ROOT, "docs", "results", "cifar10_trials.csv"))
    rows.write_table(str(workdir / rows.TABLE), found)
    results.mkdir(parents=True)
    late = ("instance-view16/0/1%/1", "instance-view16/0/probe")
    before = [row for row in found if row["cell"] not in late]
    rows.write_table(str(results / "cifar10_trials.csv"), before)
    experiment = config_files.load_experiment("experiments/cifar10_trials")
    old, new = (tables.to_markdown(tables.summarize(experiment, some)) for some in (before, found))
    old_probes, new_probes = (probes.to_markdown(experiment, some) for some in (before, found))
    assert old != new and old_probes != new_probes
    page = tmp_path / "docs" / "RESULTS.md"

    def update():
        return module.update("cifar10_trials", str(workdir), str(tmp_path / "docs"))

    longer = f"{old}| of another experiment |\n"
    page.write_text(f"{longer}\n{old}\nbetween\n{old_probes}\nafter\n")
    assert update() == ""
    assert page.read_text() == f"{longer}\n{new}\nbetween\n{new_probes}\nafter\n"
    assert rows.read_table(str(results / "cifar10_trials.csv")) == found

    # A table that is not there yet is printed; the other one is replaced all the same.
    page.write_text(f"before\n\n{new}\nafter\n")
    assert update() == new_probes
    assert page.read_text() == f"before\n\n{new}\nafter\n"

    shutil.rmtree(results)
    results.mkdir()
    page.write_text("before\n")
    assert update() == f"{new}\n{new_probes}"
    assert page.read_text() == "before\n"

    found[0]["cell"] = "other/0/1%/0"
    rows.write_table(str(workdir / rows.TABLE), found)
    kept = (results / "cifar10_trials.csv").read_bytes()
    with pytest.raises(UserError, match="other/0/1%/0: no cell of experiments/cifar10_trials"):
        update()
    assert (results / "cifar10_trials.csv").read_bytes() == kept
