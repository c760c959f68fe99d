"""Where images come from, and how they become batches.

A new kind of source is one module with an `open_source`, and two lines here: see CONTRIBUTING.md.
"""

import math
import os

from selfie_tf.data import folder, synthetic, tfds
from selfie_tf.data.labels import label_source
from selfie_tf.errors import UserError

SOURCES = {
    "builtin": synthetic.open_source,
    "folder": folder.open_source,
    "tfds": tfds.open_source,
}


def make_source(data, data_dir: str = "", download: bool = False, remote: bool = False):
    """Opens the source that `data.name` asks for.

    Args:
      data: The `data` section of a config, see `config.ImagesConfig`.
      data_dir: Folder of prepared TensorFlow Datasets.
      download: Whether TensorFlow Datasets may fetch the data.
      remote: Whether the input runs on the hosts of a TPU, which see neither this machine's files
        nor its Python.

    Returns:
      A `data.source.IndexedSource`, or something with the same methods.

    Raises:
      UserError: If there is no such data, or a list of labels cannot be used.
    """
    kind, _, location = data.name.partition(":")
    if kind not in SOURCES or not location:
        known = ", ".join(f"{name}:..." for name in SOURCES)
        raise UserError(f"data.name={data.name!r}: expected one of {known}")
    source = SOURCES[kind](location, data, data_dir, download, remote)
    if getattr(data, "labels", ""):
        return label_source(source, data, os.path.expanduser(location))
    return source


def check_batch_size(config, source) -> None:
    """Raises UserError if `source` has fewer training images than one batch of `config`."""
    size = config.train.batch_size
    if source.num_train < size:
        smaller = 2 ** int(math.log2(max(source.num_train, 1)))
        raise UserError(
            f"data.name={config.data.name}: there are {source.num_train} images to train on, fewer "
            f"than one batch of {size}; give a smaller batch, as in "
            f"--config.train.batch_size={smaller}"
        )
