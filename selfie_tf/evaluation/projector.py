"""A folder for TensorBoard's Embedding Projector."""

import io
import logging
import os

import numpy as np
import tensorflow as tf
from google.protobuf import text_format

from selfie_tf.errors import UserError, first_line
from selfie_tf.evaluation.images import write_output
from selfie_tf.evaluation.thumbnails import draw_sprites

_SPRITE_SIDE = 8192  # pixels; the projector draws no larger sprite image


def prepare_projector(folder: str) -> None:
    """Makes the folder, and takes away the config of an older projector.

    Raises:
      UserError: If that is not possible.
    """
    config = _config_path(folder)
    try:
        tf.io.gfile.makedirs(folder)
        if tf.io.gfile.exists(config):
            tf.io.gfile.remove(config)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--projector={folder} cannot be written ({first_line(error)}); give another folder"
        ) from error


def write_projector(folder: str, embeddings: dict) -> None:
    """Writes features, metadata and thumbnails where `tensorboard --logdir=FOLDER` shows them.

    The config is written last: without it, TensorBoard shows nothing.

    Args:
      folder: See `prepare_projector`.
      embeddings: See `embed.embed`, with `thumbnails`. Of more images than a sprite image holds,
        the first are taken.

    Raises:
      UserError: If the folder cannot be written to.
    """
    from tensorboard.plugins import projector  # slow to import

    thumbnails = embeddings["thumbnails"]
    count, side = thumbnails.shape[:2]
    columns = _SPRITE_SIDE // side
    shown = min(count, columns**2)
    features = io.StringIO()
    np.savetxt(features, embeddings["features"][:shown], fmt="%.9g", delimiter="\t")
    files = {
        "features.tsv": features.getvalue(),
        "metadata.tsv": _metadata(embeddings, shown),
        "thumbnails.png": draw_sprites(thumbnails[:shown], min(columns, shown), "png"),
    }
    for name, content in files.items():
        write_output("projector", os.path.join(folder, name), content)

    settings = projector.ProjectorConfig()
    settings.embeddings.add(
        tensor_name="features",
        tensor_path="features.tsv",
        metadata_path="metadata.tsv",
        sprite=projector.SpriteMetadata(image_path="thumbnails.png", single_image_dim=[side, side]),
    )
    write_output("projector", _config_path(folder), text_format.MessageToString(settings))
    logging.info("tensorboard --logdir=%s shows %d images", folder, shown)
    if shown < count:
        logging.warning(
            "--projector=%s: left out the last %d of %d images: a sprite image of %d×%d pixels "
            "holds %d",
            folder,
            count - shown,
            count,
            _SPRITE_SIDE,
            _SPRITE_SIDE,
            shown,
        )


def _config_path(folder):
    return os.path.join(folder, "projector_config.pbtxt")


def _metadata(embeddings, shown):
    """Tab-separated lines; a name's own tabs and line ends become spaces."""
    names = [*embeddings["class_names"], ""]  # -1 is the last
    lines = [("path", "label", "split")]
    rows = zip(embeddings["ids"], embeddings["labels"], embeddings["split"])
    lines += [(i, names[label], split) for (i, label, split), _ in zip(rows, range(shown))]
    return "".join("\t".join(" ".join(x.split()) for x in line) + "\n" for line in lines)
