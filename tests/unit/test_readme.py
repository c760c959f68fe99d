"""The README is a door: short, and its numbers are those of the results."""

import glob
import importlib.util
import os
import re
import shutil

import pytest

from selfie_tf.cli import config_files
from selfie_tf.errors import UserError
from selfie_tf.experiments import rows, tables

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
    """docs/results/NAME.csv has the runs of experiments/NAME; the page has their table."""
    name = os.path.basename(path).removesuffix(".csv")
    predictions = os.path.join(ROOT, "docs", "results", f"{name}_predictions")
    experiment = config_files.load_experiment(f"experiments/{name}")
    cells = {cell.name for cell in experiment.cells()}
    found = rows.read_table(path)
    assert found and {row["cell"] for row in found} <= cells
    assert tables.to_markdown(tables.summarize(experiment, found, predictions)) in RESULTS


def test_new_runs_replace_the_table_of_those_before(tmp_path):
    spec = importlib.util.spec_from_file_location(
        "update_results", os.path.join(ROOT, "docs", "update_results.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results, workdir = tmp_path / "docs" / "results", tmp_path / "runs"
    workdir.mkdir()
    found = rows.read_table(os.path.join(ROOT, "docs", "results", "padding.csv"))
    rows.write_table(str(workdir / rows.TABLE), found)
    results.mkdir(parents=True)
    rows.write_table(str(results / "padding.csv"), found[:-1])
    experiment = config_files.load_experiment("experiments/padding")
    old, new = (
        tables.to_markdown(tables.summarize(experiment, some)) for some in (found[:-1], found)
    )
    page = tmp_path / "docs" / "RESULTS.md"

    page.write_text(f"before\n\n{old}\nafter\n")
    assert module.update("padding", str(workdir), str(tmp_path / "docs")) == ""
    assert page.read_text() == f"before\n\n{new}\nafter\n" and old != new
    assert rows.read_table(str(results / "padding.csv")) == found

    shutil.rmtree(results)
    results.mkdir()
    page.write_text("before\n")
    assert module.update("padding", str(workdir), str(tmp_path / "docs")) == new
    assert page.read_text() == "before\n"

    found[0]["cell"] = "other/0/5%/0"
    rows.write_table(str(workdir / rows.TABLE), found)
    kept = (results / "padding.csv").read_bytes()
    with pytest.raises(UserError, match="other/0/5%/0: no cell of experiments/padding"):
        module.update("padding", str(workdir), str(tmp_path / "docs"))
    assert (results / "padding.csv").read_bytes() == kept
