"""Image files that a trained network is to look at: a folder of them, or one."""

import os

import tensorflow as tf

from selfie_tf.data.decode import IMAGE_SUFFIXES
from selfie_tf.data.folder import FolderSource, least_side, list_images
from selfie_tf.errors import UserError


class FileSource(FolderSource):
    """All images below a folder, or a single file, without labels. All of them are held out.

    Args:
      path: The folder or the file.
      data: The `data` section of a config, which says how files are decoded.

    Raises:
      UserError: If there is nothing at `path`, or no image.
    """

    no_labels = "files have no labels"

    def __init__(self, path: str, data):
        # Not FolderSource's own, which divides a folder into training and held-out images.
        self._min_side, self._max_pixels = least_side(data), data.max_pixels
        self._budget, self._corrupt = data.corrupt_budget, {}
        if tf.io.gfile.isdir(path):
            self._path, files = path, list_images(path)
        elif tf.io.gfile.exists(path):
            self._path, files = os.path.dirname(path), [path]
        else:
            raise UserError(f"--images={path}: no such folder or file")
        if not files:
            raise UserError(
                f"--images={path}: no images in it or below; expected files ending in "
                f"{', '.join(IMAGE_SUFFIXES)}"
            )
        self._use([], files, None)
