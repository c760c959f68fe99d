"""Small files, local or remote: written whole or not at all, read with one clear error."""

import hashlib
import io
import json
import os

import numpy as np
import tensorflow as tf

from selfie_tf.errors import UserError


def write_atomically(path: str, content: str | bytes) -> None:
    """Writes under another name, then renames: readers see the whole new file or the old one."""
    temporary = _temporary(path)
    with tf.io.gfile.GFile(temporary, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)
    tf.io.gfile.rename(temporary, path, overwrite=True)


def check_writable(path: str) -> None:
    """Raises what `write_atomically` would, and leaves nothing behind."""
    temporary = _temporary(path)
    with tf.io.gfile.GFile(temporary, "w") as file:
        file.write("")
    tf.io.gfile.remove(temporary)


def _temporary(path):
    return f"{path}.{os.getpid()}.tmp"  # another process may write to the same path


def sha256(path: str) -> str:
    """Returns the hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: str, name: str) -> dict | None:
    """Reads a JSON file of a run.

    Args:
      path: The work directory.
      name: The file's name.

    Returns:
      A dict; None if there is no such file.

    Raises:
      UserError: If it does not hold a JSON object.
    """
    try:
        with tf.io.gfile.GFile(os.path.join(path, name)) as file:
            value = json.load(file)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        return value
    except (tf.errors.NotFoundError, tf.errors.FailedPreconditionError):  # or `path` is a file
        return None
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"{os.path.join(path, name)} cannot be read ({error}); remove it, or use another "
            "work directory"
        ) from error


def pack_arrays(arrays: dict) -> bytes:
    """Returns {name: array} as the content of an .npz file, compressed; it needs no pickle."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def read_arrays(path: str) -> dict:
    """Reads all arrays of an .npz file; raises what TensorFlow's files and NumPy raise."""
    with tf.io.gfile.GFile(path, "rb") as file:
        content = io.BytesIO(file.read())
    with np.load(content) as arrays:
        return dict(arrays)


def read_points(path: str, name: str) -> list:
    """Reads the log points of a run, without lines that were cut short by a kill.

    Args:
      path: The work directory.
      name: "metrics.jsonl", "evaluations.jsonl" or "probes.jsonl".

    Returns:
      Dicts, ascending in `step`.
    """
    try:
        # As bytes: what a power cut leaves need not be UTF-8.
        with tf.io.gfile.GFile(os.path.join(path, name), "rb") as file:
            lines = file.read().splitlines()
    except tf.errors.NotFoundError:
        return []
    points = []
    for line in lines:
        try:
            point = json.loads(line)
        except ValueError:
            continue
        if isinstance(point, dict) and isinstance(point.get("step"), int):
            points.append(point)
    return points
