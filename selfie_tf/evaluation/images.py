"""Any images, as a trained network sees them: files, or data by name."""

import collections.abc
import csv
import io
import os

import tensorflow as tf

from selfie_tf.data import make_source
from selfie_tf.data.crops import resize_and_center
from selfie_tf.data.files import FileSource
from selfie_tf.data.source import reading, without_autotuning
from selfie_tf.errors import UserError, first_line
from selfie_tf.storage.files import check_writable, write_atomically

BATCH_SIZE = 128


def open_images(
    config,
    images: str = "",
    data_name: str = "",
    data_dir: str = "",
    corrupt_budget: float | None = None,
):
    """Opens images for a network of `config`, whose `data` section then tells of these.

    Args:
      config: The config of a run.
      images: A folder, or a file. Or:
      data_name: Data as in `data.name`.
      data_dir: See `data.make_source`.
      corrupt_budget: Fraction of the files that may be unreadable, see `config.ImagesConfig`; None
        for the run's own.

    Returns:
      A source. Files are its held-out images.

    Raises:
      UserError: If there are no such images.
    """
    data = config.data
    if hasattr(data, "labels"):
        data.labels = data.test_labels = ""  # all of a folder's images
    if corrupt_budget is not None:
        data.corrupt_budget = corrupt_budget
    if images:
        source = FileSource(images, data)
        data.name = f"folder:{images}"  # for messages
    else:
        if data_name != data.name:
            data.name, data.test_split = data_name, ""
        config.validate()
        source = make_source(data, data_dir)
    source.budget_flag = "--corrupt_budget"
    return source


def outputs(source, data, function, held_out: bool = True) -> collections.abc.Iterator[tuple]:
    """Shows images to a network as evaluation does, each once, in the order of their ids.

    Args:
      source: Where the images come from.
      data: The `data` section of the network's config.
      function: From images, uint8 `[b, S, S, 3]`, to outputs `[b, ...]`.
      held_out: Whether to take the source's held-out images, or its training images.

    Yields:
      Batches as NumPy arrays: indices int64 `[b]`, images, labels int64 `[b]` (-1 is no label), and
      the outputs. An image that cannot be read is left out.

    Raises:
      UserError: If more images are unreadable than may be, or there are none.
    """
    size, fraction = data.image_size, getattr(data, "test_crop", 1.0)

    def square(index, image, label):
        return index, resize_and_center(image, size, fraction), label

    images = source.each_image(held_out).map(square, num_parallel_calls=tf.data.AUTOTUNE)
    # Traced once, whatever the size of the last batch.
    signature = [tf.TensorSpec([None, size, size, 3], tf.uint8)]
    compute = tf.function(function, signature, autograph=False)
    batches = without_autotuning(images.batch(BATCH_SIZE).prefetch(2))
    indices = None
    with reading(source, data):
        for indices, squares, labels in batches:
            yield indices.numpy(), squares.numpy(), labels.numpy(), compute(squares).numpy()
    if indices is None:
        raise UserError(f"data.name={data.name}: no image in it; give other images")


def to_csv(rows) -> str:
    """Formats rows as CSV, with line ends of one character."""
    lines = []
    for cells in rows:
        # Python before 3.13 quotes a carriage return, as in a file's name, only with "\r\n".
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(cells)
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def prepare_output(flag: str, path: str) -> None:
    """Makes the folder of a file before anything is computed, so that a mistake shows at once.

    Raises:
      UserError: If that is not possible.
    """
    try:
        tf.io.gfile.makedirs(os.path.dirname(path) or ".")
        if tf.io.gfile.isdir(path):
            raise UserError(f"--{flag}={path} is a folder; give a file")
        if os.path.exists(path) and not os.path.isfile(path):  # renaming would replace /dev/null
            raise UserError(f"--{flag}={path} is not a regular file; give another file")
        check_writable(path)
    except (OSError, tf.errors.OpError) as error:
        raise _cannot_be_written(flag, path, error) from error


def write_output(flag: str, path: str, content: str | bytes) -> None:
    """Writes a file whole or not at all; see `prepare_output`."""
    try:
        write_atomically(path, content)
    except (OSError, tf.errors.OpError) as error:
        raise _cannot_be_written(flag, path, error) from error


def _cannot_be_written(flag, path, error):
    return UserError(f"--{flag}={path} cannot be written ({first_line(error)}); give another file")
