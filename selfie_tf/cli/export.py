"""Writes a run as a SavedModel, to serve or to finetune: features, or a classifier.

With --format also as ONNX (model.onnx) and for TensorFlow Lite (model.tflite), compared with the
SavedModel.

    selfie-tf export --workdir=runs/quickstart/finetuned --output=exports/classifier
    selfie-tf export --workdir=runs/quickstart/pretrained --output=exports/features
    selfie-tf export --workdir=runs/mine --output=exports/mine --format=savedmodel,onnx,tflite

The folder holds a model card, README.md, that says how to use it.
"""

import os

from absl import flags

from selfie_tf.cli.common import Arguments, Command
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "workdir", "", "Folder of a pretraining or finetuning run (required).", flag_values=values
    )
    flags.DEFINE_string("output", "", "Folder to create (required).", flag_values=values)
    flags.DEFINE_list(
        "format",
        "savedmodel",
        "savedmodel, onnx, tflite, with commas between. The SavedModel is always written; the "
        "others are made from it.",
        flag_values=values,
    )


def run(arguments: Arguments) -> None:
    """Exports."""
    values = arguments.flags
    if not values.output:
        raise UserError("--output is missing: give a folder to create, as in --output=exports/mine")
    from selfie_tf.evaluation.export import export

    export(os.path.expanduser(values.workdir), os.path.expanduser(values.output), values.format)


COMMAND = Command("export", __doc__, define, run)
