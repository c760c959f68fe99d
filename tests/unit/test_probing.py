"""Labelled images by which training is judged: which are chosen, and what cannot be used."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from selfie_tf.data import make_source
from selfie_tf.data.probing import open_probe, read_probe
from selfie_tf.data.source import IndexedSource
from selfie_tf.errors import UserError

from helpers import save_noise


def numbered(labels, held_out_labels):
    """A source of 16-pixel images, each of the grey of its number: training, then held out."""
    count = len(labels) + len(held_out_labels)
    images = np.tile(np.arange(count, dtype=np.uint8)[:, None, None, None], [1, 16, 16, 3])
    parts = tf.constant(images[: len(labels)]), tf.constant(images[len(labels) :])
    source = IndexedSource(*parts, (labels, held_out_labels))
    source.class_names = tuple("abcdefghij")
    return source


def greys(images):
    return images[:, 0, 0, 0].tolist()


@pytest.fixture
def config(tiny_config):
    tiny_config.train.probe_every = 4
    return tiny_config


def test_each_class_gives_half_to_learn_from_and_half_to_test_on(config, rng):
    labels, held_out = rng.permutation([0] * 60 + [1] * 30 + [2] * 10), np.array([0, 1, 2] * 2)
    config.data.probe_images = 50
    found = read_probe(config, numbered(labels, held_out))
    assert np.bincount(found.train_labels).tolist() == np.bincount(found.test_labels).tolist()
    counts = np.bincount(found.test_labels)
    assert counts.tolist() == [14, 7, 2] and 2 * counts.sum() <= 50
    both = np.concatenate([labels, held_out])
    for images, own in ((found.train, found.train_labels), (found.test, found.test_labels)):
        assert images.dtype == np.uint8 and images.shape[1:] == (16, 16, 3)
        assert both[greys(images)].tolist() == own.tolist()  # every image has its own label
    assert not set(greys(found.train)) & set(greys(found.test))
    assert set(range(100, 106)) <= set(greys(found.test))  # held-out ones are tested on first
    again = read_probe(config, numbered(labels, held_out))
    np.testing.assert_array_equal(again.train, found.train)
    np.testing.assert_array_equal(again.test, found.test)


def test_held_out_images_are_enough_where_they_are_many(config):
    labels, held_out = [0, 1] * 20, [0, 1] * 20
    config.data.probe_images = 40
    found = read_probe(config, numbered(labels, held_out))
    assert len(found.train) == len(found.test) == 20
    assert max(greys(found.train)) < 40 <= min(greys(found.test))


def test_the_limit_holds_where_there_are_many_small_classes(config):
    labels = [0] * 100 + [1, 1, 2, 2, 3, 3, 4, 4]
    config.data.probe_images = 12
    found = read_probe(config, numbered(labels, [0]))
    assert np.bincount(found.test_labels).tolist() == [2, 1, 1, 1, 1]


def test_images_without_a_label_are_left_out(config):
    found = read_probe(config, numbered([0, -1, 1, 0, 1, -1], [-1]))
    assert sorted(greys(found.train) + greys(found.test)) == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("labels", "limit", "expected"),
    [
        ([-1, -1, -1], 10, "data.name=builtin:shapes: none has a label"),
        ([0, 0, 0], 10, "all labels are 'a'"),
        ([0, 0, 1], 10, "class 'b' has a single image"),
        ([0, 0, 1, 1, 2, 2], 5, "data.probe_images=5 is too few for the 3 classes"),
    ],
)
def test_labels_that_cannot_be_used_are_named(labels, limit, expected, config):
    config.data.probe_images = limit
    with pytest.raises(UserError, match=expected):
        read_probe(config, numbered(labels, [-1]))


def test_a_folder_is_named_as_the_probe(config, tmp_path):
    folder = tmp_path / "images"
    config.data.probe = f"folder:{folder}"
    run = make_source(config.data)

    def message():
        with pytest.raises(UserError) as error:
            read_probe(config, open_probe(config, run))
        assert "data.name" not in str(error.value)
        return str(error.value)

    assert message().startswith(f"data.probe=folder:{folder}: no such folder")
    save_noise(folder, ["1.png", "2.png"])
    assert "lies in no class folder; the probe needs labels" in message()
    for name in ("1.png", "2.png"):
        (folder / name).unlink()
    save_noise(folder, [f"cat/{i}.png" for i in range(20)])
    assert "all images are of one class, cat; the probe needs labels" in message()
    save_noise(folder, [f"dog/{i}.png" for i in range(20)])
    found = read_probe(config, open_probe(config, run))
    assert np.bincount(found.train_labels).tolist() == [10, 10]
    for i in range(5):
        (folder / "cat" / f"{i}.png").write_text("no image")
    assert "images are unreadable, more than data.corrupt_budget=0.001 allows" in message()
    config.data.corrupt_budget = 0.5
    found = read_probe(config, open_probe(config, run))
    counts = [np.bincount(y).tolist() for y in (found.train_labels, found.test_labels)]
    assert np.sum(counts, axis=0).tolist() == [15, 20]

    def lost(*_):
        raise OSError("gone")

    source = open_probe(config, run)
    source.each_image = lost
    with pytest.raises(UserError, match="^data.probe=folder:.* cannot be read .gone"):
        read_probe(config, source)


def test_a_run_without_labels_needs_a_probe(config, tmp_path):
    folder = tmp_path / "images"
    save_noise(folder, [f"{i}.png" for i in range(20)])
    config.data.name = f"folder:{folder}"
    with pytest.raises(UserError, match="train.probe_every=4 needs labelled .*--config.data.probe"):
        open_probe(config, make_source(config.data))


def test_the_central_square_is_taken(config, tmp_path):
    """Of images of any size; the run's other ways to crop do not matter."""
    stripes = np.zeros([16, 48, 3], np.uint8)
    stripes[:, 16:32] = 200
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.fromarray(stripes).save(tmp_path / name / f"{i}.png")
    config.data.probe, config.data.crop = f"folder:{tmp_path}", "random_resized"
    found = read_probe(config, open_probe(config, None))
    assert len(found.train) == 6 and (found.train == 200).all() and (found.test == 200).all()


@pytest.mark.parametrize(
    ("probe", "every", "expected"),
    [
        ("shapes", 4, "data.probe='shapes': expected tfds:NAME"),
        ("folder:", 4, "data.probe='folder:': expected tfds:NAME"),
        ("folder:x", 0, "data.probe=folder:x needs --config.train.probe_every"),
    ],
)
def test_a_config_that_cannot_work(probe, every, expected, config):
    config.data.probe, config.train.probe_every = probe, every
    with pytest.raises(UserError, match=expected):
        config.validate()
