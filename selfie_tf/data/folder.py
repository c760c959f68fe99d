"""Images in a folder of files."""

import hashlib
import logging
import math
import os

import numpy as np
import tensorflow as tf

from selfie_tf.data.decode import (
    IMAGE_SUFFIXES,
    NOT_ORDINARY,
    decode_jpeg,
    jpeg_halvings,
    read_image,
)
from selfie_tf.data.source import HELD_OUT_SPLITS, NOT_REMOTE, IndexedSource, allowed
from selfie_tf.errors import UserError

_UNKNOWN = -2
_LOOKED_AT = 32  # files by one call of Python


class FolderSource(IndexedSource):
    """All images below a folder, whatever its depth; class folders are only needed for labels.

    If the folder holds only the folders `train` and `test` (or `validation`, `val`, `valid`), these
    are the training and the held-out images. Otherwise `held_out` images are held out. A hash of
    their names chooses them, so that adding images changes the choice little. An image's class is
    the first folder below the root.

    Args:
      path: The folder.
      held_out: Images to hold out, at most a tenth of all and at least one.
      min_side: Shorter side in pixels that a JPEG may be shrunk to while it is decoded.
      corrupt_budget: Fraction of the files that may be unreadable; one always may, unless this is
        0.
      max_pixels: Larger images count as unreadable.
      test_split: The folder of the held-out images; "" for `test`, `validation`, `val` or `valid`.

    Raises:
      UserError: If there is no such folder or split, or fewer than two images in it.
    """

    budget_flag = "--config.data.corrupt_budget"  # what the user raises

    def __init__(self, path, held_out, min_side, corrupt_budget, max_pixels, test_split=""):
        if not tf.io.gfile.isdir(path):
            raise UserError(f"data.name=folder:{path}: no such folder; give an existing one")
        self._min_side, self._max_pixels = min_side, max_pixels
        self._budget = corrupt_budget
        self._corrupt = {}
        _, folders, _ = next(_walk(path))
        folders = {name.rstrip("/") for name in folders if name[0] not in "._"}
        splits = [test_split] if test_split else HELD_OUT_SPLITS
        split = next((s for s in splits if s in folders), None)
        if test_split and (split is None or "train" not in folders or split == "train"):
            raise UserError(
                f"data.test_split={test_split}: {path} does not hold the folders train and "
                f"{test_split}, but {', '.join(sorted(folders)) or 'none'}; give "
                "--config.data.test_split= to hold out some of the images instead"
            )
        if split and "train" in folders and not test_split:
            others = sorted(folders - {"train", *HELD_OUT_SPLITS})
            if others:
                raise UserError(
                    f"data.name=folder:{path} holds {', '.join(others)} beside train and {split}; "
                    f"give --config.data.test_split={split} to use train and {split} alone, or "
                    "move the others elsewhere"
                )
        roots = [path, path]
        if "train" in folders and (test_split or folders <= {"train", *HELD_OUT_SPLITS}):
            roots = [os.path.join(path, name) for name in ("train", split or "train")]
            train = list_images(roots[0])
            test = list_images(roots[1]) if split else []
            if test_split and not test:
                raise UserError(f"data.test_split={test_split}: no images in {roots[1]}")
        else:
            train, test = list_images(path), []
        if not test:
            # The same choice for every seed, so that runs can be compared.
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
        self.held_out_split = split if split in HELD_OUT_SPLITS else "test"
        self._path = path
        self._use(train, test, self._label(train, test, roots))
        self.location = path if "://" in path else os.path.realpath(path)
        names = [os.path.relpath(name, path) for name in self._files]
        self.fingerprint = hashlib.sha256("\n".join(names).encode()).hexdigest()

    def _use(self, train, test, labels):
        """Takes the files to train on and those held out, with the labels of both or None."""
        split = np.split(np.arange(len(train) + len(test)), [len(train)])
        super().__init__(*split, labels)
        self._files = [*train, *test]
        # What the headers say, kept for the next epochs. Only files called JPEGs are worth a look.
        jpeg = [name.lower().endswith((".jpg", ".jpeg")) for name in self._files]
        self._any_jpeg = any(jpeg)
        self._halvings = np.where(jpeg, _UNKNOWN, NOT_ORDINARY).astype(np.int8)

    def _label(self, train, test, roots):
        """Returns the labels of both lists, or None; sets `class_names` or `no_labels`."""
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
        """Returns paths below the folder."""
        return [os.path.relpath(self._files[i], self._path) for i in self._train]

    def held_out_ids(self) -> list:
        """Returns paths below the folder."""
        return [os.path.relpath(self._files[i], self._path) for i in self._held_out]

    def _read(self, numbers, locate, items, labels):
        """See `IndexedSource._read`. Ordinary JPEGs are read and decoded without Python."""
        if not self._any_jpeg:
            return super()._read(numbers, locate, items, labels)
        paths, files, labels = tf.constant(self._files), tf.constant(items), tf.constant(labels)

        def look(positions, indices):
            return positions, indices, self._look(tf.gather(files, indices))

        def read(position, index, halvings):
            def decode(_):
                content = tf.io.read_file(tf.gather(paths, tf.gather(files, index)))
                return position, decode_jpeg(content, halvings), tf.gather(labels, index)

            def load(_):
                image, taken = self._load(items, index, refused=True)
                return position, image, tf.gather(labels, taken)

            # The first that gives an image. Nothing else in tf.data can take an error back.
            ordinary = tf.cast(halvings >= 0, tf.int64)
            decoded = tf.data.Dataset.range(ordinary).map(decode).ignore_errors()
            return decoded.concatenate(tf.data.Dataset.range(1).map(load)).take(1)

        located = numbers.map(locate, num_parallel_calls=tf.data.AUTOTUNE).batch(_LOOKED_AT)
        looked_at = located.map(look, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
        return looked_at.interleave(read, num_parallel_calls=tf.data.AUTOTUNE)

    def _look(self, files):
        """The `jpeg_halvings` of files, int8; a header is only read if that is not known yet."""

        def look(files):
            for i in files:
                if self._halvings[i] == _UNKNOWN:
                    path = self._files[i]
                    self._halvings[i] = jpeg_halvings(path, self._max_pixels, self._min_side)
            return self._halvings[files]

        return tf.ensure_shape(_stateless(look, [files], tf.int8), [None])

    def _load(self, items, index, refused=False):
        """See `IndexedSource._load`; what TensorFlow has refused, it need not try again."""

        def load(i):
            if refused:
                self._halvings[items[i]] = NOT_ORDINARY
            # An unreadable file gives way to the next one, so that the image at a position stays a
            # function of the position.
            for k in range(len(items)):
                path = self._files[items[(i + k) % len(items)]]
                if path in self._corrupt:
                    continue
                try:
                    image = read_image(path, self._max_pixels, self._min_side)
                    return image, np.int64((i + k) % len(items))
                except Exception as error:  # decoders raise errors of all kinds
                    self._count(path, error)
            self._check_budget()  # other threads have counted some of them
            self.failure = UserError(f"none of {len(items)} images is readable, not even {path}")
            raise self.failure

        image, taken = _stateless(load, [index], [tf.uint8, tf.int64])
        return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(taken, [])

    def _count(self, path, error):
        if path in self._corrupt:  # another thread has read it meanwhile
            return
        self._corrupt[path] = str(error)
        if self.failure is None:  # the error is the last line, whatever other threads still read
            logging.warning("skipped unreadable image %s (%s)", path, error)
        self._check_budget()

    def _check_budget(self):
        total = self.num_train + self.num_held_out
        if len(self._corrupt) > allowed(self._budget, total):
            path, error = list(self._corrupt.items())[-1]
            self.failure = UserError(
                f"{len(self._corrupt)} of {total} images are unreadable, more than "
                f"data.corrupt_budget={self._budget:g} allows; the last one: {path} ({error}); "
                f"repair or remove it, or raise {self.budget_flag}"
            )
            raise self.failure


def _stateless(function, inputs, dtypes):
    """Calls Python in tf.data: with the same inputs, the same outputs.

    Functions that keep state would run one after the other where op determinism is on, and nothing
    would be read ahead. What these note of a file changes no output.
    """
    return tf.numpy_function(function, inputs, dtypes, stateful=False)


def list_images(path: str) -> list:
    """Lists all image files at any depth below `path`, sorted; logs what else was skipped."""
    found, other, seen = [], {}, set()
    for folder, folders, names in _walk(path):
        real = os.path.realpath(folder) if "://" not in folder else folder
        if real in seen:  # a link back up; two of them would make paths without end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if f[0] != "." and f.rstrip("/") != "__MACOSX")
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
        logging.info("%s: skipped files that are not images: %s", path, kinds)
    return sorted(found)


def _walk(path):
    """Yields (folder, names of folders, names of files) top-down, as os.walk does."""
    if "://" in path:
        yield from tf.io.gfile.walk(path)
        return
    # Unlike gfile.walk, os.walk asks for no file's status, which takes a sixth of the time.
    for folder, folders, names in os.walk(path, onerror=_refuse, followlinks=True):
        for name in (*folders, *names):
            if not name.isascii():
                _check_utf8(name, folder)
        yield folder, folders, names


def _refuse(error):
    raise UserError(f"{error.filename} cannot be listed ({error.strerror})") from error


def _check_utf8(name, path):
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{os.fsencode(path)!r}: a name in it is not UTF-8 ({os.fsencode(name)!r}); rename it"
        ) from error


def _hash(name, root):
    return hashlib.sha256(os.path.relpath(name, root).encode()).hexdigest()


def least_side(data) -> int:
    """Shorter side in pixels that a JPEG may be shrunk to: no crop of it must be enlarged."""
    side = math.ceil(data.image_size / getattr(data, "test_crop", 1.0))
    if data.crop == "random_resized":
        wanted = data.image_size * (4 / 3) ** 0.5 * data.min_crop_area**-0.5
        side = max(side, math.ceil(wanted))
    return side


def open_source(location: str, data, data_dir: str, download: bool, remote: bool) -> FolderSource:
    """Opens `folder:LOCATION`, see `data.make_source`."""
    if remote:
        raise UserError(f"data.name={data.name}: {NOT_REMOTE}")
    return FolderSource(
        os.path.expanduser(location),
        data.held_out,
        least_side(data),
        data.corrupt_budget,
        data.max_pixels,
        data.test_split,
    )
