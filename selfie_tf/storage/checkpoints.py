"""Checkpoints that survive any kill: whole or absent, verified, with older ones to fall back on.

A checkpoint is a folder `step-NNNNNNNN` of TensorFlow's files and, written last, a manifest of
their sha256. A folder without its manifest is a write that was cut short. TensorFlow's own
CheckpointManager neither falls back from a damaged newest checkpoint nor notices a lost index file.
"""

import json
import logging
import os

import tensorflow as tf

from selfie_tf.errors import UserError
from selfie_tf.storage.files import read_json, sha256, write_atomically

_MANIFEST = "manifest.json"
_NOTES = "state-notes.json"  # by its name among the files that the manifest verifies
_PREFIX = "step-"


class Checkpointer:
    """Saves and restores one tf.train.Checkpoint by step number.

    Args:
      directory: The folder of the checkpoints.
      checkpoint: What to save; all of its variables must exist.
      keep: Number of newest checkpoints to keep.
      scratch: "" for the process that writes. All workers must call `save`, because reading
        variables may take all of them. For each of the others this is the name of a folder of its
        own, whose files are thrown away.

    Attributes:
      notes: What `save` was given beside the checkpoint that `restore` read; {} if nothing.
    """

    def __init__(
        self, directory: str, checkpoint: tf.train.Checkpoint, keep: int = 3, scratch: str = ""
    ):
        self._directory, self._checkpoint = directory, checkpoint
        self._keep, self._scratch, self.notes = keep, scratch, {}

    def steps(self) -> list:
        """Lists the steps of the complete checkpoints, ascending; they are not verified yet."""
        if not tf.io.gfile.isdir(self._directory):
            return []
        names = [name.rstrip("/") for name in tf.io.gfile.listdir(self._directory)]
        return sorted(
            int(name.removeprefix(_PREFIX))
            for name in names
            if name.removeprefix(_PREFIX).isdigit()
            and tf.io.gfile.exists(os.path.join(self._directory, name, _MANIFEST))
        )

    def save(self, step: int, notes: dict | None = None) -> None:
        """Writes the checkpoint of `step`, then removes the oldest and incomplete ones.

        Args:
          step: Its number.
          notes: What to keep beside the variables, as JSON.
        """
        if self._scratch:
            scratch = os.path.join(self._directory, self._scratch)
            self._checkpoint.write(os.path.join(scratch, "state"))
            tf.io.gfile.rmtree(scratch)
            return
        folder = self._folder(step)
        if tf.io.gfile.exists(folder):  # cut short before, or found damaged
            tf.io.gfile.rmtree(folder)
        tf.io.gfile.makedirs(folder)
        self._checkpoint.write(os.path.join(folder, "state"))
        if notes is not None:
            write_atomically(os.path.join(folder, _NOTES), json.dumps(notes))
        manifest = {"step": step, "sha256": _digests(folder)}
        write_atomically(os.path.join(folder, _MANIFEST), json.dumps(manifest, indent=1))
        self._remove_old()

    def restore(self) -> int:
        """Restores the newest checkpoint that is whole; logs which damaged ones it skips.

        Returns:
          Its step; 0 if there is no checkpoint.

        Raises:
          UserError: If there are checkpoints but none is whole, or it belongs to another model.
        """
        steps = self.steps()
        for step in reversed(steps):
            problem = self._problem(step)
            if problem:
                logging.warning("checkpoint %s is damaged (%s)", self._folder(step), problem)
                continue
            try:
                status = self._checkpoint.read(os.path.join(self._folder(step), "state"))
                status.assert_existing_objects_matched().assert_consumed()
            except (AssertionError, ValueError) as error:
                line = str(error).strip().splitlines()[0]
                raise UserError(
                    f"checkpoint {self._folder(step)} belongs to another model ({line}); "
                    "use another --workdir"
                ) from error
            self.notes = read_json(self._folder(step), _NOTES) or {}
            if step != steps[-1]:
                logging.warning("fell back to the checkpoint of step %d", step)
            return step
        if steps:
            raise UserError(
                f"all {len(steps)} checkpoints in {self._directory} are damaged; bring one back, "
                "or remove that folder to start over"
            )
        return 0

    def sha256(self, step: int) -> str:
        """The digest of a complete checkpoint: of its manifest, which has those of its files."""
        return sha256(os.path.join(self._folder(step), _MANIFEST))

    def _folder(self, step):
        return os.path.join(self._directory, f"{_PREFIX}{step:08d}")

    def _problem(self, step):
        folder = self._folder(step)
        try:
            with tf.io.gfile.GFile(os.path.join(folder, _MANIFEST)) as file:
                expected = json.load(file)["sha256"]
            found = _digests(folder)
        except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
            return str(error)
        wrong = [name for name in expected if found.get(name) != expected[name]]
        return f"{', '.join(wrong)} changed or lost" if wrong or not expected else None

    def _remove_old(self):
        kept = {os.path.basename(self._folder(step)) for step in self.steps()[-self._keep :]}
        for name in tf.io.gfile.listdir(self._directory):
            name = name.rstrip("/")
            if name.startswith(_PREFIX) and name not in kept:
                tf.io.gfile.rmtree(os.path.join(self._directory, name))


def _digests(folder):
    names = sorted(name for name in tf.io.gfile.listdir(folder) if name.startswith("state"))
    return {name: sha256(os.path.join(folder, name)) for name in names}
