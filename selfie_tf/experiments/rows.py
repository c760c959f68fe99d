"""The results of an experiment: one row per finished cell, in a table that people can read."""

import csv
import io
import os

import tensorflow as tf

from selfie_tf.errors import UserError
from selfie_tf.storage.files import write_atomically

TABLE = "results.csv"
_FIRST = (
    "cell",
    "kind",
    "recipe",
    "pretraining",
    "task",
    "seed",
    "setting",
    "network",
    "config",
    "status",
    "split",
    "top1",
)
_INTS = ("pretraining", "seed", "steps", "labelled_images", "trained_on", "test_images")
_TEXTS = ("cell", "kind", "recipe", "task", "setting", "network", "config", "status", "split")
_TEXTS += ("machine",)


def key(row: dict) -> tuple:
    """What tells rows apart: the cell, and the pretrained network that it used."""
    return row["cell"], row["network"]


def metric_of(row: dict, metric: str) -> float:
    """What a finished row says of a metric.

    Raises:
      UserError: If it says nothing, as rows of an older version may.
    """
    if metric not in row:
        raise UserError(f"{row['cell']}: its row has no {metric}; run it again")
    return row[metric]


def read_table(path: str) -> list:
    """Reads a table of results.

    Args:
      path: A CSV file, as `write_table` writes it.

    Returns:
      Rows, as dicts without empty values; [] if there is no such file.

    Raises:
      UserError: If it is no such table.
    """
    try:
        with tf.io.gfile.GFile(path) as file:
            table = list(csv.DictReader(io.StringIO(file.read())))
    except tf.errors.NotFoundError:
        return []
    except (csv.Error, tf.errors.OpError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    rows = []
    for number, values in enumerate(table, 2):
        try:
            values = {name: _parse(name, value) for name, value in values.items() if value}
            rows.append({"network": "", **values})
            key(rows[-1])
        except (KeyError, ValueError, AttributeError) as error:
            raise UserError(f"{path}, line {number}: not a row of results ({error!r})") from error
    return rows


def write_table(path: str, rows: list) -> None:
    """Writes rows as CSV, in their order; see `read_table`."""
    names = list(dict.fromkeys([*_FIRST, *sorted({name for row in rows for name in row})]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def merge(*tables: list) -> list:
    """Joins tables; of rows with the same key the last counts, at the place of the first."""
    rows = {}
    for row in (row for table in tables for row in table):
        rows[key(row)] = row
    return list(rows.values())


def read_tables(paths: list) -> list:
    """Reads and joins several tables.

    Raises:
      UserError: If one is missing, or there is no row in any.
    """
    for path in paths:
        if not tf.io.gfile.exists(path):
            raise UserError(f"{path}: no such file; give the {TABLE} of an experiment")
    rows = merge(*map(read_table, paths))
    if not rows:
        raise UserError(f"{', '.join(map(os.fspath, paths))}: no finished cell in it yet")
    return rows


def _parse(name, value):
    if name in _TEXTS:
        return value
    if name in _INTS:
        return int(value)
    try:
        return float(value)
    except ValueError:
        return value
