"""The package's config files: their names, and which of them a config is closest to."""

import os
import runpy
import shlex

from selfie_tf.config.base import PretrainConfig, RunConfig
from selfie_tf.config.finetune import FinetuneConfig
from selfie_tf.config.serialize import flatten


def folder() -> str:
    """The folder of the package's configs: inside it when installed, beside it in a checkout."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    inside = os.path.join(package, "configs")
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(package), "configs")


def known(kind: type = RunConfig) -> list[str]:
    """The names of the package's configs, by default of all kinds."""
    found = sorted(f.removesuffix(".py") for f in os.listdir(folder()) if f.endswith(".py"))
    if kind is RunConfig:
        return found
    return [name for name in found if name.startswith("finetune_") == (kind is FinetuneConfig)]


def get(name: str) -> RunConfig:
    """One of the package's configs by its name, for experiments that begin with its numbers."""
    config = runpy.run_path(os.path.join(folder(), f"{name}.py"))["get_config"]()
    config.set_explicit(())
    return config


def nearest(config: RunConfig) -> tuple[str, dict]:
    """Finds which of the package's configs has the fewest other values than `config`.

    Returns:
      Its name, and {key: its value} of the keys that differ. The name is "" if there is no config
      of this kind; the values are then the defaults.
    """
    kind = FinetuneConfig if isinstance(config, FinetuneConfig) else PretrainConfig
    configs = {name: get(name) for name in known(kind)}
    found = {name: other for name, other in configs.items() if type(other) is type(config)}
    values = flatten(config)
    differing = {
        name: {key: value for key, value in flatten(other).items() if value != values[key]}
        for name, other in (found or {"": type(config)()}).items()
    }
    return min(differing.items(), key=lambda item: len(item[1]))


def command(config: RunConfig, workdir: str) -> str:
    """Writes a command that makes the run of `config`, one flag per line, for a shell.

    Returns:
      "" if none of the package's configs is of this kind.
    """
    name, differing = nearest(config)
    if not name:
        return ""
    values = flatten(config)
    flags = [f"--config={name}", *(f"--config.{key}={values[key]}" for key in differing)]
    verb = "finetune" if isinstance(config, FinetuneConfig) else "pretrain"
    words = [f"selfie-tf {verb}", *map(shlex.quote, [*flags, f"--workdir={workdir}"])]
    return " \\\n  ".join(words)
