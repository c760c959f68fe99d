"""Images of a TensorFlow Datasets dataset."""

import logging
import os

import numpy as np
import tensorflow as tf

from selfie_tf.data.folder import least_side
from selfie_tf.data.prepared import (
    PreparedSource,
    check_readable,
    decode_stored,
    is_unfinished,
    open_prepared,
)
from selfie_tf.data.source import END, HELD_OUT_SPLITS, NOT_REMOTE, BatchShard, IndexedSource
from selfie_tf.errors import UserError


class TFDSSource:
    """A TensorFlow Datasets image dataset, streamed from its TFRecord files.

    The test or validation split is held out; if there is none, the first training records are.

    Args:
      name: TFDS's name of the dataset, `NAME[/CONFIG][:VERSION]`.
      data_dir: TFDS's folder of prepared datasets; "" for its default.
      held_out, shuffle_buffer: See `config.ImagesConfig`.
      download: Whether TFDS may download and prepare the dataset.
      test_split: The held-out split; "" for test or validation.
      min_side: See `decode_stored`; of datasets that `selfie-tf prepare` made.

    It has the attributes of `IndexedSource`.

    Raises:
      UserError: If the dataset is unknown, not prepared, without images, or not in TFRecord files.
    """

    failure = None
    prepared = None  # what `selfie-tf prepare` noted, if it made the dataset
    class_names = ()
    no_labels = ""

    def __init__(
        self, name, data_dir, held_out, shuffle_buffer, download=False, test_split="", min_side=0
    ):
        import tensorflow_datasets as tfds  # slow to import, and other sources do not need it

        culprit = f"data.name=tfds:{name}"
        if data_dir and is_unfinished(data_dir, name):
            raise UserError(
                f"{culprit}: not finished in {data_dir}; give the command selfie-tf prepare again"
            )
        try:
            builder = tfds.builder(name, data_dir=data_dir or None)
            if download:
                builder.download_and_prepare()
        except Exception as error:  # TFDS raises many kinds
            line = next((s.strip() for s in str(error).splitlines() if s.strip()), repr(error))
            check_readable(data_dir, name, line)
            raise UserError(f"{culprit}: {line}") from error
        splits = builder.info.splits
        if not splits:
            where = os.path.dirname(os.path.dirname(str(builder.data_dir)))
            raise UserError(
                f"{culprit}: not found in {where}; give its folder with --data_dir, let TFDS fetch "
                "it with --download, or try --config=quickstart, which needs no data"
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
        self._undecoded = tfds.decode.SkipDecoding()
        labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
        self._label_key = "label" if "label" in labels else labels[0] if labels else None
        if labels:
            label = features[self._label_key]
            self.class_names = tuple(label.names)
            self._label_alone = tfds.features.FeaturesDict({self._label_key: label})
        else:
            self.no_labels = f"{culprit} has no class labels"
        self._labels, self._min_side = {}, min_side
        self._buffer = shuffle_buffer
        splits_to_try = [test_split] if test_split else HELD_OUT_SPLITS
        test = next((s for s in splits_to_try if s in splits), None)
        train = splits["train"]
        if test is None:
            count = min(held_out, train.num_examples // 10)
            test, train = f"train[:{count}]", splits[f"train[{count}:]"]
        else:
            path = str(builder.data_dir)
            self.prepared = open_prepared(path, "train", test)
            both = splits["train"], splits[test]
            self.shards = [[str(file) for file in split.filepaths] for split in both]
            self.num_bytes = [split.num_bytes for split in both]
        self._train, self._test = train.file_instructions, splits[test].file_instructions
        self.num_train, self.num_held_out = train.num_examples, splits[test].num_examples
        self.location = builder.info.full_name
        self.fingerprint = f"{builder.info.full_name} {self.num_train} {self.num_held_out}"
        if self.prepared is not None:
            self.location = self.prepared.location
            # The order of its images is another than that of `PreparedSource`.
            self.fingerprint = f"{self.prepared.fingerprint} in a stream"

    def train_images(self, seed: int, start_step: int, shard: BatchShard) -> tf.data.Dataset:
        """See `IndexedSource.train_images`; files are shuffled, then records within a buffer."""
        start = start_step * shard.batch_size
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

        records = tf.data.Dataset.range(start // n, END).flat_map(epoch_records)
        # Other pipelines' rows are dropped before anything is decoded.
        records = records.enumerate(start).filter(lambda position, _: shard.hold(position))
        return records.map(self.parse, num_parallel_calls=tf.data.AUTOTUNE)

    def held_out_images(self, shard: BatchShard | None = None) -> tf.data.Dataset:
        """See `IndexedSource.held_out_images`."""
        records = _read(self._test).enumerate()
        if shard is not None:
            records = records.filter(lambda position, _: shard.hold(position))
        return records.map(self.parse, num_parallel_calls=tf.data.AUTOTUNE)

    def held_out_at(self, indices: np.ndarray) -> tf.data.Dataset:
        """See `IndexedSource.held_out_at`; other records are not decoded."""
        wanted = tf.constant(np.isin(np.arange(self.num_held_out), indices))
        records = _read(self._test).enumerate().filter(lambda i, _: tf.gather(wanted, i))
        return records.map(self.parse, num_parallel_calls=tf.data.AUTOTUNE)

    def each_image(self, held_out: bool, among: np.ndarray | None = None) -> tf.data.Dataset:
        """See `IndexedSource.each_image`."""
        records = _read(self._test if held_out else self._train, in_turn=True).enumerate()
        if among is not None:
            wanted = np.zeros(self.num_held_out if held_out else self.num_train, bool)
            wanted[among] = True
            table = tf.constant(wanted)
            records = records.filter(lambda i, _: tf.gather(table, i))
        return records.map(self.parse, num_parallel_calls=tf.data.AUTOTUNE)

    def train_ids(self) -> list:
        """Returns TFDS's own ids: the file, and the number of the record in it.

        Of a dataset that `selfie-tf prepare` made, they are paths below the folder.
        """
        return _ids(self._train) if self.prepared is None else list(self.prepared.train.ids)

    def held_out_ids(self) -> list:
        """See `train_ids`."""
        return _ids(self._test) if self.prepared is None else list(self.prepared.held_out.ids)

    def train_labels(self) -> np.ndarray:
        """See `IndexedSource.train_labels`; the first call reads every record of the split."""
        return self._read_labels("train", self._train)

    def held_out_labels(self) -> np.ndarray:
        """See `IndexedSource.held_out_labels` and `train_labels`."""
        return self._read_labels("held_out", self._test)

    def _read_labels(self, part, instructions):
        if part in self._labels:
            return self._labels[part]
        if self.prepared is not None:
            number = {name: i for i, name in enumerate(self.class_names)}
            names = getattr(self.prepared, part).labels
            self._labels[part] = np.array([number.get(x, -1) for x in names])
            return self._labels[part]
        labels = _read(instructions, in_turn=True).map(
            lambda record: self._label_alone.deserialize_example(record)[self._label_key],
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        self._labels[part] = np.concatenate([batch.numpy() for batch in labels.batch(4096)])
        return self._labels[part]

    def select(self, train: np.ndarray, held_out: np.ndarray | None = None):
        """See `IndexedSource.select`; holds the chosen records in memory, undecoded."""
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
        """Decodes one raw record to (position, image, label)."""
        decoders = None if self.prepared is None else {self._image_key: self._undecoded}
        example = self._features.deserialize_example(record, decoders=decoders)
        label = tf.constant(-1, tf.int64) if not self._label_key else example[self._label_key]
        image = example[self._image_key]
        if self.prepared is not None:
            return position, decode_stored(image, self._min_side), label
        if image.dtype != tf.uint8:
            image = tf.image.convert_image_dtype(image, tf.uint8)
        channels = image.shape[-1]
        if channels == 1:
            image = tf.image.grayscale_to_rgb(image)
        return position, image[..., :3], label


class _RecordsSource(IndexedSource):
    """Some records of a `TFDSSource`, in memory.

    Its held-out images are other training records, or, where there are none, those of the whole.
    """

    def __init__(self, whole, train, held_out, labels):
        super().__init__(tf.constant(train), tf.constant(held_out, tf.string), labels)
        self._whole = whole
        self.class_names, self.fingerprint = whole.class_names, whole.fingerprint
        if not held_out:
            self.num_held_out = whole.num_held_out
            self.held_out_images, self.held_out_at = whole.held_out_images, whole.held_out_at

    def _load(self, items, index):
        return self._whole.parse(index, tf.gather(items, index))[1], index


def _ids(instructions):
    return [
        f"{os.path.basename(str(file.filename))}__{i}"
        for file in instructions
        for i in range(file.skip, file.skip + file.take)
    ]


def _read(instructions, order=None, in_turn=False) -> tf.data.Dataset:
    """Reads the raw records of a split.

    Args:
      instructions: TFDS's file instructions of the split.
      order: Seed, int64 `[2]`, of a shuffle of the files; None keeps their order.
      in_turn: Whether to read one file after the other instead of several at a time.
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


def open_source(location: str, data, data_dir: str, download: bool, remote: bool) -> TFDSSource:
    """Opens `tfds:LOCATION`, see `data.make_source`."""
    if remote and not data_dir.startswith("gs://"):
        raise UserError(f"data.name={data.name}: {NOT_REMOTE}")
    min_side = least_side(data)
    source = TFDSSource(
        location, data_dir, data.held_out, data.shuffle_buffer, download, data.test_split, min_side
    )
    if source.prepared is None or "://" in source.shards[0][0]:
        # A remote file system reads megabytes ahead whenever a file is opened.
        return source
    source.prepared.check(source.shards, source.num_bytes, source.class_names)
    return PreparedSource(
        source.prepared, source.shards, source.class_names, source.no_labels, min_side
    )
