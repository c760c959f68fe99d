"""Computes the features of any images, and writes them to a file.

    selfie-tf embed --workdir=runs/mine --images=PHOTOS --output=embeddings.npz

The file holds the arrays features (float32 [N, D]), ids (paths), labels (-1 is no label),
class_names, split, model, and fingerprint (the sha256 of the network's checkpoint or export).
Unreadable files are named in the log and left out.
"""

import os

from absl import flags

from selfie_tf.cli.common import Arguments, Command, define_images, image_options
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_images(values, "a pretraining or finetuning run")
    flags.DEFINE_string("output", "", "File to write, .npz (required).", flag_values=values)
    flags.DEFINE_string(
        "csv", "", "CSV file to write as well: path, label, split, features.", flag_values=values
    )


def run(arguments: Arguments) -> None:
    """Computes, and writes."""
    values = arguments.flags
    options = image_options(values)
    output, table = (os.path.expanduser(path) for path in (values.output, values.csv))
    if not output:
        raise UserError("--output is missing: give a file, as in --output=embeddings.npz")
    from selfie_tf.evaluation.embed import embed, to_npz, to_table
    from selfie_tf.evaluation.images import prepare_output, write_output

    prepare_output("output", output)
    if table:
        prepare_output("csv", table)
    embeddings = embed(**options)
    write_output("output", output, to_npz(embeddings))
    if table:
        write_output("csv", table, to_table(embeddings))


COMMAND = Command("embed", __doc__, define, run)
