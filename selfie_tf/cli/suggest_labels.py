"""Chooses which images to label first: a list for a person to fill in, and a contact sheet.

    selfie-tf suggest-labels --workdir=runs/mine --images=PHOTOS --count=200 \\
      --output=label_me.csv --sheet=label_me.png

The columns are path and label, as --config.data.labels reads them; the labels are empty. Images are
chosen so that their features differ. With a classifier, they are chosen among those that it is
least certain of. --labelled=OLD.csv leaves out what has a label there, and chooses away from it.
"""

import logging
import os

from absl import flags

from selfie_tf.cli.common import Arguments, Command, check_different, define_images, image_options
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_images(values, "a pretraining or finetuning run")
    flags.DEFINE_integer("count", 200, "Number of images to choose.", 1, flag_values=values)
    flags.DEFINE_string("output", "", "CSV file to write (required).", flag_values=values)
    flags.DEFINE_string(
        "sheet", "", "PNG file for a contact sheet of the choice; empty: none.", flag_values=values
    )
    flags.DEFINE_string(
        "labelled", "", "CSV file of labels: what has one is not chosen.", flag_values=values
    )
    flags.DEFINE_enum(
        "method",
        None,
        ["kmeans", "farthest", "uncertain"],
        "kmeans: the middle of each cluster, largest clusters first; farthest: each image as far "
        "as can be from those before; uncertain: kmeans among the 10 · count images that a "
        "classifier is least certain of. Empty: uncertain if there is a classifier, else kmeans.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "classifier",
        "",
        "Folder of a finetuning run or its export, for uncertain; empty: --workdir, if it is one.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "embeddings",
        "",
        "File of selfie-tf embed, instead of computing features anew; then --workdir and --images "
        "are needed only for --sheet.",
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "Another seed, another choice.", 0, flag_values=values)


def run(arguments: Arguments) -> None:
    """Chooses, and writes the list."""
    values = arguments.flags
    output, sheet = os.path.expanduser(values.output), os.path.expanduser(values.sheet)
    if not output:
        raise UserError("--output is missing: give a file, as in --output=label_me.csv")
    if not values.workdir and (sheet or not values.embeddings):
        raise UserError("--workdir is missing: give a folder, as in --workdir=runs/mine")
    options = {}
    if not values.embeddings or sheet or values.classifier or values.images or values.data_name:
        options = image_options(values)
    from selfie_tf.evaluation.images import prepare_output, write_output
    from selfie_tf.evaluation.suggest import check_unlabelled, suggest, to_table

    prepare_output("output", output)
    check_unlabelled(output)
    check_different(values, "images", "labelled", "embeddings", "output", "sheet")
    options["path"] = os.path.expanduser(values.workdir)
    chosen = suggest(
        count=values.count,
        embeddings=os.path.expanduser(values.embeddings),
        classifier=os.path.expanduser(values.classifier),
        labelled=values.labelled,
        method=values.method or "",
        seed=values.seed,
        sheet=sheet,
        **options,
    )
    write_output("output", output, to_table(chosen))
    logging.info("%s: fill in its column label", output)


COMMAND = Command("suggest-labels", __doc__, define, run, needs_workdir=False)
