"""Classifies any images: a table of the most probable classes, least certain first.

    selfie-tf predict --workdir=runs/classifier --images=PHOTOS --output=predictions.csv
    selfie-tf predict --workdir=exports/classifier --images=PHOTOS --output=- | head

The columns are path, class, probability, and the second and third class with their probabilities.
Unreadable files are named in the log and left out.
"""

import os
import sys

from absl import flags

from selfie_tf.cli.common import Arguments, Command, check_different, define_images, image_options
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_images(values, "a finetuning run")
    flags.DEFINE_string(
        "output", "", "CSV file to write; - for standard output (required).", flag_values=values
    )
    flags.DEFINE_string(
        "sheet",
        "",
        "PNG file for a contact sheet of the 40 least certain images; empty: none.",
        flag_values=values,
    )


def run(arguments: Arguments) -> None:
    """Classifies, and writes the table."""
    values = arguments.flags
    options = image_options(values)
    output = os.path.expanduser(values.output)
    if not output:
        raise UserError(
            "--output is missing: give a file, as in --output=predictions.csv, or --output=- for "
            "standard output"
        )
    from selfie_tf.evaluation.images import prepare_output, write_output
    from selfie_tf.evaluation.predict import predict, to_table

    if output != "-":
        prepare_output("output", output)
    check_different(values, "output", "sheet")
    table = to_table(predict(**options, sheet=os.path.expanduser(values.sheet)))
    if output != "-":
        write_output("output", output, table)
        return
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")  # file names, whatever the locale
    sys.stdout.write(table)


COMMAND = Command("predict", __doc__, define, run, logs_to_stderr=True)
