"""A few labelled images in memory, by which training tells how far its features are."""

import copy
import dataclasses
import logging

import numpy as np
import tensorflow as tf

from selfie_tf.data import make_source
from selfie_tf.data.crops import resize_and_center
from selfie_tf.data.source import reading, without_autotuning
from selfie_tf.errors import UserError

_BATCH_SIZE = 128


@dataclasses.dataclass
class ProbeImages:
    """Images to learn from and images to test on.

    Attributes:
      train, test: Central squares, uint8 `[N, S, S, 3]` and `[M, S, S, 3]`.
      train_labels, test_labels: int64 `[N]` and `[M]`.
    """

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray


def open_probe(config, source, data_dir: str = "", download: bool = False, remote: bool = False):
    """Opens the images that `data.probe` asks for.

    Args:
      config: A `config.PretrainConfig`.
      source: The images of the run.
      data_dir, download, remote: See `data.make_source`.

    Returns:
      A source with labels; `source` itself without `data.probe`.

    Raises:
      UserError: If there are none.
    """
    data = config.data
    if data.probe in ("", data.name):
        if source.no_labels:
            raise UserError(
                f"train.probe_every={config.train.probe_every} needs labelled images, but of "
                f"data.name={data.name}: {source.no_labels}; give some with "
                "--config.data.probe=folder:PATH, one folder per class"
            )
        return source
    other = _other(data)
    try:
        probe = make_source(other, data_dir, download, remote)
    except UserError as error:
        raise _renamed(error, data) from error
    if probe.no_labels:
        raise UserError(
            f"data.probe={data.probe}: {probe.no_labels}; the probe needs labels, e.g. one folder "
            "per class"
        )
    return probe


def read_probe(config, source) -> ProbeImages:
    """Chooses images, and reads them.

    Each class gives the same fraction, half to learn from and half to test on. The choice depends
    on the images alone, so that runs can be compared. Tested are held-out images as far as there
    are enough: the run's own training images have been seen, if without their labels.

    Args:
      config: A `config.PretrainConfig`.
      source: See `open_probe`.

    Raises:
      UserError: If a class has a single image, there may be too few images for all classes, or too
        many cannot be read.
    """
    data = config.data
    own = data.probe in ("", data.name)
    where = f"data.name={data.name}" if own else f"data.probe={data.probe}"
    used = data if own else _other(data)
    try:
        with reading(source, used):
            labels = [source.train_labels(), source.held_out_labels()]
        held_out = np.repeat([False, True], [len(part) for part in labels])
        names, limit = source.class_names, data.probe_images
        train, test = _halves(np.concatenate(labels), held_out, names, limit, where)
        with reading(source, used):
            train, test = (_read(source, used, part, held_out) for part in (train, test))
    except UserError as error:
        raise error if own else _renamed(error, data) from error
    found = ProbeImages(train[0], test[0], train[1], test[1])
    if len(np.unique(found.train_labels)) < 2 or not len(found.test):
        raise UserError(f"{where}: too few of its images can be read for a probe; add some")
    size = (found.train.nbytes + found.test.nbytes) / 1e6
    counts = len(found.train), len(found.test)
    logging.info(
        "probe: %s: %d images to learn from, %d to test on (%.1f MB)", where, *counts, size
    )
    return found


def _other(data):
    other = copy.deepcopy(data)
    other.name, other.test_split = data.probe, ""
    return other


def _renamed(error, data):
    return UserError(str(error).replace(f"data.name={data.probe}", f"data.probe={data.probe}"))


def _halves(labels, held_out, names, limit, where):
    """Chooses as many images of each class to learn from as to test on.

    Args:
      labels: int `[N]`; -1 is no label.
      held_out: Which images are held out, bool `[N]`.
      names: The class names, for messages.
      limit: The number of images, at most.
      where: What messages call the images.

    Returns:
      Indices of both, int, ascending.
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(classes) < 2:
        few = f"all labels are {names[classes[0]]!r}" if len(classes) else "none has a label"
        raise UserError(f"{where}: {few}; a probe needs images of two classes or more")
    if counts.min() < 2:
        name = names[classes[counts.argmin()]]
        raise UserError(
            f"{where}: class {name!r} has a single image; a probe needs at least two of each "
            "class, to learn from and to test on"
        )
    if limit < 2 * len(classes):
        raise UserError(
            f"data.probe_images={limit} is too few for the {len(classes)} classes of {where}: "
            f"give at least {2 * len(classes)}"
        )
    fraction = min(1.0, limit / counts.sum())
    each = np.maximum(1, (fraction * counts / 2).astype(int))
    while 2 * each.sum() > limit:  # classes of few images take more than their share
        each[each.argmax()] -= 1
    train, test = [], []
    for label, count in zip(classes, each, strict=True):
        members = np.flatnonzero(labels == label)
        # RandomState, whose numbers NumPy promises not to change.
        members = np.random.RandomState([0, label]).permutation(members)
        members = members[np.argsort(~held_out[members], kind="stable")]  # held-out ones first
        test.append(members[:count])
        train.append(members[len(members) - count :])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _read(source, data, indices, held_out):
    """Reads images: uint8 `[n, S, S, 3]`, and labels int64 `[n]`. Unreadable ones are left out."""
    size = data.image_size
    images, labels = [np.zeros([0, size, size, 3], np.uint8)], [np.zeros([0], np.int64)]
    for part in (False, True):
        among = indices[held_out[indices] == part] - part * source.num_train
        if not len(among):
            continue
        squares = source.each_image(part, among).map(
            lambda _, image, label: (resize_and_center(image, size), label),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        for batch, found in without_autotuning(squares.batch(_BATCH_SIZE)):
            images.append(batch.numpy())
            labels.append(found.numpy())
    return np.concatenate(images), np.concatenate(labels)
