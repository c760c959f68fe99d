"""Compares finished finetuning runs: a table, and the curves of Selfie's Figure 3.

    selfie-tf compare --runs=pretrained=runs/a,scratch=runs/b --picture=runs/comparison.png

Runs with the same label, such as those of other seeds, are averaged. `selfie-tf report` makes
a page of the same comparison.
"""

import os

from absl import flags

from selfie_tf.cli.common import Arguments, Command, define_runs, labelled_runs


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_runs(values, "of finetuning, those with the same label being averaged (required)")
    flags.DEFINE_string("picture", "", "PNG file to write; empty: none.", flag_values=values)


def run(arguments: Arguments) -> None:
    """Compares, and prints the table."""
    runs = labelled_runs(arguments.flags.runs)
    from selfie_tf.evaluation.compare import compare

    print(compare(runs, os.path.expanduser(arguments.flags.picture)))


COMMAND = Command("compare", __doc__, define, run)
