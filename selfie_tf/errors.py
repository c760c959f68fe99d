"""Errors that are the user's to mend: shown as one line, without a traceback."""


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
