"""Where images come from: TFDS, a folder, or drawn by code.

A source yields the images at *positions* of an endless stream that depends on the seed alone:
position g is in epoch g // N, and each epoch has its own order of the N training images. So the
input can be asked for from any step, and yields what an uninterrupted run would have seen.
"""

import contextlib
import copy
import dataclasses
import hashlib
import logging
import os

import numpy as np
import tensorflow as tf

from selfie_tf.data import shapes
from selfie_tf.data.decode import IMAGE_SUFFIXES, read_image
from selfie_tf.distribute import first_line
from selfie_tf.errors import UserError

_END = np.iinfo(np.int64).max
_HELD_OUT_SPLITS = ("test", "validation", "val", "valid")


@dataclasses.dataclass(frozen=True)
class Rows:
    """The part of every global batch that one input pipeline yields: `count` rows from `first`."""

    batch_size: int  # the global one
    first: int = 0
    count: int = 0  # 0: all of them

    def __post_init__(self):
        if not self.count:
            object.__setattr__(self, "count", self.batch_size)

    def position(self, k):
        """Where this pipeline's k-th element stands among all; ints or int64 tensors."""
        return k // self.count * self.batch_size + self.first + k % self.count

    def hold(self, position):
        """Whether the element that stands there is of this pipeline."""
        row = position % self.batch_size
        return (row >= self.first) & (row < self.first + self.count)

    def among(self, total: int) -> int:
        """How many of the first `total` elements are of this pipeline."""
        batches, rest = divmod(total, self.batch_size)
        return batches * self.count + min(max(rest - self.first, 0), self.count)


class IndexedSource:
    """Images that can be read one by one: `train` and `held_out` are arrays that name them.

    Args:
      train, held_out: sequences, an entry an image.
      labels: their labels, two int sequences; None where there are none.

    Attributes:
      num_train: N, training images.
      num_held_out: images for pictures and evaluation, never trained on.
      class_names: of the labels 0, 1, ...; empty where there are none.
      no_labels: why there are none.
      failure: the UserError that made reading fail, if it did; tf.data hides it in one of its own.
      fingerprint: str that changes when the images do, as far as can be told without reading them.
    """

    failure = None
    fingerprint = ""
    class_names = ()
    no_labels = ""

    def __init__(self, train, held_out, labels=None):
        self._train, self._held_out = train, held_out
        self.num_train, self.num_held_out = len(train), len(held_out)
        self._train_labels, self._held_out_labels = (
            np.full(len(items), -1) if labels is None else np.asarray(labels[i], np.int64)
            for i, items in enumerate((train, held_out))
        )

    def _load(self, items, index: tf.Tensor) -> tuple:
        """uint8 `[h, w, 3]` image number `index` of `items`, and the number of the one taken."""
        return tf.gather(items, index), index

    def train_images(self, seed: int, start_step: int, rows: Rows) -> tf.data.Dataset:
        """Endless (position, image, label), from step `start_step` on.

        int64, uint8 `[h, w, 3]` and int64; -1 is no label.
        """
        n, labels = self.num_train, tf.constant(self._train_labels)

        def at(k):
            position = rows.position(k)
            order = tf.stack([tf.constant(seed, tf.int64), position // n])  # one per epoch
            index = tf.random.experimental.index_shuffle(position % n, order, n - 1)
            image, taken = self._load(self._train, index)
            return position, image, tf.gather(labels, taken)

        positions = tf.data.Dataset.range(start_step * rows.count, _END)
        return positions.map(at, num_parallel_calls=tf.data.AUTOTUNE)

    def held_out_images(self, rows: Rows | None = None) -> tf.data.Dataset:
        """(index, image, label) of every held-out image, always in one order; of `rows` only."""
        rows = rows or Rows(1)
        labels = tf.constant(self._held_out_labels)

        def at(k):
            index = rows.position(k)
            image, taken = self._load(self._held_out, index)
            return index, image, tf.gather(labels, taken)

        numbers = tf.data.Dataset.range(rows.among(self.num_held_out))
        return numbers.map(at, num_parallel_calls=tf.data.AUTOTUNE)

    def train_ids(self) -> list:
        """A str for every training image, by which anyone finds it again."""
        return [str(i) for i in range(self.num_train)]

    def train_labels(self) -> np.ndarray:
        """int64 `[N]`, in the order of `train_ids`."""
        return self._train_labels

    def select(self, train: np.ndarray, held_out: np.ndarray | None = None):
        """A source of some of the training images.

        Args:
          train: int, numbers of those to train on.
          held_out: int, numbers of those to evaluate instead of the held-out images; None leaves
            these.

        Returns:
          an `IndexedSource`.
        """
        chosen = copy.copy(self)
        chosen._train, chosen._train_labels = _take(self._train, train), self._train_labels[train]
        if held_out is not None:
            chosen._held_out = _take(self._train, held_out)
            chosen._held_out_labels = self._train_labels[held_out]
        chosen.num_train, chosen.num_held_out = len(chosen._train), len(chosen._held_out)
        return chosen


def _take(items, indices):
    return tf.gather(items, indices) if tf.is_tensor(items) else [items[i] for i in indices]


class ShapesSource(IndexedSource):
    """The built-in scenes, drawn once into memory.

    Args:
      image_size: pixels a side; above 64 they are drawn at 64, and the pipeline enlarges them.
    """

    def __init__(self, image_size: int):
        size = min(image_size, 64)
        train = np.arange(shapes.NUM_TRAIN)
        test = np.arange(shapes.NUM_TRAIN, shapes.NUM_TRAIN + shapes.NUM_TEST)
        images, labels = zip(*(shapes.draw_shapes(x, size) for x in (train, test)), strict=True)
        super().__init__(*map(tf.constant, images), labels)
        self.class_names = shapes.CLASS_NAMES


class FolderSource(IndexedSource):
    """All images below a folder, whatever its depth; class folders are only needed for labels.

    Where the folder holds no other folders than `train` and `test` (or `validation`, `val`,
    `valid`), these are the training and the held-out images; else `held_out` of the images are held
    out, chosen by a hash of their names, so that more images change little. An image's class is the
    first folder on its way from there.

    Args:
      path: of the folder.
      held_out: images to keep out of training; never more than a tenth, but at least one.
      min_side: shorter side in pixels that a JPEG may be shrunk to while it is decoded.
      corrupt_budget: largest part of the files that may be unreadable; one always may, unless 0.
      max_pixels: larger images count as unreadable.
      test_split: folder of the held-out images; "" for one of the three.

    Raises:
      UserError: if there is no such folder or split, or not two images in it.
    """

    def __init__(self, path, held_out, min_side, corrupt_budget, max_pixels, test_split=""):
        if not tf.io.gfile.isdir(path):
            raise UserError(f"data.name=folder:{path}: no such folder; give an existing one")
        self._min_side, self._max_pixels = min_side, max_pixels
        self._budget = corrupt_budget
        self._corrupt = {}
        folders = {name.rstrip("/") for name in tf.io.gfile.listdir(path)}
        folders = {
            f for f in folders if f[0] not in "._" and tf.io.gfile.isdir(os.path.join(path, f))
        }
        splits = [test_split] if test_split else _HELD_OUT_SPLITS
        split = next((s for s in splits if s in folders), None)
        if test_split and (split is None or "train" not in folders or split == "train"):
            raise UserError(
                f"data.test_split={test_split}: {path} does not hold the folders train and "
                f"{test_split}, but {', '.join(sorted(folders)) or 'none'}; give "
                "--config.data.test_split= to hold some of the images out instead"
            )
        if split and "train" in folders and not test_split:
            others = sorted(folders - {"train", *_HELD_OUT_SPLITS})
            if others:
                raise UserError(
                    f"data.name=folder:{path} holds {', '.join(others)} beside train and {split}; "
                    f"give --config.data.test_split={split} to use train and {split} alone, or "
                    "move the others elsewhere"
                )
        roots = [path, path]
        if "train" in folders and (test_split or folders <= {"train", *_HELD_OUT_SPLITS}):
            roots = [os.path.join(path, name) for name in ("train", split or "train")]
            train = list_images(roots[0])
            test = list_images(roots[1]) if split else []
            if test_split and not test:
                raise UserError(f"data.test_split={test_split}: no images in {roots[1]}")
        else:
            train, test = list_images(path), []
        if not test:
            # A fixed choice, whatever the seed, so that runs can be compared.
            roots[1] = roots[0]
            count = max(1, min(held_out, len(train) // 10))
            test = sorted(sorted(train, key=lambda name: _hash(name, path))[:count])
            train = sorted(set(train) - set(test))
        if not train:
            raise UserError(
                f"data.name=folder:{path}: {'one image' if test else 'no images'} in it or below; "
                f"expected at least two files ending in {', '.join(IMAGE_SUFFIXES)}"
            )
        logging.info("%s: %d training and %d held-out images", path, len(train), len(test))
        super().__init__(train, test, self._label(train, test, roots))
        self._path = path
        names = [os.path.relpath(name, path) for name in (*train, *test)]
        self.fingerprint = hashlib.sha256("\n".join(names).encode()).hexdigest()

    def _label(self, train, test, roots):
        """Labels of both lists, or None; sets `class_names` or `no_labels`."""
        classes = [
            [os.path.relpath(name, root).rpartition("/")[0].partition("/")[0] for name in names]
            for names, root in zip((train, test), roots, strict=True)
        ]
        known = {label: i for i, label in enumerate(sorted(set(classes[0])))}
        for names, found in zip((train, test), classes, strict=True):
            for name, label in zip(names, found, strict=True):
                if not label:
                    self.no_labels = f"{name} lies in no class folder"
                elif label not in known:
                    self.no_labels = f"{name} is of a class that has no training images"
                    if roots[0] == roots[1]:
                        self.no_labels += " left when it is held out; add images or a test folder"
        if not self.no_labels and len(known) < 2:
            self.no_labels = f"all images are of one class, {next(iter(known))}"
        if self.no_labels:
            return None
        self.class_names = tuple(known)
        return [[known[label] for label in found] for found in classes]

    def train_ids(self) -> list:
        """Paths below the folder."""
        return [os.path.relpath(name, self._path) for name in self._train]

    def _load(self, items, index):
        def load(i):
            # An unreadable file gives way to the next one, so that the image at a position stays a
            # function of the position.
            for k in range(len(items)):
                path = str(items[(i + k) % len(items)])
                if path in self._corrupt:
                    continue
                try:
                    image = read_image(path, self._max_pixels, self._min_side)
                    return image, np.int64((i + k) % len(items))
                except Exception as error:  # decoders throw whatever they like
                    self._count(path, error)
            self.failure = UserError(f"none of {len(items)} images is readable, not even {path}")
            raise self.failure

        image, taken = tf.numpy_function(load, [index], [tf.uint8, tf.int64])
        return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(taken, [])

    def _count(self, path, error):
        self._corrupt[path] = str(error)
        total = self.num_train + self.num_held_out
        logging.warning("skipped unreadable image %s (%s)", path, error)
        if len(self._corrupt) > (max(1, self._budget * total) if self._budget else 0):
            self.failure = UserError(
                f"{len(self._corrupt)} of {total} images are unreadable, more than "
                f"data.corrupt_budget={self._budget:g} allows; the last one: {path} ({error}); "
                f"mend or remove it, or raise --config.data.corrupt_budget"
            )
            raise self.failure


class TFDSSource:
    """A TensorFlow Datasets image dataset, streamed from its TFRecord files.

    Held out is the test or validation split; where there is none, the first training records.

    Args:
      name: as TFDS has it, `NAME[/CONFIG][:VERSION]`.
      data_dir: TFDS's folder of prepared datasets; "" for its default.
      held_out, shuffle_buffer: see `config.DataConfig`.
      download: whether TFDS may fetch and prepare it.
      test_split: the held-out split; "" for one of these.

    Attributes: as `IndexedSource`.

    Raises:
      UserError: if the dataset is unknown, not prepared, not images, or not in TFRecord files.
    """

    failure = None
    class_names = ()
    no_labels = ""

    def __init__(self, name, data_dir, held_out, shuffle_buffer, download=False, test_split=""):
        import tensorflow_datasets as tfds  # slow, and of no use to the other sources

        culprit = f"data.name=tfds:{name}"
        try:
            builder = tfds.builder(name, data_dir=data_dir or None)
            if download:
                builder.download_and_prepare()
        except Exception as error:  # TFDS raises many kinds
            line = next((s.strip() for s in str(error).splitlines() if s.strip()), repr(error))
            raise UserError(f"{culprit}: {line}") from error
        splits = builder.info.splits
        if not splits:
            where = os.path.dirname(os.path.dirname(str(builder.data_dir)))
            raise UserError(
                f"{culprit}: not found in {where}; give its folder with --data_dir, let TFDS fetch "
                "it with --download, or try --config=configs/quickstart.py, which needs no data"
            )
        if "train" not in splits:
            raise UserError(f"{culprit}: has no train split, only {', '.join(splits)}")
        if test_split and test_split not in splits:
            raise UserError(
                f"data.test_split={test_split}: {culprit} has no such split, only "
                f"{', '.join(splits)}"
            )
        features = builder.info.features
        images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
        if not images:
            raise UserError(f"{culprit}: has no image feature; an image dataset is needed")
        if builder.info.file_format.value != "tfrecord":
            raise UserError(
                f"{culprit}: is stored as {builder.info.file_format.value}; prepare it as tfrecord"
            )
        self._features, self._image_key = features, images[0]
        labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
        self._label_key = "label" if "label" in labels else labels[0] if labels else None
        if labels:
            label = features[self._label_key]
            self.class_names = tuple(label.int2str(i) for i in range(label.num_classes))
            self._label_alone = tfds.features.FeaturesDict({self._label_key: label})
        else:
            self.no_labels = f"{culprit} has no class labels"
        self._labels = None
        self._buffer = shuffle_buffer
        splits_to_try = [test_split] if test_split else _HELD_OUT_SPLITS
        test = next((s for s in splits_to_try if s in splits), None)
        train = splits["train"]
        if test is None:
            count = min(held_out, train.num_examples // 10)
            test, train = f"train[:{count}]", splits[f"train[{count}:]"]
        self._train, self._test = train.file_instructions, splits[test].file_instructions
        self.num_train, self.num_held_out = train.num_examples, splits[test].num_examples
        self.fingerprint = f"{builder.info.full_name} {self.num_train} {self.num_held_out}"

    def train_images(self, seed: int, start_step: int, rows: Rows) -> tf.data.Dataset:
        """As `IndexedSource.train_images`; the order is a shuffle of shards and of a buffer."""
        start = start_step * rows.batch_size
        n, buffer = self.num_train, min(self._buffer, self.num_train)

        def epoch_records(epoch):
            # Of this function's graph alone: the order must not depend on the program's global
            # seed, and a global seed of 0 makes `shuffle` fail on a seed that is a tensor.
            tf.random.set_seed(1)
            order = tf.stack([tf.constant(seed, tf.int64), epoch])
            records = _read(self._train, order).shuffle(
                # Not the seed of the shards' order; prime, so that seeds' epochs don't coincide.
                buffer,
                seed=seed + 1_000_003 * epoch,
                reshuffle_each_iteration=False,
            )
            return records.skip(tf.where(epoch == start // n, tf.constant(start % n, tf.int64), 0))

        records = tf.data.Dataset.range(start // n, _END).flat_map(epoch_records)
        # Other pipelines' rows are dropped before anything is decoded.
        records = records.enumerate(start).filter(lambda position, _: rows.hold(position))
        return records.map(self.parse, num_parallel_calls=tf.data.AUTOTUNE)

    def held_out_images(self, rows: Rows | None = None) -> tf.data.Dataset:
        """As `IndexedSource.held_out_images`."""
        records = _read(self._test).enumerate()
        if rows is not None:
            records = records.filter(lambda position, _: rows.hold(position))
        return records.map(self.parse, num_parallel_calls=tf.data.AUTOTUNE)

    def train_ids(self) -> list:
        """As TFDS names its examples: file and number within it."""
        return [
            f"{os.path.basename(str(file.filename))}__{i}"
            for file in self._train
            for i in range(file.skip, file.skip + file.take)
        ]

    def train_labels(self) -> np.ndarray:
        """As `IndexedSource.train_labels`; reads every record of the split, once."""
        if self._labels is not None:
            return self._labels
        labels = _read(self._train, in_turn=True).map(
            lambda record: self._label_alone.deserialize_example(record)[self._label_key],
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        self._labels = np.concatenate([batch.numpy() for batch in labels.batch(4096)])
        return self._labels

    def select(self, train: np.ndarray, held_out: np.ndarray | None = None):
        """As `IndexedSource.select`; holds the chosen records in memory, as they are stored."""
        wanted = np.zeros(self.num_train, bool)
        wanted[train] = True
        if held_out is not None:
            wanted[held_out] = True
        records = _read(self._train, in_turn=True).enumerate()
        table = tf.constant(wanted)
        chosen = dict(records.filter(lambda i, _: tf.gather(table, i)).as_numpy_iterator())
        size = sum(map(len, chosen.values())) / 1e9
        logging.info("%d labelled records are held in memory (%.2f GB)", len(chosen), size)
        parts = [train, [] if held_out is None else held_out]
        labels = [self.train_labels()[np.asarray(part, int)] for part in parts]
        return _RecordsSource(self, *([chosen[i] for i in part] for part in parts), labels)

    def parse(self, position, record: tf.Tensor) -> tuple:
        """(position, image, label) of one raw record."""
        example = self._features.deserialize_example(record)
        label = tf.constant(-1, tf.int64) if not self._label_key else example[self._label_key]
        image = example[self._image_key]
        if image.dtype != tf.uint8:
            image = tf.image.convert_image_dtype(image, tf.uint8)
        channels = image.shape[-1]
        if channels == 1:
            image = tf.image.grayscale_to_rgb(image)
        return position, image[..., :3], label


class _RecordsSource(IndexedSource):
    """Some records of a `TFDSSource` in memory; held out are others of them, or as there."""

    def __init__(self, whole, train, held_out, labels):
        super().__init__(tf.constant(train), tf.constant(held_out, tf.string), labels)
        self._whole = whole
        self.class_names, self.fingerprint = whole.class_names, whole.fingerprint
        if not held_out:
            self.num_held_out = whole.num_held_out
            self.held_out_images = whole.held_out_images

    def _load(self, items, index):
        return self._whole.parse(index, tf.gather(items, index))[1], index


def _read(instructions, order=None, in_turn=False) -> tf.data.Dataset:
    """Raw records of TFDS file instructions.

    Args:
      instructions: of a split.
      order: int64 `[2]`, shuffles the files.
      in_turn: one file after the other, instead of several at a time.
    """
    files = [str(i.filename) for i in instructions]
    spans = [(i.skip, i.take) for i in instructions]
    index = tf.range(len(files), dtype=tf.int64)
    if order is not None:
        index = tf.random.experimental.stateless_shuffle(index, order)
    shards = tf.data.Dataset.from_tensor_slices(
        (tf.gather(tf.constant(files), index), tf.gather(tf.constant(spans, tf.int64), index))
    )
    return shards.interleave(
        lambda file, span: tf.data.TFRecordDataset(file).skip(span[0]).take(span[1]),
        cycle_length=1 if in_turn else min(16, len(files)),
        block_length=16,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _hash(name, root):
    return hashlib.sha256(os.path.relpath(name, root).encode()).hexdigest()


@contextlib.contextmanager
def reading(source, data):
    """Turns what goes wrong while images of `source` are read into a UserError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if source.failure is not None:  # tf.data wraps it in an error of its own
            raise source.failure from None
        raise UserError(f"data.name={data.name} cannot be read ({first_line(error)})") from error


def list_images(path: str) -> list:
    """Sorted paths of all image files at any depth below `path`; says what else it passed over."""
    found, other, seen = [], {}, set()
    try:
        walked = list(tf.io.gfile.walk(path))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: a file name in it or below is not UTF-8 ({error.object!r}); rename the file"
        ) from error
    for folder, _, names in walked:
        inside = os.path.relpath(folder, path).split("/")
        if any(part == "__MACOSX" or (part[0] == "." and part != ".") for part in inside):
            continue
        real = os.path.realpath(folder) if "://" not in folder else folder
        if real in seen:  # a link back up
            continue
        seen.add(real)
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES:
                found.append(os.path.join(folder, name))
            else:
                other[suffix or name] = other.get(suffix or name, 0) + 1
    if other:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(other.items())[:10])
        logging.info("%s: passed over files that are no images: %s", path, kinds)
    return sorted(found)


def make_source(config, data_dir: str = "", download: bool = False, remote: bool = False):
    """Makes the source that `config.data.name` asks for.

    Args:
      config: a `config.Config`.
      data_dir: TFDS's folder.
      download: whether TFDS may fetch the data.
      remote: whether the input runs on other machines' TPU hosts, which see neither this machine's
        files nor its Python.

    Returns:
      an `IndexedSource` or `TFDSSource`.

    Raises:
      UserError: if there is no such data, or fewer images than a batch.
    """
    data = config.data
    kind, _, rest = data.name.partition(":")
    if remote and kind != "builtin" and (kind == "folder" or not data_dir.startswith("gs://")):
        raise UserError(
            f"data.name={data.name}: the hosts of a TPU given by name read TFDS data from "
            "--data_dir=gs://BUCKET/... only; or run on a TPU VM with --tpu=local"
        )
    if kind == "builtin":
        if rest != "shapes":
            raise UserError(f"data.name={data.name}: the only built-in images are builtin:shapes")
        if data.test_split not in ("", "test"):
            raise UserError(f"data.test_split={data.test_split}: builtin:shapes has train and test")
        source = ShapesSource(data.image_size)
    elif kind == "folder":
        least = int(np.ceil(data.image_size / getattr(data, "test_crop", 1.0)))
        if data.crop == "random_resized":
            wanted = data.image_size * (4 / 3) ** 0.5 * data.min_crop_area**-0.5
            least = max(least, int(np.ceil(wanted)))
        path = os.path.expanduser(rest)
        source = FolderSource(
            path, data.held_out, least, data.corrupt_budget, data.max_pixels, data.test_split
        )
    else:
        source = TFDSSource(
            rest, data_dir, data.held_out, data.shuffle_buffer, download, data.test_split
        )
    check_batch(config, source)
    return source


def check_batch(config, source) -> None:
    """Raises UserError if `source` has fewer training images than a batch."""
    if source.num_train < config.train.batch_size:
        raise UserError(
            f"data.name={config.data.name} has {source.num_train} training images, fewer than one "
            f"batch: lower --config.train.batch_size={config.train.batch_size}"
        )
