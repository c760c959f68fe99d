"""Finds and loads config files: those that come with the package, and the user's own."""

import difflib
import os
import runpy

from selfie_tf.config import FinetuneConfig, PretrainConfig, RunConfig
from selfie_tf.config.files import folder, known
from selfie_tf.errors import UserError, first_line
from selfie_tf.experiments.plan import Experiment

_KINDS = {PretrainConfig: "pretraining", FinetuneConfig: "finetuning"}


def find(value: str, command) -> str:
    """The path of a config file.

    Args:
      value: A path, or the name of one of the package's configs: "quickstart" or
        "configs/quickstart.py" from any directory.
      command: The `common.Command` that wants it.

    Raises:
      UserError: If there is none.
    """
    path = os.path.expanduser(value)
    if os.path.isfile(path):
        return path
    name = value.removeprefix("configs/").removesuffix(".py")
    if name in known():
        return os.path.join(folder(), f"{name}.py")
    close = difflib.get_close_matches(name, known(command.kind), 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(
        f"--config={value}: there is no such file or config; {hint}The configs are "
        f"{', '.join(known(command.kind))}"
    )


def load(path: str, command) -> RunConfig:
    """The config that a file's `get_config()` returns.

    Args:
      path: The file.
      command: The `common.Command` that wants it.

    Raises:
      UserError: If the file fails, or returns something other than a config for this command.
    """
    name = display_name(path)
    try:
        namespace = runpy.run_path(path)
        config = namespace["get_config"]() if "get_config" in namespace else None
    except Exception as error:
        raise UserError(
            f"--config={name}: {type(error).__name__}: {first_line(error)}; --debug shows where"
        ) from error
    if isinstance(config, command.kind):
        return config
    for kind, words in _KINDS.items():
        if isinstance(config, kind):
            raise UserError(
                f"--config={name} is a {words} config; {command.name} takes a "
                f"{_KINDS[command.kind]} config: {', '.join(known(command.kind))}"
            )
    if "get_config" not in namespace:
        raise UserError(f"--config={name}: it defines no get_config()")
    raise UserError(
        f"--config={name}: its get_config() returns {type(config).__name__}; expected a "
        f"{_KINDS.get(command.kind, ' or '.join(_KINDS.values()))} config, see "
        f"{os.path.join(folder(), command.config)}.py"
    )


def known_experiments() -> list[str]:
    """The names of the package's experiments."""
    found = os.listdir(os.path.join(folder(), "experiments"))
    return sorted(f.removesuffix(".py") for f in found if f.endswith(".py"))


def load_experiment(value: str) -> Experiment:
    """The experiment that a file's `get_config()` returns.

    Args:
      value: A path, or the name of one of the package's experiments: "experiments/quickstart".

    Raises:
      UserError: If there is none, or the file fails, or its experiment cannot work.
    """
    inside = os.path.join(folder(), "experiments")
    path = os.path.expanduser(value)
    if not os.path.isfile(path):
        name = value.removeprefix("configs/").removeprefix("experiments/").removesuffix(".py")
        path = os.path.join(inside, f"{name}.py")
    if not os.path.isfile(path):
        known = ", ".join(f"experiments/{name}" for name in known_experiments())
        raise UserError(f"--config={value}: no such file, nor an experiment; there are {known}")
    try:
        namespace = runpy.run_path(path)
        if "get_config" not in namespace:
            raise UserError("it defines no get_config()")
        experiment = namespace["get_config"]()
        if not isinstance(experiment, Experiment):
            raise UserError(
                f"its get_config() returns {type(experiment).__name__}; expected an Experiment, as "
                "in configs/experiments"
            )
        experiment.validate()
    except UserError as error:
        raise UserError(f"--config={value}: {error}") from error
    except Exception as error:  # the file's own, or a value of a wrong type
        raise UserError(
            f"--config={value}: {type(error).__name__}: {first_line(error)}; --debug shows where"
        ) from error
    return experiment


def display_name(path: str) -> str:
    """A short name: "configs/NAME.py" for one of the package's configs, else the path."""
    inside = os.path.dirname(os.path.abspath(path)) == folder()
    return f"configs/{os.path.basename(path)}" if inside else path
