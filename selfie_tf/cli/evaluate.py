"""Evaluates a run or an export on images that it was not trained on.

    selfie-tf evaluate --workdir=runs/quickstart/finetuned    # a finetuning run
    selfie-tf evaluate --workdir=runs/quickstart/pretrained   # a pretraining run

For a finetuning run: top-1, top-5 and balanced accuracy, a table per class and a confusion matrix.
For a pretraining run: its accuracy at the pretext task, if it learnt it, and the accuracy of 20
nearest neighbours and of a linear probe on its frozen features, beside those of the same network
with random weights; all of that also with batch statistics of whole images.
"""

import os

from absl import flags

from selfie_tf.cli.common import Arguments, Command, define_corrupt_budget, define_data_dir


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "workdir", "", "Folder of the run, or of an export (required).", flag_values=values
    )
    flags.DEFINE_string(
        "output", "", "Folder for evaluation.json; empty: the run's own.", flag_values=values
    )
    flags.DEFINE_string(
        "data_name",
        "",
        "Labelled images to evaluate on, as in the config's data.name; empty: the run's own.",
        flag_values=values,
    )
    define_data_dir(values)
    define_corrupt_budget(values)
    flags.DEFINE_integer(
        "train_images",
        10_000,
        "Labelled images for the nearest neighbours and the linear probe, at most.",
        1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "label_fraction",
        1.0,
        "Fraction of each class's images that they learn from, at most.",
        0.0,
        1.0,
        flag_values=values,
    )


def run(arguments: Arguments) -> None:
    """Evaluates, and prints a report."""
    from selfie_tf.evaluation import evaluate, tables
    from selfie_tf.training.load import is_finetuning

    values = arguments.flags
    path = os.path.expanduser(values.workdir)
    options = {
        "path": path,
        "output": os.path.expanduser(values.output) or path,
        "data_name": values.data_name,
        "data_dir": os.path.expanduser(values.data_dir),
        "corrupt_budget": values.corrupt_budget,
    }
    if is_finetuning(path):
        print(tables.finetuned_report(evaluate.evaluate_finetuned(**options)))
    else:
        result = evaluate.evaluate_pretrained(
            **options, train_images=values.train_images, label_fraction=values.label_fraction
        )
        print(tables.pretrained_report(result))


COMMAND = Command("evaluate", __doc__, define, run)
