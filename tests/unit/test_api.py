"""The package's own attributes, for scripts: `selfie_tf.load_pretrained` and so on."""

import importlib
import inspect
import os
import tomllib

import pytest

import selfie_tf
from selfie_tf.evaluation.export import export
from selfie_tf.training.finetune import finetune
from selfie_tf.training.load import load_finetuned, load_pretrained
from selfie_tf.training.pretrain import pretrain

from helpers import ROOT

FUNCTIONS = [export, finetune, load_finetuned, load_pretrained, pretrain]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_functions_are_attributes_of_the_package(function):
    name = function.__name__
    assert getattr(selfie_tf, name) is function
    assert name in dir(selfie_tf) and name in selfie_tf.__all__
    assert f"selfie_tf.{name}(" in selfie_tf.__doc__ or name == "finetune"


def test_all_is_what_type_checkers_see():
    """Each public name is imported under TYPE_CHECKING, and exists."""
    source = inspect.getsource(selfie_tf)
    block = source.partition("if typing.TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    imported = [line.partition("import ")[2].split(", ") for line in block.splitlines()]
    seen = {name for names in imported for name in names}
    assert seen == set(selfie_tf.__all__)
    assert all(getattr(selfie_tf, name) is not None for name in selfie_tf.__all__)
    assert os.path.exists(os.path.join(os.path.dirname(selfie_tf.__file__), "py.typed"))


def test_an_unknown_attribute_is_an_error_as_ever():
    with pytest.raises(AttributeError, match="module 'selfie_tf' has no attribute 'predict'"):
        selfie_tf.predict  # noqa: B018


def test_submodules_are_not_hidden_by_attributes():
    for name in selfie_tf.__all__:
        if name != "config":
            with pytest.raises(ModuleNotFoundError):
                importlib.import_module(f"selfie_tf.{name}")


def test_keras_2_is_chosen():
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


def test_the_version_is_in_one_place():
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        project = tomllib.load(file)
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "selfie_tf.__version__"
