"""Errors that the user can mend; they are shown as one line, without a traceback."""

import re


class UserError(Exception):
    """A mistake outside the code; its message names the culprit and the way out, in one line."""


class DivergedError(UserError):
    """A loss or its gradient became NaN or infinite."""


class Interrupted(Exception):
    """A signal stopped the process: training, after its state was saved, or a command.

    Attributes:
      signum: The signal's number; the process exits with 128 + signum.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


# Lines of a TensorFlow error's message that say where in the graph it happened, not what.
_WHERE = re.compile(
    r'Graph execution error|Detected at node|Node: |File "|<stack traces|\d+ root error'
)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message that says what happened."""
    lines = [re.sub(r"^\{\{.*?\}\}", "", line.strip()).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not _WHERE.match(line)]
    return lines[0] if lines else type(error).__name__
