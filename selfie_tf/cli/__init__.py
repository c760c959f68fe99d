"""The command line: `selfie-tf COMMAND`, or `python bin/COMMAND.py` in a checkout.

One module per command; importing them does not import TensorFlow, so that help and mistakes in
flags show at once.
"""

import difflib
import os
import shutil
import signal
import sys
import traceback

from selfie_tf.cli import (
    benchmark,
    check_tpu,
    compare,
    embed,
    evaluate,
    experiment,
    export,
    finetune,
    inspect,
    predict,
    prepare,
    pretrain,
    report,
    suggest_labels,
    summarize,
)
from selfie_tf.cli.common import Command, log_to, parse
from selfie_tf.cli.help import command_help, overview
from selfie_tf.errors import Interrupted, UserError

COMMANDS = {
    module.COMMAND.name: module.COMMAND
    for module in (
        inspect,
        prepare,
        pretrain,
        finetune,
        evaluate,
        predict,
        embed,
        suggest_labels,
        export,
        compare,
        report,
        experiment,
        summarize,
        benchmark,
        check_tpu,
    )
}


def main(argv: list[str]) -> int:
    """Runs `selfie-tf argv...` in this process.

    Args:
      argv: The command's name and its flags.

    Returns:
      The exit code: 0; 1 after a mistake of the user, which is printed to stderr as one line; 128
      plus the signal's number after SIGINT or SIGTERM; and those of the command itself.
    """
    try:
        if argv and argv[0] in ("--help", "-h"):
            print(overview(COMMANDS.values(), _width()))
            return 0
        command = _find(argv)
        arguments = parse(command, argv[1:])
        if arguments.flags.help:
            print(command_help(command, arguments, _width()))
            return 0
        with log_to(sys.stderr if command.logs_to_stderr else sys.stdout):
            return command.run(arguments) or 0
    except UserError as error:
        return _fail(argv, str(error), 1)
    except Interrupted as error:
        return _fail(argv, str(error), 128 + error.signum)
    except KeyboardInterrupt:
        return _fail(argv, "interrupted", 128 + signal.SIGINT)


def run_process(argv: list[str] | None = None) -> None:
    """Runs `main`, by default with the arguments of the process, and ends the process."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by a daemon or `>&-`
            setattr(sys, name, open(os.devnull, "w"))
    try:
        code = main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # nobody reads on, as after `--help | head`
        code = 128 + signal.SIGPIPE
    if code:
        os._exit(code)  # TensorFlow's threads and servers may keep the process alive


def _find(argv) -> Command:
    names = ", ".join(COMMANDS)
    if not argv or argv[0].startswith("-"):
        raise UserError(f"give a command first: {names}; selfie-tf --help describes them")
    if argv[0] not in COMMANDS:
        close = difflib.get_close_matches(argv[0].replace("_", "-"), COMMANDS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"unknown command {argv[0]!r}; {hint}The commands are {names}")
    return COMMANDS[argv[0]]


def _fail(argv, message, code):
    sys.stdout.flush()
    if "--debug" in argv:
        traceback.print_exc()
    message = message.replace("\r", "\\r").replace("\n", "\\n")  # as in a file's name
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code


def _width():
    return min(shutil.get_terminal_size().columns, 120)
