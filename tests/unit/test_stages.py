"""The input of a benchmark, stage by stage."""

import os

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.benchmarks import stages as module
from selfie_tf.benchmarks.stages import images_per_second, stages, tensorflow_alone
from selfie_tf.benchmarks.workload import Workload
from selfie_tf.config import FinetuneConfig
from selfie_tf.errors import UserError

from helpers import SHARED, save_noise, training_batches

CIFAR = os.path.join(SHARED, "data", "tfds")
needs_cifar = pytest.mark.skipif(not os.path.isdir(CIFAR), reason="no CIFAR-10 at hand")


@pytest.fixture
def finetuning(tiny_config):
    """A config of finetuning for the same images."""
    config = FinetuneConfig()
    config.data.name, config.data.image_size = "builtin:shapes", 16
    config.patches.size, config.train.batch_size = 4, 16
    return config


def folder(path, suffix="jpg"):
    """A folder of two classes."""
    save_noise(path, [f"{label}/{i}.{suffix}" for label in "ab" for i in range(12)])
    return f"folder:{path}"


def test_built_in_images_are_not_decoded(tiny_config, finetuning):
    assert list(stages(Workload(tiny_config))) == ["list", "read", "augment", "cut", "batch"]
    assert list(stages(Workload(finetuning))) == ["list", "read", "augment", "batch"]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_files_have_all_stages(suffix, tiny_config, finetuning, tmp_path):
    for config in (tiny_config, finetuning):
        config.data.name, config.train.batch_size = folder(tmp_path, suffix), 4
        config.data.held_out = 2
    names = ["list", "read", "decode", "augment", "cut", "batch"]
    assert list(stages(Workload(tiny_config))) == names
    assert list(stages(Workload(finetuning))) == [name for name in names if name != "cut"]


@needs_cifar
def test_records_have_no_list(tiny_config, finetuning):
    for config in (tiny_config, finetuning):
        config.data.name, config.data.image_size = "tfds:cifar10", 32
        config.patches.size, config.data.shuffle_buffer = 8, 64
    names = ["read", "decode", "augment", "cut", "batch"]
    found = stages(Workload(tiny_config, CIFAR))
    assert list(found) == names
    first = {name: next(iter(batches)) for name, batches in found.items()}
    lengths, pixels = first["read"].numpy(), first["decode"].numpy()  # plus positions and labels
    assert min(lengths) > 300 > max(pixels)
    finetuning.data.labels_per_class = 2  # held in memory, and so read by number
    finetuning.train.batch_size = 4
    found = stages(Workload(finetuning, CIFAR))
    assert list(found) == ["list", "read", "decode", "augment", "batch"]
    assert min(next(iter(found["read"])).numpy()) > 300


def test_what_the_stages_yield(tiny_config, tmp_path):
    """All go over the same images, and each takes the whole of them."""
    config, size = tiny_config, 4
    config.data.name, config.train.batch_size = folder(tmp_path), size
    workload = Workload(config)
    found = {name: next(iter(batches)) for name, batches in stages(workload).items()}
    wanted = next(iter(training_batches(workload.source, config)))
    for key, value in wanted.items():
        np.testing.assert_array_equal(found["batch"][key], value)
    images = workload.source.train_images(config.train.seed, 0, module.BatchShard(size))
    images = list(images.take(size))
    ids = workload.source.train_ids()
    sizes = {i: os.path.getsize(tmp_path / name) for i, name in enumerate(ids)}
    order = found["list"].numpy() - np.arange(size)  # position + index - position
    np.testing.assert_array_equal(found["read"], [sizes[i] for i in order])
    firsts = [int(p) + int(image[0, 0, 0]) + int(label) for p, image, label in images]
    np.testing.assert_array_equal(found["decode"], firsts)


def test_tensorflow_alone_decodes_the_same_files(tiny_config, tmp_path):
    tiny_config.data.name, tiny_config.train.batch_size = folder(tmp_path), 4
    (tmp_path / "a" / "0.jpg").write_bytes(b"nothing")
    os.mkfifo(tmp_path / "a" / "fifo.jpg")
    tiny_config.data.held_out = 1
    workload = Workload(tiny_config)
    found = tensorflow_alone(workload)
    assert list(found) == ["decode", "decode_crop_resize"]
    source = workload.source
    good = [n for n in source.train_ids() if n not in ("a/0.jpg", "a/fifo.jpg")]
    files = [(tmp_path / name).read_bytes() for name in good[:4]]
    firsts = [i + int(tf.io.decode_jpeg(f, channels=3)[0, 0, 0]) for i, f in enumerate(files)]
    np.testing.assert_array_equal(next(iter(found["decode"])), firsts)
    assert next(iter(found["decode_crop_resize"])).shape == [4]


def test_it_has_nothing_to_decode_elsewhere(tiny_config, tmp_path):
    assert tensorflow_alone(Workload(tiny_config)) == {}
    tiny_config.data.name, tiny_config.train.batch_size = folder(tmp_path, "png"), 4
    assert tensorflow_alone(Workload(tiny_config)) == {}


def test_a_rate_counts_images(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    assert images_per_second(tf.data.Dataset.range(1000), 8, seconds=30) == 29 * 8 / 31


def test_too_few_images(tiny_config, tmp_path):
    tiny_config.data.name, tiny_config.train.batch_size = folder(tmp_path), 64
    with pytest.raises(UserError, match="fewer than one batch"):
        Workload(tiny_config)
