"""Datasets that `selfie-tf prepare` made: their names and labels without a look at the records."""

import csv
import hashlib
import io
import os

import numpy as np
import tensorflow as tf

from selfie_tf.data.decode import decode_jpeg
from selfie_tf.data.source import IndexedSource
from selfie_tf.errors import UserError, first_line
from selfie_tf.storage.files import read_json

VERSION = "1.0.0"
PLAN = "prepare.json"
INDEX = "{split}.index.csv"
NOTES = ".prepare"  # while it is not finished
RECORD_BYTES = 16  # what a TFRecord adds to its content: length, and two checksums
_FINISHED = "dataset_info.json"  # TFDS reads no dataset without it
_AGAIN = "remove its folder and give the command selfie-tf prepare again"
_PLANNED = {"images", "location", "splits", "class_names", "shorter_side", "quality"}
_READ_BYTES = 1 << 16  # at a time, of a record


class Prepared:
    """What is known of a prepared dataset beside TFDS's own metadata.

    Args:
      path: The dataset's folder.
      plan: The content of its prepare.json.
      train, held_out: The names of the two splits.

    Attributes:
      train, held_out: The `Index` of both splits.
      location, fingerprint: Those of the folder it was made from, see `IndexedSource`; another
        fingerprint if the images are not as they are there.
    """

    def __init__(self, path, plan, train, held_out):
        self.train, self.held_out = (Index(path, split) for split in (train, held_out))
        self._path, self._class_names = path, plan["class_names"]
        self.location = plan["location"]
        self.fingerprint = plan["images"]
        names = [sorted(index.ids) for index in (self.train, self.held_out)]
        whole = list(map(len, names)) == list(plan["splits"].values())
        if plan["shorter_side"] or not whole:
            about = f"{plan['images']} {plan['shorter_side']} {plan['quality']} {names}"
            self.fingerprint = hashlib.sha256(about.encode()).hexdigest()

    def check(self, shards: list, num_bytes: list, class_names: tuple) -> None:
        """Checks that the dataset is whole, without a look at the records.

        Args:
          shards: The paths of the files of both splits.
          num_bytes: The sizes of the examples of both splits.
          class_names: The classes that TFDS has read.

        Raises:
          UserError: If files are lost or cut short, or the classes are others.
        """
        for index, paths, size in zip((self.train, self.held_out), shards, num_bytes, strict=True):
            index.check(paths, size)
        named = {*self.train.labels, *self.held_out.labels} if class_names else set()
        if list(class_names) != self._class_names or named - set(class_names):
            raise UserError(f"{self._path}: its classes are not those of {PLAN}; {_AGAIN}")


class Index:
    """The images of a split, in the order of their records.

    Attributes:
      ids: Paths below the folder, N strings.
      labels: Names of classes, N strings; empty ones without labels.
      files, offsets: int64 `[N]`: the number of the shard, and where in it the record begins.
    """

    def __init__(self, path, split):
        path = os.path.join(path, INDEX.format(split=split))
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                text = file.read().decode()
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))[1:]
            self.ids, self.labels, files, offsets = zip(*rows, strict=True)
            self.files, self.offsets = (np.array(x, np.int64) for x in (files, offsets))
        except (tf.errors.OpError, ValueError, csv.Error) as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}); {_AGAIN}") from error

    def check(self, paths, num_bytes):
        """See `Prepared.check`."""
        sizes = []
        for path in paths:
            if not tf.io.gfile.exists(path):
                raise UserError(f"{path} is lost; bring it back, or {_AGAIN}")
            sizes.append(tf.io.gfile.stat(path).length)
        expected = num_bytes + RECORD_BYTES * len(self.ids)
        if sum(sizes) != expected:
            last = [max(self.offsets[self.files == i], default=-1) for i in range(len(paths))]
            cut = [path for path, size, offset in zip(paths, sizes, last) if size <= offset]
            some = f"one of {paths[0]} and the {len(paths) - 1} other files of its split"
            raise UserError(
                f"{cut[0] if cut else some if len(paths) > 1 else paths[0]} is damaged: "
                f"{sum(sizes):,} bytes in the split instead of {expected:,}; bring it back, or "
                f"{_AGAIN}"
            )


def open_prepared(path: str, train: str, held_out: str) -> Prepared | None:
    """Reads what `selfie-tf prepare` noted of a dataset; None if it is not one of its.

    Args:
      path: The dataset's folder.
      train, held_out: See `Prepared`.
    """
    plan = read_plan(path)
    if plan is None:
        check_planned(path)
        return None
    return Prepared(path, plan, train, held_out)


def check_planned(path: str) -> None:
    """Checks that a dataset without a prepare.json has never had one.

    Raises:
      UserError: If it is lost.
    """
    if tf.io.gfile.exists(os.path.join(path, INDEX.format(split="train"))):
        raise UserError(f"{os.path.join(path, PLAN)} is lost; bring it back, or {_AGAIN}")


def read_plan(path: str) -> dict | None:
    """Reads a dataset's prepare.json; None without one.

    Raises:
      UserError: If it is damaged.
    """
    try:
        plan = read_json(path, PLAN)
    except UserError:
        plan = {}
    if plan is not None and not _PLANNED <= set(plan):
        raise UserError(f"{os.path.join(path, PLAN)} is damaged; bring it back, or {_AGAIN}")
    return plan


def is_finished(path: str) -> bool:
    """Whether TFDS finds a dataset here; a full disk may have cut its metadata short."""
    try:
        return read_json(path, _FINISHED) is not None
    except UserError as error:
        if isinstance(error.__cause__, ValueError):  # not JSON
            return False
        raise


def check_readable(data_dir: str, name: str, error: str) -> None:
    """Names the folder of a prepared dataset that TFDS cannot read.

    Args:
      data_dir, name: See `is_unfinished`.
      error: What TFDS says.

    Raises:
      UserError: If it is a prepared dataset.
    """
    path = _folder(data_dir, name)
    if data_dir and tf.io.gfile.exists(os.path.join(path, PLAN)):
        raise UserError(f"{path}: its metadata cannot be read ({error}); {_AGAIN}")


def _folder(data_dir, name):
    return os.path.join(os.path.expanduser(data_dir), name.partition(":")[0], VERSION)


def is_unfinished(data_dir: str, name: str) -> bool:
    """Whether there is a dataset that `selfie-tf prepare` has begun and not finished."""
    path = _folder(data_dir, name)
    return tf.io.gfile.isdir(os.path.join(path, NOTES)) and not is_finished(path)


def decode_stored(content: tf.Tensor, min_side: int) -> tf.Tensor:
    """Decodes an image as it is stored, with the pixels that the folder's file gives.

    Args:
      content: string `[]`, a JPEG or a PNG.
      min_side: Shorter side in pixels that a JPEG may be shrunk to while it is decoded; 0 keeps it.

    Returns:
      uint8 `[h, w, 3]`.
    """

    def jpeg():
        factor = 1
        if min_side:
            factor = tf.reduce_min(tf.io.extract_jpeg_shape(content)[:2]) // min_side
        # As `jpeg_halvings`.
        return decode_jpeg(content, sum(tf.cast(factor >= 2**k, tf.int32) for k in (1, 2, 3)))

    return tf.cond(tf.io.is_jpeg(content), jpeg, lambda: tf.io.decode_png(content, channels=3))


class PreparedSource(IndexedSource):
    """A prepared dataset on a local disk, whose records are read one by one.

    So it gives what the folder it was made from gives: the same images at the same positions, from
    any step at once.

    Args:
      prepared: What was noted of it.
      shards: Two lists, the paths of the files of both splits.
      class_names: The names of its classes; empty without labels.
      no_labels: Why there are no labels; empty if there are.
      min_side: See `decode_stored`.
    """

    def __init__(self, prepared, shards, class_names, no_labels, min_side):
        self.class_names, self.no_labels = class_names, no_labels
        self.location, self.fingerprint = prepared.location, prepared.fingerprint
        self._min_side = min_side
        self._shards = [path for paths in shards for path in paths]
        known = {name: i for i, name in enumerate(class_names)}
        self._ids, labels, files, offsets = [], [], [], []
        for index, first in ((prepared.train, 0), (prepared.held_out, len(shards[0]))):
            order = sorted(range(len(index.ids)), key=index.ids.__getitem__)  # as a folder's
            self._ids += [index.ids[i] for i in order]
            # Without classes no record has a label.
            labels.append([known[index.labels[i]] if known else -1 for i in order])
            files.append(first + index.files[order])
            offsets.append(index.offsets[order])
        self._files, self._offsets = np.concatenate(files), np.concatenate(offsets)
        split = np.split(np.arange(len(self._ids)), [len(labels[0])])
        super().__init__(*split, labels)

    def _load(self, items, index):
        record = tf.gather(tf.constant(items), index)
        file = tf.gather(tf.constant(self._shards), tf.gather(tf.constant(self._files), record))
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.reshape(file, [1]),
            compression_type="",
            buffer_size=_READ_BYTES,
            byte_offsets=tf.reshape(tf.gather(tf.constant(self._offsets), record), [1]),
        )
        records = tf.data.experimental.from_variant(records, tf.TensorSpec([], tf.string))
        example = tf.io.parse_single_example(
            records.take(1).get_single_element(), {"image": tf.io.FixedLenFeature([], tf.string)}
        )
        return decode_stored(example["image"], self._min_side), index

    def train_ids(self) -> list:
        """Returns paths below the folder that it was made from."""
        return [self._ids[i] for i in self._train]

    def held_out_ids(self) -> list:
        """See `train_ids`."""
        return [self._ids[i] for i in self._held_out]
