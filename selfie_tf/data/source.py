"""What every source of images has: a stream of positions, held-out images, labels, a selection.

A source yields the images at *positions* of an endless stream that depends on the seed alone:
position g is in epoch g // N, and each epoch has its own order of the N training images. So the
input can start at any step, and yields what an uninterrupted run would have seen.
"""

import contextlib
import copy
import dataclasses

import numpy as np
import tensorflow as tf

from selfie_tf.errors import UserError, first_line

END = np.iinfo(np.int64).max
HELD_OUT_SPLITS = ("test", "validation", "val", "valid")
NOT_REMOTE = (
    "the hosts of a TPU given by name read TFDS data from --data_dir=gs://BUCKET/... only; or run "
    "on a TPU VM with --tpu=local"
)


@dataclasses.dataclass(frozen=True)
class BatchShard:
    """The rows of every global batch that one input pipeline yields.

    Attributes:
      batch_size: Rows of the global batch.
      first: The first row of this pipeline.
      count: How many rows it yields; 0 stands for all of them.
    """

    batch_size: int
    first: int = 0
    count: int = 0

    def __post_init__(self):
        if not self.count:
            object.__setattr__(self, "count", self.batch_size)

    def position(self, k):
        """The position, among all elements, of this pipeline's k-th; ints or int64 tensors."""
        return k // self.count * self.batch_size + self.first + k % self.count

    def hold(self, position):
        """Whether this pipeline yields the element at that position."""
        row = position % self.batch_size
        return (row >= self.first) & (row < self.first + self.count)

    def among(self, total: int) -> int:
        """How many of the first `total` elements this pipeline yields."""
        batches, rest = divmod(total, self.batch_size)
        return batches * self.count + min(max(rest - self.first, 0), self.count)


class IndexedSource:
    """Images that can be read one by one. Other sources have the same attributes and methods.

    Args:
      train, held_out: Sequences with one entry per image: the image, or what `_load` reads it by.
      labels: Two int sequences, the labels of both; None if there are none.

    Attributes:
      num_train: N, the number of training images.
      num_held_out: The number of images for pictures and evaluation, never trained on.
      class_names: The names of labels 0, 1, ...; empty if there are no labels.
      no_labels: Why there are no labels; empty if there are.
      failure: The UserError that made reading fail, or None; tf.data hides it in one of its own.
      location: A str that, put before an image's id, makes it unique among all sources.
      fingerprint: A str that changes with the images, as far as can be told without reading them.
    """

    failure = None
    fingerprint = ""
    location = ""
    class_names = ()
    no_labels = ""

    def __init__(self, train, held_out, labels=None):
        self._train, self._held_out = train, held_out
        if labels is None and not self.no_labels:
            self.no_labels = "its images have no labels"
        self.num_train, self.num_held_out = len(train), len(held_out)
        self._train_labels, self._held_out_labels = (
            np.full(len(items), -1) if labels is None else np.asarray(labels[i], np.int64)
            for i, items in enumerate((train, held_out))
        )

    def _load(self, items, index: tf.Tensor) -> tuple:
        """Reads entry `index` of `items`: uint8 `[h, w, 3]`, and the index of the entry taken."""
        return tf.gather(items, index), index

    def _read(self, numbers, locate, items, labels):
        """Reads images in parallel, in order.

        Args:
          numbers: A dataset of int64.
          locate: A function from a number to the position in the stream and the index in `items`.
          items, labels: What the images are read by, and their labels.

        Returns:
          A dataset of (position, image, label), see `train_images`.
        """
        labels = tf.constant(labels)

        def at(k):
            position, index = locate(k)
            image, taken = self._load(items, index)
            return position, image, tf.gather(labels, taken)

        return numbers.map(at, num_parallel_calls=tf.data.AUTOTUNE)

    def train_images(self, seed: int, start_step: int, shard: BatchShard) -> tf.data.Dataset:
        """Yields training images without end, in another order in each epoch.

        Args:
          seed: The run's seed.
          start_step: The step to begin with.
          shard: The rows of each batch to yield.

        Returns:
          A dataset of (position int64, image uint8 `[h, w, 3]`, label int64); -1 is no label.
        """
        n = self.num_train

        def locate(k):
            position = shard.position(k)
            order = tf.stack([tf.constant(seed, tf.int64), position // n])  # one per epoch
            return position, tf.random.experimental.index_shuffle(position % n, order, n - 1)

        numbers = tf.data.Dataset.range(start_step * shard.count, END)
        return self._read(numbers, locate, self._train, self._train_labels)

    def held_out_images(self, shard: BatchShard | None = None) -> tf.data.Dataset:
        """Yields (index, image, label) of the held-out images once, always in the same order.

        Args:
          shard: The rows of each batch to yield; None for all images.
        """
        shard = shard or BatchShard(1)
        numbers = tf.data.Dataset.range(shard.among(self.num_held_out))
        return self._read(
            numbers,
            lambda k: (shard.position(k), shard.position(k)),
            self._held_out,
            self._held_out_labels,
        )

    def held_out_at(self, indices: np.ndarray) -> tf.data.Dataset:
        """Yields (index, image, label) of some of the held-out images, as `held_out_images` does.

        Args:
          indices: Which ones, int `[M]`, ascending.
        """
        numbers = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64))
        return self._read(numbers, lambda k: (k, k), self._held_out, self._held_out_labels)

    def each_image(self, held_out: bool, among: np.ndarray | None = None) -> tf.data.Dataset:
        """Yields (index, image, label) of the held-out or of the training images, each once.

        They come in the order of their ids. An image that cannot be read is left out.

        Args:
          held_out: Which of the two.
          among: Indices of the images to yield, int `[M]`, ascending; None for all.
        """
        items = self._held_out if held_out else self._train
        labels = tf.constant(self._held_out_labels if held_out else self._train_labels)

        def at(index):
            image, taken = self._load(items, index)
            return index, image, tf.gather(labels, taken), taken == index

        numbers = tf.data.Dataset.range(len(items))
        if among is not None:
            numbers = tf.data.Dataset.from_tensor_slices(np.asarray(among, np.int64))
        images = numbers.map(at, num_parallel_calls=tf.data.AUTOTUNE)
        images = images.filter(lambda _index, _image, _label, readable: readable)
        return images.map(lambda index, image, label, _: (index, image, label))

    def train_ids(self) -> list:
        """One str per training image, by which anyone finds it again."""
        return [str(i) for i in range(self.num_train)]

    def held_out_ids(self) -> list:
        """One str per held-out image, see `train_ids`."""
        return [str(i) for i in range(self.num_train, self.num_train + self.num_held_out)]

    def train_labels(self) -> np.ndarray:
        """The labels, int64 `[N]`, in the order of `train_ids`."""
        return self._train_labels

    def held_out_labels(self) -> np.ndarray:
        """The labels, int64 `[N]`, in the order of `held_out_ids`; -1 is no label."""
        return self._held_out_labels

    def select(self, train: np.ndarray, held_out: np.ndarray | None = None):
        """Makes a source of some of the training images.

        Args:
          train: Indices of the images to train on.
          held_out: Indices of the images to evaluate instead of the held-out ones; None keeps
            those.

        Returns:
          An `IndexedSource`.
        """
        chosen = copy.copy(self)
        chosen._train, chosen._train_labels = _take(self._train, train), self._train_labels[train]
        if held_out is not None:
            chosen._held_out = _take(self._train, held_out)
            chosen._held_out_labels = self._train_labels[held_out]
        chosen.num_train, chosen.num_held_out = len(chosen._train), len(chosen._held_out)
        return chosen

    def relabelled(self, train: dict, held_out: dict, class_names):
        """Makes a source of some of all images, with other labels.

        Args:
          train, held_out: {index: label} of the images to train on and to evaluate; indices are
            those of `train_ids` followed by `held_out_ids`.
          class_names: The names of labels 0, 1, ...

        Returns:
          An `IndexedSource`.
        """
        chosen, items = copy.copy(self), [*self._train, *self._held_out]
        chosen.no_labels, chosen.class_names = "", tuple(class_names)
        chosen._train, chosen._train_labels = _pick(items, train)
        chosen._held_out, chosen._held_out_labels = _pick(items, held_out)
        chosen.num_train, chosen.num_held_out = len(train), len(held_out)
        return chosen


def allowed(budget: float, total: int) -> float:
    """How many of `total` files may be unreadable or missing; one always may, unless it is 0."""
    return max(1, budget * total) if budget else 0


def _take(items, indices):
    return tf.gather(items, indices) if tf.is_tensor(items) else [items[i] for i in indices]


def _pick(items, labels):
    indices = sorted(labels)
    return [items[i] for i in indices], np.array([labels[i] for i in indices], np.int64)


def without_autotuning(dataset) -> tf.data.Dataset:
    """Lets a dataset run with fixed numbers of threads: as many as there are cores.

    Whoever stops reading a tuned one may wait for its tuner, which sleeps for up to a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


@contextlib.contextmanager
def reading(source, data):
    """Turns errors while images of `source` are read into a UserError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if source.failure is not None:  # tf.data wraps it in an error of its own
            raise source.failure from None
        raise UserError(f"data.name={data.name} cannot be read ({first_line(error)})") from error
