"""Compares finished finetuning runs: a table, and the curves of Selfie's Figure 3.

    selfie-tf compare --runs=pretrained=runs/a,scratch=runs/b --picture=runs/comparison.png

Runs with the same label, such as those of other seeds, are averaged.
"""

import os

from absl import flags

from selfie_tf.cli.common import Arguments, Command
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_list(
        "runs", [], "LABEL=WORKDIR of each run, separated by commas (required).", flag_values=values
    )
    flags.DEFINE_string("picture", "", "PNG file to write; empty: none.", flag_values=values)


def run(arguments: Arguments) -> None:
    """Compares, and prints the table."""
    values = arguments.flags
    pairs = [run.partition("=") for run in values.runs]
    if not pairs or not all(label and path for label, _, path in pairs):
        raise UserError(f"--runs={','.join(values.runs)}: expected LABEL=WORKDIR,LABEL=WORKDIR,...")
    from selfie_tf.evaluation.compare import compare

    runs = [(label, os.path.expanduser(path)) for label, _, path in pairs]
    print(compare(runs, os.path.expanduser(values.picture)))


COMMAND = Command("compare", __doc__, define, run)
