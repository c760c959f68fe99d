"""The source tfds:NAME on all of CIFAR-10, against TFDS's own reading."""

import os

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.config import SelfieConfig
from selfie_tf.data import make_source
from selfie_tf.data.source import BatchShard
from selfie_tf.errors import UserError

from helpers import SHARED

CIFAR = os.path.join(SHARED, "data", "tfds")
pytestmark = pytest.mark.skipif(not os.path.isdir(CIFAR), reason=f"no CIFAR-10 in {CIFAR}")


def test_tfds_yields_every_image_once_an_epoch():
    config = SelfieConfig()
    config.data.crop = "center"
    config.train.batch_size = 500
    config.data.shuffle_buffer = 3000  # smaller than the data: the shards' order matters too
    source = make_source(config.data, CIFAR)
    assert (source.num_train, source.num_held_out) == (50_000, 10_000)
    images = source.train_images(0, 99, BatchShard(500)).take(50_500).batch(500)
    positions, sums = [], []
    for steps, pixels, _ in images.as_numpy_iterator():
        positions += steps.tolist()
        sums += [hash(image.tobytes()) for image in pixels]
    assert positions == list(range(49_500, 100_000))
    epoch = sums[500:]
    # Nearly all of CIFAR-10's pictures differ; a few are in it twice.
    assert len(set(epoch)) > 49_900
    assert set(sums[:500]) <= set(epoch)


def test_workers_decode_their_own_records_of_tfds_alone(monkeypatch):
    config = SelfieConfig()
    config.data.crop, config.train.batch_size = "center", 500
    source = make_source(config.data, CIFAR)
    whole = source.train_images(0, 0, BatchShard(500)).take(1000)
    expected = {int(p): hash(image.numpy().tobytes()) for p, image, _ in whole}
    parse, seen = source.parse, {}
    for first in range(0, 500, 125):
        parsed = []

        def noting(position, record, parsed=parsed):
            note = tf.numpy_function(parsed.append, [position], [])
            with tf.control_dependencies([note]):
                return parse(tf.identity(position), record)

        monkeypatch.setattr(source, "parse", noting)
        part = source.train_images(0, 0, BatchShard(500, first, 125)).take(250)
        found = {int(p): hash(image.numpy().tobytes()) for p, image, _ in part}
        assert len(found) == 250
        assert all(first <= p % 500 < first + 125 for p in parsed)
        seen |= found
        parsed.clear()
        held_out = source.held_out_images(BatchShard(500, first, 125)).take(250)
        assert [int(p) % 500 for p, _, _ in held_out] == 2 * list(range(first, first + 125))
        assert all(first <= p % 500 < first + 125 for p in parsed)
    assert seen == expected


def test_tfds_labels_ids_and_parts_fit_the_images():
    """Against TFDS's own reading."""
    import tensorflow_datasets as tfds

    config = SelfieConfig()
    source = make_source(config.data, CIFAR)
    read = tfds.builder("cifar10", data_dir=CIFAR).as_dataset(
        split="train[:300]", read_config=tfds.ReadConfig(add_tfds_id=True)
    )
    ids, labels = source.train_ids(), source.train_labels()
    assert len(ids) == len(set(ids)) == len(labels) == 50_000
    assert np.bincount(labels).tolist() == [5000] * 10
    place = {name: i for i, name in enumerate(ids)}
    examples = {place[e["tfds_id"].decode()]: e for e in read.as_numpy_iterator()}
    chosen = np.array(sorted(examples))[::7]
    part = source.select(chosen, chosen[:5])
    seen = list(part.train_images(0, 0, BatchShard(1)).take(len(chosen)))
    expected = {examples[i]["image"].tobytes(): examples[i]["label"] for i in chosen}
    assert {x.numpy().tobytes(): int(y) for _, x, y in seen} == expected
    for i, (_, image, label) in zip(chosen, part.held_out_images(), strict=False):
        np.testing.assert_array_equal(image, examples[i]["image"])
        assert label == examples[i]["label"] == labels[i]
    assert part.num_held_out == 5 and source.select(chosen).num_held_out == 10_000
    config.data.test_split = "val"
    with pytest.raises(UserError, match="data.test_split=val: .*cifar10 has no such split, only"):
        make_source(config.data, CIFAR)
