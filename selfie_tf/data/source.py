"""What every source of images has: a stream of positions, held-out images, labels, a selection.

A source yields the images at *positions* of an endless stream that depends on the seed alone:
position g is in epoch g // N, and each epoch has its own order of the N training images. So the
input can be asked for from any step, and yields what an uninterrupted run would have seen.
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
      location: str that, before an image's id, tells it from those of all other sources.
      fingerprint: str that changes when the images do, as far as can be told without reading them.
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
        """uint8 `[h, w, 3]` image number `index` of `items`, and the number of the one taken."""
        return tf.gather(items, index), index

    def train_images(self, seed: int, start_step: int, shard: BatchShard) -> tf.data.Dataset:
        """Endless (position, image, label), from step `start_step` on.

        int64, uint8 `[h, w, 3]` and int64; -1 is no label.
        """
        n, labels = self.num_train, tf.constant(self._train_labels)

        def at(k):
            position = shard.position(k)
            order = tf.stack([tf.constant(seed, tf.int64), position // n])  # one per epoch
            index = tf.random.experimental.index_shuffle(position % n, order, n - 1)
            image, taken = self._load(self._train, index)
            return position, image, tf.gather(labels, taken)

        positions = tf.data.Dataset.range(start_step * shard.count, END)
        return positions.map(at, num_parallel_calls=tf.data.AUTOTUNE)

    def held_out_images(self, shard: BatchShard | None = None) -> tf.data.Dataset:
        """(index, image, label) of every held-out image, always in one order; of `shard` only."""
        shard = shard or BatchShard(1)
        labels = tf.constant(self._held_out_labels)

        def at(k):
            index = shard.position(k)
            image, taken = self._load(self._held_out, index)
            return index, image, tf.gather(labels, taken)

        numbers = tf.data.Dataset.range(shard.among(self.num_held_out))
        return numbers.map(at, num_parallel_calls=tf.data.AUTOTUNE)

    def train_ids(self) -> list:
        """A str for every training image, by which anyone finds it again."""
        return [str(i) for i in range(self.num_train)]

    def held_out_ids(self) -> list:
        """As `train_ids`, for every held-out image."""
        return [str(i) for i in range(self.num_train, self.num_train + self.num_held_out)]

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


@contextlib.contextmanager
def reading(source, data):
    """Turns what goes wrong while images of `source` are read into a UserError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if source.failure is not None:  # tf.data wraps it in an error of its own
            raise source.failure from None
        raise UserError(f"data.name={data.name} cannot be read ({first_line(error)})") from error
