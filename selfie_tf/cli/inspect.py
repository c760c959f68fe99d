"""Looks at images before hours of training: sizes, classes, copies, speed, a config to begin with.

    selfie-tf inspect --output=inspected PHOTOS
    selfie-tf inspect --data_name=tfds:cifar10 --config=selfie_cifar10

Prints a table. --output also writes a page, inspect.html, and all that was found, inspect.json.
Without --config, the suggested config is timed.
"""

import json
import os

from absl import flags

from selfie_tf.cli.common import Arguments, Command, define_data_dir, ends_on_sigterm
from selfie_tf.config import PretrainConfig
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "images",
        "",
        "Folder of images; may also be given without --images=. Or give data by its name, with "
        "--data_name or --config.data.name.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_name", "", "Data as in data.name, such as tfds:cifar10.", flag_values=values
    )
    define_data_dir(values)
    flags.DEFINE_string(
        "output", "", "Folder for inspect.html and inspect.json; empty: none.", flag_values=values
    )
    flags.DEFINE_integer(
        "limit", 100_000, "How many images to look at, at most.", 1, flag_values=values
    )


def run(arguments: Arguments) -> None:
    """Inspects, prints the table, and writes the files."""
    values, config = arguments.flags, arguments.config
    named = "data.name" in config.explicit_keys()
    if bool(values.images) + bool(values.data_name) + named != 1:
        raise UserError(
            "give the images once: a folder, as in selfie-tf inspect PHOTOS, or --data_name or "
            "--config.data.name"
        )
    if values.images:
        config.data.name = f"folder:{values.images}"
    elif values.data_name:
        config.data.name = values.data_name
    config.validate()
    output = os.path.expanduser(values.output)
    from selfie_tf.evaluation.images import prepare_output, write_output
    from selfie_tf.inspection.page import make_page
    from selfie_tf.inspection.report import inspect
    from selfie_tf.inspection.words import table

    page, facts = (os.path.join(output, name) for name in ("inspect.html", "inspect.json"))
    if output:
        for path in (page, facts):
            prepare_output("output", path)
    with ends_on_sigterm():
        inspection = inspect(
            config,
            os.path.expanduser(values.data_dir),
            values.limit,
            arguments.config_name if arguments.config_given else "",
        )
        if output:
            write_output("output", page, make_page(inspection))
            write_output("output", facts, json.dumps(inspection.report, indent=2) + "\n")
    print(table(inspection.report))
    if output:
        print(f"\n{page}")


COMMAND = Command(
    "inspect",
    __doc__,
    define,
    run,
    PretrainConfig,
    "quickstart",
    logs_to_stderr=True,
    positional="images",
)
