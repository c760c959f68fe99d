"""Imports run downward only, without a circle, and flags stay in the command line."""

import ast
import glob
import graphlib
import os

import pytest

from helpers import ROOT

# A package or module may import from itself and from those above it here.
ORDER = [
    {"errors"},
    {"config", "patches", "losses", "optimizers", "figures"},
    {"storage", "distribution", "layers", "pages"},
    {"data", "models"},
    {"methods"},
    {"training"},
    {"evaluation", "benchmarks"},
    {"experiments", "inspection"},
    {"cli"},
]
LEVELS = {package: level for level, packages in enumerate(ORDER) for package in packages}


def read_modules():
    """Returns {"selfie_tf.data.crops": its syntax tree} of all modules."""
    trees = {}
    for path in glob.glob("selfie_tf/**/*.py", root_dir=ROOT, recursive=True):
        with open(os.path.join(ROOT, path)) as file:
            tree = ast.parse(file.read())
        trees[path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")] = tree
    return trees


def imported_names(node):
    """Yields what the code imports, also inside functions, but not for type checkers only."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.orelse:
            yield from imported_names(child)
    else:
        for child in ast.iter_child_nodes(node):
            yield from imported_names(child)


def module_of(name):
    """The module that a dotted name belongs to; None outside of selfie_tf."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


MODULES = read_modules()
NAMES = {module: set(imported_names(tree)) for module, tree in MODULES.items()}
# The package itself loads its attributes when they are first used, so it is below and above all.
GRAPH = {
    module: {module_of(name) for name in names} - {module, None, "selfie_tf"}
    for module, names in NAMES.items()
    if module != "selfie_tf"
}


def reachable(module):
    """The modules that importing `module` may import."""
    found, waiting = set(), [module]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting.extend(GRAPH[module])
    return found


def test_the_graph_holds_what_the_code_imports():
    """Each kind of import statement that the reading must understand."""
    code = """
import os, selfie_tf.patches
from typing import TYPE_CHECKING
from selfie_tf import losses
if TYPE_CHECKING:
    from selfie_tf import training
else:
    from selfie_tf.data import make_source

def f():
    with x:
        from selfie_tf.data.crops import y
"""
    found = {module_of(name) for name in imported_names(ast.parse(code))}
    assert found == {None, "selfie_tf.patches", "selfie_tf.losses"} | {
        "selfie_tf.data",
        "selfie_tf.data.crops",
    }
    assert "selfie_tf.errors" in GRAPH["selfie_tf.config.base"] and len(GRAPH) > 40


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_run_downward(module):
    package = module.split(".")[1]
    for other in GRAPH[module]:
        other_package = other.split(".")[1]
        allowed = other_package == package or LEVELS[other_package] < LEVELS[package]
        assert allowed, f"{module} imports {other}"
    for name in NAMES[module]:
        if package != "cli":
            assert not name.startswith(("absl", "ml_collections")), f"{module}: flags stay in cli/"
        assert name.split(".")[0] != "keras", f"{module}: Keras 3; import tf_keras as keras"
        assert not name.startswith("tensorflow.keras"), module


def test_no_circle_among_modules():
    graphlib.TopologicalSorter(GRAPH).prepare()  # CycleError names the modules


def test_importing_the_package_imports_nothing_of_it():
    names = {
        name
        for statement in MODULES["selfie_tf"].body
        if not isinstance(statement, ast.FunctionDef)
        for name in imported_names(statement)
    }
    assert not any(name.startswith(("selfie_tf", "tensorflow", "tf_keras")) for name in names)


@pytest.mark.parametrize("module", sorted(m for m in GRAPH if m.startswith("selfie_tf.config")))
def test_config_needs_no_tensorflow(module):
    for other in reachable(module):
        for name in NAMES[other]:
            heavy = name.split(".")[0] in ("tensorflow", "tf_keras", "tensorflow_datasets")
            assert not heavy, f"{module} imports {other}, which imports {name}"


@pytest.mark.parametrize(
    "module", sorted(m for m in GRAPH if m.startswith(("selfie_tf.layers", "selfie_tf.models")))
)
def test_layers_and_models_know_no_config(module):
    assert not any(other.startswith("selfie_tf.config") for other in reachable(module))
