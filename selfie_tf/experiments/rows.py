"""The results of an experiment: one row per finished cell, in a table that people can read."""

import csv
import io
import os

import tensorflow as tf

from selfie_tf.errors import UserError
from selfie_tf.experiments.plan import KINDS, METRICS
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


def check(row: dict, where: str) -> dict:
    """Returns a row, if it can be one.

    Args:
      row: What was read; empty values count as missing.
      where: For the message.

    Raises:
      UserError: If something that every row of its kind has is missing or impossible.
    """
    needed = ["cell", "kind", "recipe", "pretraining", "status"]
    needed += ["task", "seed"] if row.get("kind") in ("tune", "final") else []
    wrong = [f"no {name}" for name in needed if row.get(name, "") == ""]
    for name, values in (("kind", KINDS), ("status", ("finished", "diverged"))):
        wrong += [f"{name}={row[name]}"] if row.get(name, values[0]) not in values else []
    for name in METRICS:
        value = row.get(name) or 0.0
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            wrong.append(f"{name}={value}")
    if wrong:
        raise UserError(f"{where}: not a row of results ({wrong[0]}); remove it")
    return row


def metric_of(row: dict, metric: str) -> float:
    """What a finished row says of a metric.

    Raises:
      UserError: If it says nothing, as rows of an older version may.
    """
    if metric not in row:
        raise UserError(
            f"{row['cell']}: its row has no {metric}; remove it from {TABLE}, and its folder in "
            "cells, and run it again"
        )
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
        where = f"{path}, line {number}"
        if None in values or None in values.values() or "network" not in values:
            raise UserError(
                f"{where}: not a row of results (another number of fields, or no network); remove "
                "it"
            )
        try:
            values = {name: _parse(name, value) for name, value in values.items() if value}
        except ValueError as error:
            raise UserError(f"{where}: not a row of results ({error}); remove it") from error
        rows.append({"network": "", **check(values, where)})
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
      UserError: If one is missing, or there is no row in any, or two rows contradict each other.
    """
    rows = {}
    for path in paths:
        if not tf.io.gfile.exists(path):
            raise UserError(
                f"{path}: no such file; give the {TABLE} of an experiment, which writes it anew "
                "when it is run again"
            )
        for row in read_table(path):
            before = rows.setdefault(key(row), row)
            for name in ("status", "split", *METRICS):
                if row.get(name) != before.get(name):
                    raise UserError(
                        f"{path}: {row['cell']} has {name}={row.get(name)}, and before it had "
                        f"{name}={before.get(name)}; leave one of the two out"
                    )
    if not rows:
        raise UserError(f"{', '.join(map(os.fspath, paths))}: no finished cell in it yet")
    return list(rows.values())


def _parse(name, value):
    if name in _TEXTS:
        return value
    if name in _INTS:
        return int(value)
    try:
        return float(value)
    except ValueError:
        return value
