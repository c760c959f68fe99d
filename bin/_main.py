"""What all commands share: flags, and mistakes shown as one line."""

import difflib
import glob
import logging
import os
import re
import runpy
import signal
import sys

from absl import app, flags
from ml_collections import config_flags

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # sys.path[0] is bin/

from selfie_tf.config import flatten  # noqa: E402
from selfie_tf.errors import Interrupted, UserError  # noqa: E402

DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of errors.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Folder of prepared TensorFlow Datasets; its own default if empty."
)
DOWNLOAD = flags.DEFINE_bool("download", False, "Let TensorFlow Datasets fetch missing data.")
CONFIG = None  # see `define_config`


def define_config(default: str, kind: type) -> None:
    """Defines --config, whose file must make a `kind`; its value is `CONFIG.value`."""
    global CONFIG, _KIND, _DEFAULT
    _KIND, _DEFAULT = kind, os.path.join(ROOT, "configs", default)
    CONFIG = config_flags.DEFINE_config_file(
        "config",
        _DEFAULT,
        "Config file; single values with --config.SECTION.KEY=VALUE.",
    )


def define_training_flags() -> None:
    """Defines --workdir, --tpu and --virtual_devices."""
    flags.DEFINE_string("workdir", "", "Folder for this run (required).")
    flags.DEFINE_string("tpu", "", "Name or address of a TPU; `local` on a TPU VM.")
    flags.DEFINE_integer(
        "virtual_devices", 0, "Split the CPU into that many replicas, to try distribution."
    )


def train(function) -> dict:
    """Calls `pretraining.pretrain` or `finetuning.finetune` as the flags say."""
    from selfie_tf.distribution.strategy import make_strategy

    values = flags.FLAGS
    return function(
        CONFIG.value,
        os.path.expanduser(values.workdir),
        make_strategy(values.tpu, values.virtual_devices),
        data_dir=os.path.expanduser(DATA_DIR.value),
        download=DOWNLOAD.value,
        remote_data=values.tpu not in ("", "local"),
    )


def run(main, log_stream=sys.stdout) -> None:
    """Parses the flags and calls `main()`; exits 1 with one line on a user's mistake.

    SIGTERM and SIGINT that training has saved for exit with 143 and 130.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=log_stream, force=True)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS and Keras narrate
    try:
        app.define_help_flags()
        _parse(sys.argv)
        main()
    except UserError as error:
        _fail(str(error), 1)
    except Interrupted as error:
        _fail(str(error), 128 + error.signum)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)


def end_on_sigterm() -> None:
    """SIGTERM ends the command with its child processes, as Ctrl-C does; exits with 143."""

    def end(signum, _):
        raise Interrupted(signum, "terminated")

    signal.signal(signal.SIGTERM, end)


def _fail(message, code):
    if "--debug" in sys.argv:
        logging.exception("")
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)  # TensorFlow's threads and servers may not let go


def _parse(argv):
    if CONFIG is not None:
        argv = _find_config(argv)
    try:
        rest = flags.FLAGS(argv)
        if "workdir" in flags.FLAGS and not flags.FLAGS.workdir:
            raise UserError("--workdir is missing: give a folder for this run")
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}: flags are written --name=value")
        if CONFIG is not None and not isinstance(CONFIG.value, _KIND):
            raise _other_kind()
    except flags.Error as error:
        raise UserError(" ".join(str(error).split()) + "; --help lists the flags") from error
    except UserError:
        raise
    except Exception as error:  # of config_flags, or of the config file itself
        config = _load(argv)
        known = () if config is None else flatten(config)
        for argument in argv[1:]:
            key = re.match(r"--?config\.([\w.]+)", argument)
            if known and key and key[1] not in known:
                close = difflib.get_close_matches(key[1], known, 1, 0.4)
                hint = f"did you mean {close[0]}?" if close else "see selfie_tf/config.py"
                raise UserError(f"unknown config key {key[1]}; {hint}") from error
        given = [a for a in argv if re.match(r"--?config(\.|=)", a)] or ["--config"]
        kind = type(error).__name__
        raise UserError(f"{' '.join(given)}: {kind}: {error}; --debug shows where") from error
    if CONFIG is not None:
        CONFIG.value.validate()


def _other_kind():
    names = {"PretrainConfig": "Config or PatchFormerConfig"}
    wanted = names.get(_KIND.__name__, _KIND.__name__)
    return UserError(
        f"--config: its get_config() must return a selfie_tf.config.{wanted}; bin/pretrain.py "
        "takes the configs of pretraining, bin/finetune.py those of finetuning"
    )


def _load(argv):
    """The config of the file, without overrides; None if that fails, which is shown as it is.

    Raises:
      UserError: if it is of the other kind.
    """
    path = next((a.partition("=")[2] for a in argv if re.match(r"--?config=", a)), _DEFAULT)
    try:
        value = runpy.run_path(path)["get_config"]()
    except Exception:
        return None
    if not isinstance(value, _KIND):
        raise _other_kind()
    return value


def _find_config(argv):
    """Checks the config file; --config=configs/x.py works from any directory."""
    found = []
    for argument in argv:
        if found and found[-1] in ("--config", "-config"):
            argument = f"{found.pop()}={argument}"
        name, equals, path = argument.partition("=")
        if name in ("--config", "-config") and equals and not os.path.isfile(path):
            path = os.path.join(ROOT, path)
            if not os.path.isfile(path):
                known = sorted(glob.glob("configs/*.py", root_dir=ROOT))
                raise UserError(f"{argument}: no such file; there are {', '.join(known)}")
            argument = f"{name}={path}"
        found.append(argument)
    return found
