"""What a finetuned classifier gets wrong, from the predictions that its run has kept."""

import copy
import os
import zipfile

import numpy as np
import tensorflow as tf

from selfie_tf import figures
from selfie_tf.data import make_source
from selfie_tf.data.source import reading
from selfie_tf.data.subsets import evaluated_source
from selfie_tf.errors import UserError, first_line
from selfie_tf.pages import page
from selfie_tf.storage.files import read_arrays, read_json
from selfie_tf.training.classes import confusion_matrix, per_class

_SHOWN = 24  # mistakes
_ROWS = 20  # classes in a table
_SIDE = 96  # pixels of a thumbnail


def read_predictions(path: str) -> dict | None:
    """Reads the arrays of a run's predictions.npz; None if there are none.

    Older runs have `labels` and `predictions` alone, or no such file.
    """
    try:
        found = read_arrays(os.path.join(path, "predictions.npz"))
        return found if len(found["labels"]) else None
    except tf.errors.NotFoundError:
        return None
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, tf.errors.OpError) as error:
        raise UserError(
            f"{path}/predictions.npz cannot be read ({first_line(error)}); remove it"
        ) from error


def show_predictions(path, config, subset: dict, predictions, data_dir: str = "", source=None):
    """Makes what a page shows of the predictions.

    Args:
      path: The work directory.
      config: The run's config, a `config.FinetuneConfig`.
      subset: The contents of subset.json.
      predictions: See `read_predictions`.
      data_dir, source: See `report.make_report`.

    Returns:
      A dict: `confusion` and `mistakes` are dicts for report.html, or None where there are no
      predictions.
    """
    names = subset.get("class_names")
    if predictions is None or not names:
        return {"confusion": None, "mistakes": None}
    labels, found = predictions["labels"], predictions["predictions"]
    return {
        "confusion": _confusion(labels, found, names),
        "mistakes": _mistakes(path, config, names, predictions, data_dir, source),
    }


def _confusion(labels, predictions, names):
    matrix = confusion_matrix(labels, predictions, len(names))
    rows = per_class(labels, predictions, names)
    rows.sort(key=lambda row: 2 if row["recall"] is None else row["recall"])
    wrong = matrix * (1 - np.eye(len(names), dtype=int))
    often = np.argsort(-wrong, axis=None, kind="stable")[:3]
    pairs = [(*np.unravel_index(k, wrong.shape), wrong.flat[k]) for k in often if wrong.flat[k]]
    words = ", ".join(f"{names[i]} for {names[j]} ({count:,})" for i, j, count in pairs)
    return {
        "picture": page.drawn(figures.draw_confusion, matrix, names),
        "alt": f"Confusion matrix of {len(names)} classes. Most often taken: {words or 'none'}.",
        "rows": [
            (
                row["class"],
                f"{row['images']:,}",
                *("-" if row[k] is None else f"{row[k]:.1%}" for k in ("recall", "precision")),
                row["confused_with"] or "-",
            )
            for row in rows[:_ROWS]
        ],
        "more": max(0, len(rows) - _ROWS),
    }


def _mistakes(path, config, names, predictions, data_dir, source):
    labels, found = predictions["labels"], predictions["predictions"]
    wrong = np.flatnonzero(labels != found)
    sure, ids = predictions.get("probabilities"), predictions.get("ids")
    if sure is not None:
        wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    chosen = wrong[:_SHOWN]
    rows = [
        (
            str(ids[i]) if ids is not None else f"number {i:,}",
            names[labels[i]],
            names[found[i]],
            "" if sure is None else f"{sure[i]:.0%}",
        )
        for i in chosen
    ]
    sheet, lost = [], ""
    try:
        if rows:
            source = source or _open_images(path, config, data_dir)
            thumbnails = _thumbnails(source, config.data, labels, np.sort(chosen))
            sheet = [_item(*row, thumbnails[i]) for row, i in zip(rows, chosen, strict=True)]
    except UserError as error:
        lost = str(error)
    return {
        "count": len(wrong),
        "images": len(labels),
        "by_probability": sure is not None,
        "rows": rows,
        "sheet": sheet,
        "lost": lost,
    }


def _item(name, label, prediction, probability, picture):
    words = f"{label}, taken for {prediction}" + (f" ({probability})" if probability else "")
    return {"picture": picture, "alt": f"{name}: {words}", "caption": f"{words}\n{name}"}


def _open_images(path, config, data_dir):
    """The source whose held-out images the run was evaluated on."""
    data = copy.deepcopy(config.data)
    source = make_source(data, data_dir)
    before = (read_json(path, "data.json") or {}).get("fingerprint", "").partition("#")[0]
    if before != source.fingerprint:
        raise UserError(f"data.name={data.name} holds other images than the run had")
    return evaluated_source(source, data, os.path.join(path, "subset.json"))


def _thumbnails(source, data, labels, indices):
    """{index: thumbnail} of held-out images, whole, not cropped."""
    found = {}
    with reading(source, data):
        for index, image, label in source.held_out_at(indices):
            index, image = int(index), image.numpy()
            if int(label) != labels[index]:
                raise UserError(f"data.name={data.name} holds other images than the run had")
            # Of a few pixels, a browser would make a blur.
            scale = max(1, _SIDE // max(image.shape[:2]))
            image = image.repeat(scale, axis=0).repeat(scale, axis=1)
            found[index] = page.thumbnail(image, 2 * _SIDE)
    return found
