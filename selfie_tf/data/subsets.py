"""Labelled subsets: few labels, class-balanced, and the same for everyone (section 3.1)."""

import copy
import json
import logging
import os

import numpy as np
import tensorflow as tf

from selfie_tf.data.source import reading
from selfie_tf.errors import UserError


def choose(
    ids, labels, names, fraction: float, per_class: int = 0, seed: int = 0, at_least: int = 0
) -> np.ndarray:
    """Draws some of the images of every class.

    The choice depends on the seed and the class's ids alone, not on their order. A smaller choice
    is contained in every larger one.

    Args:
      ids: N strings.
      labels: int `[N]`.
      names: The class names, for messages.
      fraction: Fraction of each class, in [0, 1], rounded to whole images.
      per_class: Number of images of each class instead; 0 uses the fraction.
      seed: The seed of the choice.
      at_least: Number of images of each class where the fraction gives fewer.

    Returns:
      Indices into `ids`, int `[M]`, ascending.

    Raises:
      UserError: If a class has fewer than `per_class` images, or is left without an image.
    """
    ids, labels = np.asarray(ids), np.asarray(labels)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = per_class or max(at_least, round(fraction * len(members)))
        if count > len(members):
            raise UserError(
                f"data.labels_per_class={per_class}: class {names[label]!r} has only "
                f"{len(members)} images; give a smaller number"
            )
        if not count:
            raise UserError(
                f"data.label_fraction={fraction} leaves class {names[label]!r} of {len(members)} "
                "images without one; give a larger fraction, or data.labels_per_class"
            )
        members = members[np.argsort(ids[members])]
        # RandomState, whose numbers NumPy promises not to change.
        order = np.random.RandomState([seed, label]).permutation(len(members))
        chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen))


def split(ids, labels, names, fraction: float, seed: int = 0) -> tuple:
    """Splits labelled images into those to train on and those to tune on, class by class.

    Args:
      ids, labels, names, seed: As in `choose`.
      fraction: Fraction of each class to tune on; at least one image, and never all of them.

    Returns:
      Two int arrays of indices into `ids`, ascending: to train on, and to tune on.

    Raises:
      UserError: If a class has a single image.
    """
    ids, labels = np.asarray(ids), np.asarray(labels)
    tune = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise UserError(
                f"data.validation_fraction={fraction}: class {names[label]!r} has a single "
                "labelled image; at least two are needed"
            )
        members = members[np.argsort(ids[members])]
        # Another order than `choose` has, where the images to tune on would be the first drawn.
        order = np.random.RandomState([seed, label, 1]).permutation(len(members))
        tune.append(members[order[: min(len(members) - 1, max(1, round(fraction * len(members))))]])
    tune = np.sort(np.concatenate(tune))
    return np.setdiff1d(np.arange(len(ids)), tune), tune


def labelled_source(source, data) -> tuple:
    """Selects the images that a finetuning run may use.

    Args:
      source: See `data.make_source`.
      data: A `config.LabelledDataConfig`.

    Returns:
      The source to train on and to evaluate, and a dict for subset.json. Its `ids` are those of all
      labelled images ("all" if the source is used whole); its `validation_ids` are those that are
      evaluated instead of trained on.

    Raises:
      UserError: If there are no labels, a class is left without an image, or the subset file names
        images that do not exist.
    """
    if source.no_labels:
        raise UserError(
            f"data.name={data.name}: {source.no_labels}; finetuning needs labels: one folder per "
            "class (PATH/CLASS/*.jpg, or PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg), or a "
            "list of path,label with --config.data.labels=LIST.csv"
        )
    wanted = _read_ids(data.subset_file) if data.subset_file else "all"
    partial = data.label_fraction < 1 or data.labels_per_class
    about = {"data": data.name, "class_names": list(source.class_names)}
    if wanted == "all" and not partial and not data.validation_fraction:
        return source, {**about, "images": source.num_train, "ids": "all", "validation_ids": []}
    with reading(source, data):
        ids, labels = np.asarray(source.train_ids()), source.train_labels()
    if labels.min() < 0:
        raise UserError(f"data.name={data.name}: some of its training images have no label")
    names = source.class_names
    chosen = np.arange(len(ids))
    if wanted != "all":
        chosen = _find(wanted, ids, data.subset_file)
    missing = sorted(set(range(len(names))) - set(labels[chosen]))
    if missing:
        where = f"data.subset_file={data.subset_file}" if wanted != "all" else data.name
        raise UserError(f"{where}: no labelled image of class {names[missing[0]]!r}; add some")
    if partial:
        fraction, count = data.label_fraction, data.labels_per_class
        chosen = choose(ids, labels, names, fraction, count, data.subset_seed)
    train, tune = chosen, None
    if data.validation_fraction:
        parts = split(
            ids[chosen], labels[chosen], names, data.validation_fraction, data.subset_seed
        )
        train, tune = (chosen[part] for part in parts)
        logging.info(
            "data.validation_fraction=%g: %d of the %d labelled images are evaluated on, and not "
            "trained on; test images that are not used: %d",
            data.validation_fraction,
            len(tune),
            len(chosen),
            source.num_held_out,
        )
    subset = {
        **about,
        "images": len(chosen),
        "ids": ids[chosen].tolist(),
        "validation_ids": [] if tune is None else ids[tune].tolist(),
    }
    with reading(source, data):
        return source.select(train, tune), subset


def evaluated_source(source, data, subset: str):
    """Selects the images that a finetuning run is evaluated on, as it did itself.

    Args:
      source: See `data.make_source`.
      data: The `data` section of the run's config, a `config.LabelledDataConfig`.
      subset: The run's subset.json.

    Returns:
      A source whose held-out images they are.

    Raises:
      UserError: If they are a part of the labelled images, and some of these are lost.
    """
    if not data.validation_fraction:
        return source
    data = copy.deepcopy(data)
    if tf.io.gfile.exists(subset):  # not the file that it was made from, which may have changed
        data.subset_file, data.label_fraction, data.labels_per_class = subset, 1.0, 0
    return labelled_source(source, data)[0]


def _read_ids(path):
    path = os.path.expanduser(path)
    try:
        with tf.io.gfile.GFile(path) as file:
            ids = json.load(file)["ids"]
        strings = isinstance(ids, list) and ids and all(isinstance(i, str) for i in ids)
        if ids != "all" and not strings:
            raise ValueError("its `ids` are no list of strings")
        return ids
    except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise UserError(
            f"data.subset_file={path}: cannot be used ({reason}); give the subset.json of a "
            "finetuning run"
        ) from error


def _find(wanted, ids, path):
    index = {name: i for i, name in enumerate(ids)}
    lost = [name for name in wanted if name not in index]
    if lost:
        raise UserError(
            f"data.subset_file={path}: {len(lost)} of its {len(wanted)} ids are not among the "
            f"training images, e.g. {lost[0]!r}; give the data that the file was made from"
        )
    return np.unique([index[name] for name in wanted])
