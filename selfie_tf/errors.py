"""Errors that are the user's to mend: shown as one line, without a traceback."""

import re


class UserError(Exception):
    """A mistake outside the code. The message is one line: the culprit, and the way out."""


class Interrupted(Exception):
    """A signal stopped the process: training, after its state was saved, or a command.

    Attributes:
      signum: the signal's number; the process exits with 128 + signum.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


# Of a TensorFlow error's message: what says where in the graph, not what.
_WHERE = re.compile(
    r'Graph execution error|Detected at node|Node: |File "|<stack traces|\d+ root error'
)


def first_line(error: BaseException) -> str:
    """The first line that says anything of an error's message."""
    lines = [re.sub(r"^\{\{.*?\}\}", "", line.strip()).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not _WHERE.match(line)]
    return lines[0] if lines else type(error).__name__
