"""The work directory of a run: config.json, metrics.jsonl, result.json, and the lock."""

import json
import os

import numpy as np
import tensorflow as tf

from selfie_tf.config import RunConfig, flatten, from_dict, kind_of_run, to_dict
from selfie_tf.errors import UserError
from selfie_tf.storage.files import pack_arrays, read_json, read_points, write_atomically
from selfie_tf.storage.lock import lock


class WorkDir:
    """Opens or makes the directory for one run of `config`.

    Args:
      path: A local path, or anything else that tf.io.gfile writes (gs://...).
      config: A config that has been validated.
      is_chief: Whether this process writes; the others only read.

    Raises:
      UserError: If the directory belongs to a run with another config, or is in use.
    """

    def __init__(self, path: str, config: RunConfig, is_chief: bool = True):
        self.path, self._config, self._is_chief, self._lock = path, config, is_chief, None
        if tf.io.gfile.exists(self.join("saved_model.pb")):
            raise UserError(f"--workdir={path} is an export; use another one for a run")
        if is_chief:
            try:
                for name in ("", "checkpoints", "figures", "tensorboard"):
                    tf.io.gfile.makedirs(self.join(name))
                self._lock = lock(path)
            except (OSError, tf.errors.OpError) as error:
                reason = getattr(error, "message", None) or error.strerror
                raise UserError(
                    f"--workdir={path}: cannot be created or written ({reason}); use another one"
                ) from error
        try:
            self._check_config(config)
        except UserError:
            self.close()
            raise

    def begin(self, fingerprint: str) -> None:
        """Writes config.json, or checks that the images are those the run began with.

        It is called after the directory is opened, once nothing in the config can be wrong any
        more: a mistake must not tie the directory to it.

        Args:
          fingerprint: See `data.source.IndexedSource`.

        Raises:
          UserError: If the images have changed.
        """
        data = self.read_json("data.json") or {"fingerprint": fingerprint}
        if data != {"fingerprint": fingerprint}:
            raise UserError(
                f"--workdir={self.path} began with other images or labels, or another subset "
                f"of them, than data.name={self._config.data.name} gives now; use another "
                "--workdir, or bring back the same files to resume"
            )
        self.write_json("config.json", to_dict(self._config))
        self.write_json("data.json", data)

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.release()

    def join(self, *names: str) -> str:
        return os.path.join(self.path, *names)

    def result(self) -> dict | None:
        """Returns the contents of result.json; None while the run has not finished."""
        return self.read_json("result.json")

    def write_result(self, result: dict) -> None:
        self.write_json("result.json", result)

    def points(self, name: str) -> list:
        """See `read_points`."""
        return read_points(self.path, name)

    def append(self, name: str, point: dict) -> None:
        if self._is_chief:
            with tf.io.gfile.GFile(self.join(name), "a") as file:
                file.write(json.dumps(point) + "\n")

    def rewind(self, step: int) -> None:
        """Drops log points after `step`, which a resumed run will write again."""
        for name in ("metrics.jsonl", "evaluations.jsonl", "probes.jsonl"):
            points = self.points(name)
            if self._is_chief and points:
                # A run that starts over writes the point of step 0 again, too.
                kept = [json.dumps(point) + "\n" for point in points if point["step"] <= step > 0]
                write_atomically(self.join(name), "".join(kept))

    def write_json(self, name: str, value: dict) -> None:
        if self._is_chief:
            write_atomically(self.join(name), json.dumps(value, indent=2) + "\n")

    def write_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Writes NumPy arrays as an .npz file."""
        if self._is_chief:
            write_atomically(self.join(name), pack_arrays(arrays))

    def remove(self, name: str) -> None:
        """Removes a file, if there is one."""
        if self._is_chief and tf.io.gfile.exists(self.join(name)):
            tf.io.gfile.remove(self.join(name))

    def read_json(self, name: str) -> dict | None:
        """See the function of this name."""
        return read_json(self.path, name)

    def _check_config(self, config):
        before = self.read_json("config.json")
        if before is None:
            return
        kind = kind_of_run(before)
        if kind != kind_of_run(to_dict(config)):
            raise UserError(f"--workdir={self.path} belongs to a {kind} run; use another --workdir")
        try:
            before = from_dict(type(config), before)
        except UserError as error:
            raise UserError(
                f"{self.join('config.json')} cannot be used ({error}); use another --workdir"
            ) from error
        old, new = flatten(before), flatten(config)
        differing = [f"{k} ({old[k]!r}, now {new[k]!r})" for k in new if old[k] != new[k]]
        if differing:
            raise UserError(
                f"--workdir={self.path} belongs to a run with another config, which differs in "
                f"{', '.join(differing)}; use another --workdir, or the same config to resume"
            )
