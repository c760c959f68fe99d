"""Labels of a folder's images from lists, the CSV files data.labels and data.test_labels."""

import collections
import csv
import hashlib
import io
import json
import logging
import os

import tensorflow as tf

from selfie_tf.data.decode import IMAGE_SUFFIXES
from selfie_tf.data.source import allowed
from selfie_tf.errors import UserError, first_line


def label_source(source, data, folder: str):
    """Selects the images that lists name, and gives them the labels that the lists say.

    Without `data.test_labels`, the listed images that `source` holds out are the test images. An
    image of `data.test_labels` is never trained on, even if it is in `data.labels`, too.

    Args:
      source: The images of a folder, see `data.folder.FolderSource`.
      data: A `config.LabelledDataConfig`.
      folder: The folder.

    Returns:
      A source of the listed images. Its classes are the labels in alphabetical order.

    Raises:
      UserError: If a list cannot be used. It names the file and, where there is one, the line.
    """
    ids = [*source.train_ids(), *source.held_out_ids()]
    folders = folder, os.path.abspath(folder), source.location
    train = _read_images("labels", data.labels, ids, folders, data.corrupt_budget)
    where = f"data.labels={data.labels}"
    if data.test_labels:
        test = _read_images("test_labels", data.test_labels, ids, folders, data.corrupt_budget)
        _take_out(train, test, where, f"data.test_labels={data.test_labels}", ids)
        where_test = f"data.test_labels={data.test_labels}"
    else:
        test = {i: train.pop(i) for i in sorted(train) if i >= source.num_train}
        where_test = where
    names = sorted({label for label, _ in train.values()})
    for i, (label, line) in test.items():
        if label not in names:
            raise UserError(
                f"{where_test}, line {line}: {ids[i]} is a test image of class {label!r}, of which "
                f"{where} has no image to train on; list some"
            )
    if len(names) < 2:
        raise UserError(
            f"{where}: its images to train on are {'all of one class, ' if names else 'none'}"
            f"{', '.join(map(repr, names))}; at least two classes are needed"
        )
    if data.validation_fraction:
        _check_pairs(train, test, where, data.validation_fraction)
    elif not test:
        raise UserError(
            f"{where}: none of its {len(train)} images is one that data.name={data.name} holds out "
            "for testing; list some in a file of their own with --config.data.test_labels=PATH, or "
            "evaluate on a part of the list with --config.data.validation_fraction=0.2"
        )
    counts = len(names), len(train), len(test)
    logging.info("%s: %d classes, %d images to train on, %d held out", where, *counts)
    number = {name: k for k, name in enumerate(names)}
    labels = [{i: number[label] for i, (label, _) in part.items()} for part in (train, test)]
    listed = source.relabelled(*labels, names)
    content = [sorted([ids[i], label] for i, (label, _) in part.items()) for part in (train, test)]
    listed.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return listed


def read_list(where: str, path: str) -> list:
    """Reads a list of labels.

    The file is CSV in UTF-8, with commas, semicolons or tabs. Its columns are path and label; if
    they are others as well, the first line names all of them, `path` and `label` (or `class`) among
    them.

    Args:
      where: What messages call the file, such as "data.labels=PATH".
      path: The file.

    Returns:
      Tuples (number of the line, path, label). An empty label stands for one that is not known yet.

    Raises:
      UserError: If it is not such a file.
    """
    path = os.path.expanduser(path)
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except tf.errors.OpError as error:
        raise UserError(
            f"{where}: cannot be read ({first_line(error)}); give a CSV file of path,label"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{where}, line {line}: not UTF-8; save the file as CSV UTF-8") from error
    delimiter = next((d for d in ",;\t" if d in text.partition("\n")[0]), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, columns, width, line = [], None, 2, 0
    try:
        for cells in reader:
            before, line = line + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _header(cells, f"{where}, line {before}")
                if columns is not None:
                    width = len(cells)
                    continue
                columns = 0, 1
                if len(cells) < 2:
                    raise UserError(
                        f"{where}, line {before}: expected path,label, got {cells[0]!r}"
                    )
            if len(cells) > width:
                raise UserError(
                    f"{where}, line {before}: expected {width} columns, got {len(cells)}; put a "
                    "path with a comma into double quotes, and name more columns in the first line"
                )
            cells += [""] * (width - len(cells))  # spreadsheets leave out what is empty at the end
            name, label = (cells[column] for column in columns)
            if not name:
                raise UserError(f"{where}, line {before}: the path is missing")
            if "\0" in name:
                raise UserError(f"{where}, line {before}: a zero byte; save the file as CSV UTF-8")
            rows.append((before, name, label.strip()))
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: not CSV ({error})") from error
    return rows


def _header(cells, where):
    """The columns of path and label, if this is a line of names; else None."""
    names = [cell.strip().lower() for cell in cells]
    label = next((name for name in ("label", "class") if name in names), None)
    if label and "path" not in names and not any(n.endswith(IMAGE_SUFFIXES) for n in names):
        raise UserError(
            f"{where}: no column is called path, only {', '.join(map(repr, names))}; rename the "
            "column of paths"
        )
    return (names.index("path"), names.index(label)) if "path" in names and label else None


def _read_images(key, path, ids, folders, budget):
    """Reads {index of an image: (label, line)} in the order of the list."""
    where = f"data.{key}={path}"
    rows = read_list(where, path)
    index = {name: i for i, name in enumerate(ids)}
    labelled = [row for row in rows if row[2]]
    if len(labelled) < len(rows):
        logging.info("%s: %d images have no label yet", where, len(rows) - len(labelled))
    found, missing = {}, []
    for line, name, label in labelled:
        i = find_image(name, index, folders)
        if i is None:
            missing.append((line, name))
            logging.warning("%s, line %d: no such image in the folder: %r", where, line, name)
        elif found.setdefault(i, (label, line))[0] != label:
            other, before = found[i]
            raise UserError(
                f"{where}, line {line}: {name!r} is labelled {label!r}, but {other!r} in line "
                f"{before}; remove one of the two lines"
            )
    if len(missing) > allowed(budget, len(labelled)):
        line, name = missing[0]
        raise UserError(
            f"{where}, line {line}: no such image in the folder: {name!r}; {len(missing)} of "
            f"{len(labelled)} are missing, more than data.corrupt_budget={budget:g} allows; give "
            "paths below the folder"
        )
    if not found:
        raise UserError(f"{where}: no labelled image in it; expected lines of path,label")
    return found


def find_image(name: str, index: dict, folders: tuple) -> int | None:
    """Finds a listed image.

    Args:
      name: Its path in the list: below the folder, absolute, or from the current directory.
      index: {path below the folder: number}.
      folders: The folder, as it was given, absolute, and without links; () if it is not known.

    Returns:
      Its number; None if it is not in the folder.
    """
    for path in (name, name.replace("\\", "/")):  # as Windows writes it
        below = [path]
        for folder, whole in zip(folders, (path, os.path.abspath(path), os.path.realpath(path))):
            if whole.startswith(f"{folder.rstrip('/')}/"):
                below.append(os.path.relpath(whole, folder))
        found = [index[p] for p in map(os.path.normpath, below) if p in index]
        if found:
            return found[0]
    return None


def _take_out(train, test, where, where_test, ids):
    """Removes the test images from those to train on."""
    both = [i for i in train if i in test]
    for i in both:
        (label, line), (test_label, test_line) = train.pop(i), test[i]
        if label != test_label:
            raise UserError(
                f"{where_test}, line {test_line}: {ids[i]} is labelled {test_label!r}, but "
                f"{label!r} in {where}, line {line}"
            )
    if both:
        logging.info("%s: %d images are test images, not trained on", where, len(both))


def _check_pairs(train, test, where, fraction):
    """Checks that every class can be divided into images to train and to evaluate on."""
    lines, held_out = {}, collections.Counter(label for label, _ in test.values())
    for label, line in train.values():
        lines.setdefault(label, []).append(line)
    for label, found in lines.items():
        if len(found) == 1:
            others = held_out[label]
            more = f" ({others} more {'is' if others == 1 else 'are'} held out)" if others else ""
            raise UserError(
                f"{where}, line {found[0]}: the only image of class {label!r} to train on{more}; "
                f"data.validation_fraction={fraction:g} needs at least two: label more of them"
            )
