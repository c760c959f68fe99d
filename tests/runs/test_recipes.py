"""CONTRIBUTING.md's recipes: a method and a source are added to a copy of the package, and run.

tests/data/recipes holds the files that such an addition consists of: rotation prediction (Gidaris
et al. 2018) as a method, and images of noise as a source.
"""

import difflib
import json
import os
import shutil
import subprocess
import sys

import pytest

from helpers import ROOT

RECIPES = os.path.join(ROOT, "tests", "data", "recipes")
METHOD_FILES = {
    "configs/rotation.py",
    "selfie_tf/config/rotation.py",
    "selfie_tf/methods/rotation.py",
    "selfie_tf/models/rotation.py",
}
SOURCE_FILES = {"selfie_tf/data/noise.py"}

COMMANDS = """
import sys
import selfie_tf
from selfie_tf.cli import main
from selfie_tf.layers import resnet

resnet.UNITS_PER_GROUP = (1, 1, 1, 1)  # to trace less
assert selfie_tf.__file__.startswith(sys.argv[1]), selfie_tf.__file__
for command in (
    ["pretrain", "--config=rotation", "--workdir=run"],
    ["evaluate", "--workdir=run"],
    ["finetune", "--config=finetune_cifar10", "--workdir=classifier", "--config.init_from=run",
     "--config.data.name=builtin:shapes", "--config.data.label_fraction=0.01",
     "--config.train.steps=2", "--config.train.batch_size=8", "--config.optimizer.warmup_steps=1"],
    ["export", "--workdir=run", "--output=export"],
):
    assert main(command) == 0, command
"""


def files_below(root):
    found = {}
    for folder in ("selfie_tf", "configs"):
        for where, _, names in os.walk(os.path.join(root, folder)):
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(where, name)
                    with open(path) as file:
                        found[os.path.relpath(path, root)] = file.read().splitlines()
    return found


def insert(path, before, line):
    """The edit of the recipe: one line more, before the first that begins with `before`."""
    with open(path) as file:
        lines = file.read().splitlines()
    at = next(i for i, text in enumerate(lines) if text.startswith(before))
    with open(path, "w") as file:
        file.write("\n".join([*lines[:at], line, *lines[at:], ""]))


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with the method and the source added."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("selfie_tf", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(os.path.join(ROOT, folder), root / folder, ignore=ignored)
    for name in METHOD_FILES | SOURCE_FILES:
        shutil.copy(os.path.join(RECIPES, name.removeprefix("selfie_tf/")), root / name)
    methods, data = (root / "selfie_tf" / part / "__init__.py" for part in ("methods", "data"))
    insert(
        methods,
        "from selfie_tf.methods.selfie",
        "from selfie_tf.methods.rotation import Rotation",
    )
    insert(methods, '    "selfie": ', '    "rotation": Rotation(),')
    insert(data, "from selfie_tf.data import", "from selfie_tf.data import noise")
    insert(data, '    "tfds": ', '    "noise": noise.open_source,')
    return root


def test_an_addition_is_new_files_and_two_lines(extended):
    """A line that imports it, and a line that names it."""
    before, after = files_below(ROOT), files_below(extended)
    assert set(after) - set(before) == METHOD_FILES | SOURCE_FILES
    changes = {
        name: [
            line
            for line in difflib.ndiff(before[name], after[name])
            if line.startswith(("+ ", "- "))
        ]
        for name in before
        if before[name] != after[name]
    }
    assert set(changes) == {"selfie_tf/methods/__init__.py", "selfie_tf/data/__init__.py"}
    for lines in changes.values():
        assert len(lines) == 2 and all(line.startswith("+ ") for line in lines), lines


def test_what_was_added_pretrains_evaluates_finetunes_and_is_exported(extended, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(extended)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(extended)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"] == {
        "name": "noise:64",
        "training_images": 58,
        "held_out_images": 6,
    }
    assert 0 <= result["held_out_rotation_accuracy"] <= 1
    for name in ("rotations.png", "curves.png"):
        assert (tmp_path / "run" / "figures" / name).exists()
    classifier = json.loads((tmp_path / "classifier" / "result.json").read_text())
    assert classifier["initialisation"]["config"]["method"] == "rotation"
    assert (tmp_path / "export" / "saved_model.pb").exists()
