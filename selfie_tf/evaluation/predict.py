"""What a classifier says about any images."""

import heapq
import io
import logging

import numpy as np

from selfie_tf import figures
from selfie_tf.evaluation.images import open_images, outputs, prepare_output, to_csv, write_output
from selfie_tf.training.load import load_finetuning_run

_SHEET_IMAGES = 40


def predict(
    path: str,
    images: str = "",
    data_name: str = "",
    data_dir: str = "",
    corrupt_budget: float | None = None,
    sheet: str = "",
) -> list:
    """Classifies images.

    Args:
      path: Work directory of a finetuning run, or an export of one.
      images, data_name, data_dir, corrupt_budget: See `images.open_images`. Of data by name, the
        held-out images are classified.
      sheet: PNG file to draw the least certain images to; "" for none.

    Returns:
      One tuple per image: its id (a file's path below the folder), and up to three pairs of a class
      and its probability, the most probable class first. The images come in the order of their
      highest probability, the least certain first; then of their ids. Probabilities are rounded to
      six digits.

    Raises:
      UserError: If the classifier or the images cannot be read.
    """
    if sheet:
        prepare_output("sheet", sheet)
    run = load_finetuning_run(path)
    source = open_images(run.config, images, data_name, data_dir, corrupt_budget)
    ids, rows, shown = source.held_out_ids(), [], []
    batches = outputs(source, run.config.data, lambda x: run.model(x, training=False))
    for indices, squares, _, logits in batches:
        found = [(ids[i], best(row, run.class_names)) for i, row in zip(indices, logits)]
        rows += found
        if sheet:
            shown += zip(found, squares)
            shown = heapq.nsmallest(_SHEET_IMAGES, shown, lambda x: _certainty(x[0]))
    rows.sort(key=_certainty)
    left_out = len(ids) - len(rows)
    logging.info(
        "%s: classified %d images%s",
        run.origin,
        len(rows),
        f", left out {left_out} unreadable ones" if left_out else "",
    )
    if sheet:
        picture = io.BytesIO()
        captions = [caption(*pairs[0]) for (_, pairs), _ in shown]
        figures.draw_sheet(picture, np.stack([square for _, square in shown]), captions)
        write_output("sheet", sheet, picture.getvalue())
    return rows


def best(logits: np.ndarray, class_names) -> list:
    """Returns the three most probable classes, or all if they are fewer.

    Args:
      logits: float `[K]`.
      class_names: K strings.

    Returns:
      Pairs (name, probability), the most probable first; between equal ones, the first.
    """
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponentials / exponentials.sum()
    order = np.argsort(-probabilities, kind="stable")[:3]
    # Rounded as they are written, so that what looks equal is ordered as equal.
    return [(class_names[i], round(float(probabilities[i]), 6)) for i in order]


def to_table(rows: list) -> str:
    """Formats the rows of `predict` as CSV with a header."""
    columns = len(rows[0][1])
    header = ["path", "class", "probability"]
    header += [f"{name}_{i}" for i in range(2, columns + 1) for name in ("class", "probability")]
    table = [header]
    for name, pairs in rows:
        table.append([name, *(cell for word, p in pairs for cell in (word, f"{p:.6f}"))])
    return to_csv(table)


def caption(name: str, probability: float) -> str:
    """What a contact sheet says below an image."""
    return f"{' '.join(name.split())}\n{probability:.0%}"


def _certainty(row):
    name, pairs = row
    return pairs[0][1], name
