"""Sums up an experiment, finished or not: tables and figures.

    selfie-tf summarize --config=experiments/quickstart --workdir=runs/experiment
    selfie-tf summarize --config=experiments/cifar10 --results=a.csv,b.csv --output=summary

Writes summary.md with the results, the frozen features and the grid of the tuning, summary.csv,
and figures as PNG and SVG: the gain over the number of labelled images, accuracy after finetuning
over accuracy at the pretext task, and, from the work directory, curves of finetuning and a picture
of each recipe's pretext task.
"""

import os

from absl import flags

from selfie_tf.cli import config_files
from selfie_tf.cli.common import Arguments, Command
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "config", "experiments/quickstart", "Name or path of the experiment.", flag_values=values
    )
    flags.DEFINE_string(
        "workdir", "", "Folder of the experiment; or give --results.", flag_values=values
    )
    flags.DEFINE_list(
        "results", [], "Tables of results, such as those of several machines.", flag_values=values
    )
    flags.DEFINE_string(
        "predictions",
        "",
        "Folder of the kept predictions; empty: that in the work directory.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", "", "Folder to write to; empty: the work directory.", flag_values=values
    )


def run(arguments: Arguments) -> None:
    """Sums up, and prints the table."""
    values = arguments.flags
    workdir = os.path.expanduser(values.workdir)
    tables = [os.path.expanduser(path) for path in values.results]
    output = os.path.expanduser(values.output) or workdir
    if not workdir and not tables:
        raise UserError("give the experiment's --workdir, or tables with --results=A.csv,B.csv")
    if not output:
        raise UserError("--output is missing: give a folder for the tables and figures")
    experiment = config_files.load_experiment(values.config)
    import tensorflow as tf

    from selfie_tf.experiments.report import write_summary
    from selfie_tf.experiments.rows import TABLE

    predictions = os.path.expanduser(values.predictions)
    if predictions and not tf.io.gfile.isdir(predictions):
        raise UserError(f"--predictions={values.predictions}: no such folder")
    cells = ""
    if workdir:
        tables.append(os.path.join(workdir, TABLE))
        predictions = predictions or os.path.join(workdir, "predictions")
        cells = os.path.join(workdir, "cells")
    print(write_summary(experiment, tables, predictions, output, cells))


COMMAND = Command("summarize", __doc__, define, run, needs_workdir=False)
