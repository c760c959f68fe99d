"""Computes the features of any images, and writes them to a file.

    selfie-tf embed --workdir=runs/mine --images=PHOTOS --output=embeddings.npz

The file holds the arrays features (float32 [N, D]), ids (paths), labels (-1 is no label),
class_names, split, model, and fingerprint (the sha256 of the network's checkpoint or export).
--map shows the images by their features on a page that any browser opens, and --projector in
TensorBoard. Unreadable files are named in the log and left out.
"""

import os

from absl import flags

from selfie_tf.cli.common import Arguments, Command, check_different, define_images, image_options
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_images(values, "a pretraining or finetuning run")
    flags.DEFINE_string("output", "", "File to write, .npz (required).", flag_values=values)
    flags.DEFINE_string(
        "csv", "", "CSV file to write as well: path, label, split, features.", flag_values=values
    )
    flags.DEFINE_string(
        "map",
        "",
        "HTML page to write as well: a map of the images, the most similar pairs, outliers.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "projector", "", "Folder to write for TensorBoard's projector as well.", flag_values=values
    )


def run(arguments: Arguments) -> None:
    """Computes, and writes."""
    values = arguments.flags
    options = image_options(values)
    paths = {
        name: os.path.expanduser(values[name].value)
        for name in ("output", "csv", "map", "projector")
        if values[name].value
    }
    if "output" not in paths:
        raise UserError("--output is missing: give a file, as in --output=embeddings.npz")
    check_different(values, "images", *paths)
    from selfie_tf.evaluation.embed import embed, to_npz, to_table
    from selfie_tf.evaluation.images import prepare_output, write_output
    from selfie_tf.evaluation.map import write_map
    from selfie_tf.evaluation.projector import prepare_projector, write_projector

    for name, path in paths.items():
        if name == "projector":
            prepare_projector(path)
        else:
            prepare_output(name, path)
    embeddings = embed(**options, thumbnails="map" in paths or "projector" in paths)
    write_output("output", paths["output"], to_npz(embeddings))
    if "csv" in paths:
        write_output("csv", paths["csv"], to_table(embeddings))
    if "projector" in paths:
        write_projector(paths["projector"], embeddings)
    if "map" in paths:
        write_map(paths["map"], embeddings, options["images"] or options["data_name"])


COMMAND = Command("embed", __doc__, define, run)
