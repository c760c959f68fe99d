"""Labelled subsets."""

import json

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.config import LabelledDataConfig
from selfie_tf.data.source import IndexedSource
from selfie_tf.data.subsets import choose, labelled_source, split
from selfie_tf.errors import UserError

NAMES = ("a", "b", "c")
GOLDEN = [0, 5, 26, 40, 45, 79, 82, 84, 86]


@pytest.fixture
def labels(rng):
    """Of 100, 60 and 40 images, mixed."""
    return rng.permutation(np.repeat([0, 1, 2], [100, 60, 40]))


@pytest.fixture
def ids(labels):
    return [f"img-{i}" for i in range(len(labels))]


def counts(labels, chosen):
    return np.bincount(np.asarray(labels)[chosen], minlength=3).tolist()


@pytest.mark.parametrize(
    "fraction, expected", [(0.05, [5, 3, 2]), (0.1, [10, 6, 4]), (1.0, [100, 60, 40])]
)
def test_a_fraction_of_every_class(ids, labels, fraction, expected):
    chosen = choose(ids, labels, NAMES, fraction)
    assert counts(labels, chosen) == expected
    assert len(set(chosen)) == len(chosen) and (np.diff(chosen) > 0).all()


@pytest.mark.parametrize("fraction, count", [(0.01, 50), (0.05, 250), (0.08, 400), (0.2, 1000)])
def test_the_papers_fractions_of_cifar10(fraction, count):
    labels = np.tile(np.arange(10), 5000)
    chosen = choose(np.arange(50_000).astype(str), labels, [*"abcdefghij"], fraction)
    assert (np.bincount(labels[chosen]) == count).all()


def test_a_number_of_every_class(ids, labels):
    assert counts(labels, choose(ids, labels, NAMES, 1.0, per_class=7)) == [7, 7, 7]


def test_the_choice_depends_on_the_seed_and_not_on_the_order(ids, labels, rng):
    chosen = {ids[i] for i in choose(ids, labels, NAMES, 0.2, seed=3)}
    order = rng.permutation(len(ids))
    shuffled = [ids[i] for i in order]
    again = choose(shuffled, labels[order], NAMES, 0.2, seed=3)
    assert {shuffled[i] for i in again} == chosen
    assert {ids[i] for i in choose(ids, labels, NAMES, 0.2, seed=4)} != chosen


def test_the_choice_is_the_same_for_ever():
    """Anyone's 5 % are these, whatever the versions of Python and NumPy."""
    chosen = choose([f"{i:03d}" for i in range(90)], np.arange(90) % 3, NAMES, 0.1, seed=1)
    assert chosen.tolist() == GOLDEN


def test_a_smaller_part_lies_within_a_larger_one(ids, labels):
    small, large = (set(choose(ids, labels, NAMES, f)) for f in (0.05, 0.2))
    assert small < large


def test_too_small_a_part(ids, labels):
    with pytest.raises(UserError, match="label_fraction=0.01 leaves class 'c' of 40 images with"):
        choose(ids, labels, NAMES, 0.01)
    with pytest.raises(UserError, match="labels_per_class=50: class 'c' has only 40 images"):
        choose(ids, labels, NAMES, 1.0, per_class=50)


def test_a_split_is_disjoint_complete_and_balanced(ids, labels):
    train, tune = split(ids, labels, NAMES, 0.1)
    assert counts(labels, tune) == [10, 6, 4]
    assert sorted([*train, *tune]) == list(range(200))
    few = choose(ids, labels, NAMES, 0.05)
    train, tune = split(np.array(ids)[few], labels[few], NAMES, 0.1)
    assert np.bincount(labels[few][tune]).tolist() == [1, 1, 1]  # at least one
    with pytest.raises(UserError, match="class 'b' has a single labelled image"):
        split(["x", "y", "z"], [0, 0, 1], NAMES, 0.5)


@pytest.mark.parametrize("fraction", [0.75, 0.9])
def test_something_is_left_to_train_on(fraction):
    train, tune = split(["p", "q", "r", "s"], np.array([0, 0, 1, 1]), NAMES, fraction)
    assert len(train) == len(tune) == 2


def test_at_least_so_many(ids, labels):
    assert counts(labels, choose(ids, labels, NAMES, 0.02, at_least=2)) == [2, 2, 2]


def test_the_images_to_tune_on_are_not_the_first_of_a_smaller_choice(ids, labels):
    """Else tuning on all labels would look at the images of the runs on few."""
    _, tune = split(ids, labels, NAMES, 0.1)
    assert set(tune) != set(choose(ids, labels, NAMES, 0.1))


# With a source


@pytest.fixture
def source(labels):
    """Image i has the value i everywhere."""
    images = np.arange(200, dtype=np.uint8)[:, None, None, None] * np.ones([1, 2, 2, 3], np.uint8)
    source = IndexedSource(tf.constant(images), tf.constant(images[:7] + 201), (labels, np.ones(7)))
    source.class_names = NAMES
    return source


def read(dataset, count=None):
    """{image's value: label}"""
    dataset = dataset if count is None else dataset.take(count)
    return {int(image[0, 0, 0]): int(label) for _, image, label in dataset}


def config(**values):
    data = LabelledDataConfig(name="x")
    for key, value in values.items():
        setattr(data, key, value)
    return data


def everything(source):
    from selfie_tf.data.source import BatchShard

    return read(source.train_images(0, 0, BatchShard(1)), source.num_train)


def test_a_part_is_trained_on_with_its_labels(source, labels):
    part, subset = labelled_source(source, config(label_fraction=0.1))
    seen = everything(part)
    assert sorted(seen) == sorted(map(int, subset["ids"])) and len(seen) == 20
    assert all(labels[i] == label for i, label in seen.items())
    assert read(part.held_out_images()) == {201 + i: 1 for i in range(7)}
    assert source.num_train == 200


def test_validation_images_are_labelled_images_that_are_not_trained_on(source, labels):
    part, subset = labelled_source(source, config(label_fraction=0.5, validation_fraction=0.2))
    trained, tuned = everything(part), read(part.held_out_images())
    assert (len(trained), len(tuned)) == (part.num_train, part.num_held_out) == (80, 20)
    assert sorted(tuned) == sorted(map(int, subset["validation_ids"]))
    assert sorted([*trained, *tuned]) == sorted(map(int, subset["ids"]))
    assert all(labels[i] == label for i, label in {**trained, **tuned}.items())


def test_all_labels_leave_the_source_as_it_is(source):
    part, subset = labelled_source(source, config())
    assert part is source and subset["ids"] == "all"


@pytest.mark.parametrize("validation_fraction", [0.0, 0.2])
def test_a_subset_file_brings_back_the_very_images(source, tmp_path, validation_fraction):
    first = config(label_fraction=0.3, subset_seed=5, validation_fraction=validation_fraction)
    part, subset = labelled_source(source, first)
    path = tmp_path / "subset.json"
    path.write_text(json.dumps(subset))
    values = {"subset_seed": 5, "validation_fraction": validation_fraction}
    again, subset2 = labelled_source(source, config(subset_file=str(path), **values))
    assert everything(again) == everything(part)
    assert read(again.held_out_images()) == read(part.held_out_images())
    assert subset2 == subset


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"ids": ["3", "x", "y"]}', "2 of its 3 ids are not among the training images, e.g. 'x'"),
        ('{"ids": ["3"]}', "no labelled image of class"),
        ('{"ids": []}', "no list of strings"),
        ('{"ids": "abc"}', "no list of strings"),
        ('{"ids": [3]}', "no list of strings"),
        ("{}", "lacks 'ids'"),
        ("[]", "cannot be used"),
        ("{", "cannot be used"),
        (None, "cannot be used"),
    ],
)
def test_subset_files_that_cannot_be_used(source, tmp_path, text, expected):
    path = tmp_path / "subset.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=expected) as error:
        labelled_source(source, config(subset_file=str(path)))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_sources_without_labels(source):
    source.no_labels = "there is none"
    with pytest.raises(UserError, match="data.name=x: there is none; .* one folder per class"):
        labelled_source(source, config())
