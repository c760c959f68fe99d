"""What all commands share: flags, configs, logging, and mistakes in flags as `UserError`s."""

import collections.abc
import contextlib
import dataclasses
import difflib
import logging
import math
import os
import re
import signal
import sys
import threading
import typing

from absl import flags
from ml_collections import config_flags

from selfie_tf.cli import config_files
from selfie_tf.config import RunConfig, keys, suggest
from selfie_tf.errors import Interrupted, UserError
from selfie_tf.training.startup import process_start

_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the user gave.

    Attributes:
      flags: The values of the command's flags, as attributes.
      config: The config with its overrides, validated; None for commands without --config.
      config_name: The config's file, such as "configs/quickstart.py".
      config_given: Whether --config was given.
    """

    flags: flags.FlagValues
    config: RunConfig | None
    config_name: str
    config_given: bool = False


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      name: What the user types after `selfie-tf`.
      text: What it does and an example, for --help.
      define: (FlagValues) -> None; defines the flags of this command alone.
      run: (Arguments) -> exit code, or None for 0.
      kind: The class of the configs that it takes; None for a command without --config.
      config: The name of the default config.
      logs_to_stderr: Whether logs go to stderr, because stdout is for the result alone.
      needs_workdir: Whether --workdir, if there is such a flag, must be given.
      positional: The flag that an argument without a name stands for; empty if there is none.
    """

    name: str
    text: str
    define: collections.abc.Callable
    run: collections.abc.Callable
    kind: type | None = None
    config: str = ""
    logs_to_stderr: bool = False
    needs_workdir: bool = True
    positional: str = ""


def define_data_dir(values: flags.FlagValues) -> None:
    """Defines --data_dir."""
    flags.DEFINE_string(
        "data_dir",
        "",
        "Folder of prepared TensorFlow Datasets; empty: TFDS's default.",
        flag_values=values,
    )


def define_runs(values: flags.FlagValues, words: str) -> None:
    """Defines --runs; `words` say which runs. See `labelled_runs`."""
    flags.DEFINE_list(
        "runs",
        [],
        f"LABEL=WORKDIR of each run, separated by commas: runs {words}.",
        flag_values=values,
    )


def labelled_runs(values: list) -> list:
    """Splits what --runs gives into (label, work directory) pairs.

    Raises:
      UserError: If there is none, or a label or a path is missing.
    """
    pairs = [run.partition("=") for run in values]
    if not pairs or not all(label and path for label, _, path in pairs):
        raise UserError(f"--runs={','.join(values)}: expected LABEL=WORKDIR,LABEL=WORKDIR,...")
    return [(label, os.path.expanduser(path)) for label, _, path in pairs]


def define_images(values: flags.FlagValues, run: str) -> None:
    """Defines --workdir for `run` and the flags of any images: see `image_options`."""
    flags.DEFINE_string(
        "workdir", "", f"Folder of {run}, or of an export (required).", flag_values=values
    )
    flags.DEFINE_string(
        "images", "", "Folder of images, at any depth, or one file.", flag_values=values
    )
    flags.DEFINE_string(
        "data_name",
        "",
        "Instead of --images: data as in the config's data.name, such as tfds:cifar10.",
        flag_values=values,
    )
    define_data_dir(values)
    define_corrupt_budget(values)


def define_corrupt_budget(values: flags.FlagValues) -> None:
    """Defines --corrupt_budget for the images of a run that is finished."""
    flags.DEFINE_float(
        "corrupt_budget",
        None,
        "Fraction of the files that may be unreadable; one always may, unless this is 0. Empty: "
        "the run's data.corrupt_budget.",
        0.0,
        1.0,
        flag_values=values,
    )


def image_options(values: flags.FlagValues) -> dict:
    """The arguments that these flags stand for, see `evaluation.images.open_images`; and `path`.

    Raises:
      UserError: Unless there is one of --images and --data_name.
    """
    if bool(values.images) == bool(values.data_name):
        given = "both were given" if values.images else "give a folder or a file of images"
        raise UserError(f"--images or --data_name, one of them: {given}")
    return {
        "path": os.path.expanduser(values.workdir),
        "images": os.path.expanduser(values.images),
        "data_name": values.data_name,
        "data_dir": os.path.expanduser(values.data_dir),
        "corrupt_budget": values.corrupt_budget,
    }


def check_different(values: flags.FlagValues, *names: str) -> None:
    """Raises UserError if two of these flags name the same file or folder."""
    given = {}
    for name in names:
        path = values[name].value
        if path:
            other = given.setdefault(os.path.realpath(os.path.expanduser(path)), name)
            if other != name:
                raise UserError(
                    f"--{name}={path} is what --{other} names, too: one would overwrite the other; "
                    "give two names"
                )


def define_training_flags(values: flags.FlagValues) -> None:
    """Defines --workdir, --tpu, --virtual_devices, --data_dir and --download."""
    flags.DEFINE_string("workdir", "", "Folder for this run (required).", flag_values=values)
    flags.DEFINE_string(
        "tpu", "", "Name or grpc:// address of a TPU; local on a TPU VM.", flag_values=values
    )
    flags.DEFINE_integer(
        "virtual_devices",
        0,
        "Split the CPU into N replicas, to try distribution anywhere.",
        flag_values=values,
    )
    define_data_dir(values)
    flags.DEFINE_bool(
        "download", False, "Let TensorFlow Datasets download missing data.", flag_values=values
    )


def train(function, arguments: Arguments) -> None:
    """Calls `pretrain` or `finetune` as the flags say."""
    from selfie_tf.distribution.strategy import make_strategy

    values = arguments.flags
    function(
        arguments.config,
        os.path.expanduser(values.workdir),
        make_strategy(values.tpu, values.virtual_devices),
        data_dir=os.path.expanduser(values.data_dir),
        download=values.download,
        remote_data=values.tpu not in ("", "local"),
        began=process_start(),
    )


def parse(command: Command, argv: list[str]) -> Arguments:
    """Parses the flags of a command, in a FlagValues of its own.

    Args:
      command: The command.
      argv: Its flags. `--config.KEY=VALUE` may come before `--config`.

    Raises:
      UserError: On anything that is not as the command's help says. With --help, --workdir may be
        missing, and values need not work together.
    """
    for argument in argv:
        if argument.encode(errors="ignore").decode() != argument:
            raise UserError(f"{os.fsencode(argument)!r} is not UTF-8; rename what it names")
    values, config, path, chosen = flags.FlagValues(), None, "", None
    command.define(values)
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    if command.kind is not None:
        argv, chosen = _take_config(argv)
        path = config_files.find(command.config if chosen is None else chosen, command)
        config = config_files.load(path, command)
        _check_keys(argv, config, values)
        config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=argv)
    try:
        rest = values([command.name, *argv])
    except flags.UnrecognizedFlagError as error:
        raise UserError(
            f"unknown flag --{error.flagname}{_hint(error.flagname, config, values)}"
        ) from error
    except flags.Error as error:
        raise UserError(_explain(error, config)) from error
    for name, value in values.flag_values_dict().items():
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"--{name}=nan: expected a number")
    if len(rest) == 2 and command.positional and not values[command.positional].present:
        values[command.positional].value = rest[1]
    elif len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: flags are written --name=value")
    if config is not None:
        config = values.config
        config.set_explicit(config_flags.get_override_values(values["config"]))
    if not values.help:
        if command.needs_workdir and "workdir" in values and not values.workdir:
            raise UserError("--workdir is missing: give a folder, as in --workdir=runs/mine")
        if config is not None:
            config.validate()
    return Arguments(values, config, config_files.display_name(path), chosen is not None)


def _take_config(argv):
    """Splits off --config: (the other arguments, the last value given or None)."""
    rest, chosen, pending = [], None, False
    for argument in argv:
        name, equals, value = argument.partition("=")
        if pending:
            chosen, pending = argument, False
        elif name not in ("--config", "-config"):
            rest.append(argument)
        elif equals:
            chosen = value
        else:
            pending = True
    if pending:
        raise UserError("--config is the last word: give a config's name or path after it")
    return rest, chosen


def _check_keys(argv, config, values):
    known = {key.name for key in keys(config)}
    for argument in argv:
        given = _OVERRIDE.match(argument)
        if given and given[1] not in known:
            raise UserError(f"unknown config key {given[1]}{_hint(given[1], config, values)}")


def _hint(name, config, values):
    """What the user probably meant by a flag or config key that there is not."""
    flag = difflib.get_close_matches(name, values, 1)
    found = [f"--{flag[0]}"] if flag else []
    if config is not None and not difflib.get_close_matches(name, flag, 1, 0.8):
        key = suggest(name, config)
        found += [f"--config.{key}"] if key else []
    return f"; did you mean {' or '.join(found)}?" if found else "; --help lists what there is"


def _explain(error, config):
    """One line for an absl error; says what was expected of a config key's value."""
    message = " ".join(str(error).split())
    given = re.match(r"flag --config\.([\w.]+)=(.*?): ", message)
    for key in keys(config) if given else ():
        if key.name == given[1]:
            return f"--config.{key.name}={given[2]}: expected {_TYPES[key.type]}"
    return f"{message}; --help lists the flags"


class _Handler(logging.StreamHandler):
    def handleError(self, record):
        # Nobody reads on, as after `| head`; what the command makes is not lost for that.
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


@contextlib.contextmanager
def log_to(stream: typing.TextIO) -> collections.abc.Iterator[None]:
    """Sends logs to `stream`: from level INFO up, but from libraries only what matters."""
    handler = _Handler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    loggers = {
        logging.getLogger(): logging.INFO,
        logging.getLogger("tensorflow"): logging.WARNING,
        logging.getLogger("absl"): logging.ERROR,
        logging.getLogger("tf2onnx"): logging.WARNING,
    }
    levels = {logger: logger.level for logger in loggers}
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [handler]
    try:
        for logger, level in loggers.items():
            logger.setLevel(level)
        yield
    finally:
        root.handlers = handlers
        for logger, level in levels.items():
            logger.setLevel(level)


@contextlib.contextmanager
def ends_on_sigterm() -> collections.abc.Iterator[None]:
    """SIGTERM ends the command together with its child processes, as Ctrl-C does."""

    def end(signum, _):
        raise Interrupted(signum, "terminated")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
