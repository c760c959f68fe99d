"""Imports run downward only, and flags stay in bin/."""

import ast
import os

import pytest

from helpers import ROOT

# A package or module may import from those above it here, and from its own package.
LEVELS = [
    {"errors"},
    {"config", "patches", "losses", "optimizers", "figures"},
    {"storage", "distribution", "layers"},
    {"data", "models"},
    {"methods"},
    {"training"},
    {"evaluation", "benchmarks"},
    {"cli"},
]
MODULES = sorted(
    os.path.relpath(os.path.join(folder, name), ROOT)
    for folder, _, names in os.walk(os.path.join(ROOT, "selfie_tf"))
    for name in names
    if name.endswith(".py")
)


def imports(path):
    with open(os.path.join(ROOT, path)) as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(part):
    return next(i for i, names in enumerate(LEVELS) if part in names)


@pytest.mark.parametrize("path", MODULES)
def test_imports_run_downward(path):
    if path == "selfie_tf/__init__.py":
        assert set(imports(path)) == {"os"}
        return
    part = path.split("/")[1].removesuffix(".py")
    for name in imports(path):
        if name.startswith("selfie_tf."):
            other = name.split(".")[1]
            assert other == part or level(other) < level(part), f"{path} imports {name}"
        assert not name.startswith(("absl", "ml_collections")), f"{path}: flags stay in bin/"
        assert name.split(".")[0] != "keras", f"{path}: Keras 3; import tf_keras as keras"
        assert not name.startswith("tensorflow.keras"), path


@pytest.mark.parametrize("path", [m for m in MODULES if "/layers/" in m or "/models/" in m])
def test_layers_and_models_know_no_config(path):
    assert not any(name.startswith("selfie_tf.config") for name in imports(path))
