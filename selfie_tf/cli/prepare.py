"""Makes a TensorFlow Datasets dataset of a folder of images, for training anywhere.

    selfie-tf prepare --images=PHOTOS --name=mine --output=DATASETS
    selfie-tf pretrain --config.data.name=tfds:mine --data_dir=DATASETS --workdir=runs/mine

The dataset holds the images that a run of the folder sees, holds out the same ones, and has its
classes. Unreadable files are named in the log and in rejected.csv, and left out. However it stops,
the same command resumes.
"""

import contextlib
import os
import re

from absl import flags

from selfie_tf.cli.common import Arguments, Command, ends_on_sigterm
from selfie_tf.config.finetune import LabelledDataConfig
from selfie_tf.errors import UserError

_KEYS = ("labels", "test_labels", "test_split", "held_out", "corrupt_budget", "max_pixels")


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    data = LabelledDataConfig()
    flags.DEFINE_string(
        "images",
        "",
        "Folder of images, at any depth, as data.name=folder:PATH takes it; empty: the folder of "
        "--labels.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "labels",
        "",
        "CSV file of path,label: only these images, with these labels; empty: all images, with "
        "one folder per class.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "test_labels", "", "With --labels: CSV file of the images to hold out.", flag_values=values
    )
    flags.DEFINE_string("name", "", "Name of the dataset (required).", flag_values=values)
    flags.DEFINE_string(
        "output",
        "",
        "Folder of datasets, the --data_dir of other commands; local or gs://... (required).",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "processes", 0, "Processes that read and encode; 0: one per core.", 0, flag_values=values
    )
    flags.DEFINE_integer(
        "shorter_side",
        0,
        "Shrink images to this shorter side in pixels, as JPEGs; 0: as they are.",
        0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "quality", 95, "JPEG quality of images that are encoded anew.", 1, 100, flag_values=values
    )
    flags.DEFINE_integer("images_per_shard", 1000, "Images per file.", 1, flag_values=values)
    flags.DEFINE_string(
        "test_split",
        data.test_split,
        "Folder of the held-out images; empty: test, validation or val, whichever exists.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "held_out",
        data.held_out,
        "Images to hold out where there is no such folder, at most a tenth of all.",
        1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "corrupt_budget",
        data.corrupt_budget,
        "Fraction of the files that may be unreadable; one always may, unless this is 0.",
        0.0,
        1.0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_pixels",
        data.max_pixels,
        "Larger images count as unreadable.",
        1,
        flag_values=values,
    )


def run(arguments: Arguments) -> None:
    """Prepares, and reports."""
    values = arguments.flags
    for flag, example in (("name", "mine"), ("output", "datasets")):
        if not values[flag].value:
            raise UserError(f"--{flag} is missing: give it, as in --{flag}={example}")
    for flag in ("images", "output"):
        if values[flag].value.startswith("file:"):
            raise UserError(f"--{flag}={values[flag].value}: give a path without file://")
    if not values.images and not values.labels:
        raise UserError("--images is missing: give a folder, as in --images=PHOTOS")
    if values.test_labels and not values.labels:
        raise UserError("--test_labels needs --labels, the list of the images to train on")
    images = values.images or os.path.dirname(os.path.expanduser(values.labels)) or "."
    data = LabelledDataConfig(name=f"folder:{images}")
    for key in _KEYS:
        setattr(data, key, values[key].value)
    from selfie_tf.data.prepare import prepare

    with ends_on_sigterm(), _flags_named(images):
        prepare(
            data,
            values.name,
            os.path.expanduser(values.output),
            values.processes or os.cpu_count(),
            values.shorter_side,
            values.quality,
            values.images_per_shard,
        )


@contextlib.contextmanager
def _flags_named(images):
    """Lets errors of the images' source name this command's flags instead of config keys."""
    try:
        yield
    except UserError as error:
        message = re.sub(r", or evaluate on a part of the list with \S+", "", str(error))
        message = message.replace(f"data.name=folder:{images}", f"--images={images}")
        message = re.sub(rf"(--config\.|\b)data\.({'|'.join(_KEYS)})\b", r"--\2", message)
        raise UserError(message) from error


COMMAND = Command("prepare", __doc__, define, run)
