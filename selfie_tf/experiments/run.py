"""Runs the cells of an experiment one after the other; whatever is finished is not done again."""

import gc
import json
import logging
import os
import platform
import time

import numpy as np
import tensorflow as tf
import tf_keras as keras

from selfie_tf.errors import DivergedError, UserError
from selfie_tf.evaluation.evaluate import evaluate_pretrained
from selfie_tf.experiments import rows
from selfie_tf.experiments.plan import METRICS, Experiment, setting_name
from selfie_tf.experiments.tuning import best_setting
from selfie_tf.storage.files import pack_arrays, read_json, sha256, write_atomically
from selfie_tf.training.cost import gflop_per_image
from selfie_tf.training.finetune import finetune
from selfie_tf.training.mistakes import read_predictions
from selfie_tf.training.pretrain import pretrain

_PRETRAINED = (  # of a pretraining's result.json
    "instance_accuracy",
    "held_out_patch_accuracy",
    "held_out_patch_accuracy_uncropped",
    "margin_baseline",
    "pixel_accuracy",
    "baseline_accuracy",
    "image_baseline_accuracy",
    "nearest_visible_accuracy",
    "held_out_loss",
    "loss",
    "train_loss",
)
_SUBSET = ("labelled_images", "trained_on")


class ExperimentRunner:
    """Runs an experiment in a folder.

    Every cell is a run with a work directory of its own, `cells/NAME`. What it found is its
    `row.json`, and a line of `results.csv`. A cell with either is not run again, so an experiment
    can be killed at any point, and continued on another machine from `results.csv` alone.

    Args:
      experiment: The plan, validated.
      workdir: The folder. Machines that share it may each do a shard. May be "" for `todo`.
      shard: (i, n): the i-th of n equal parts, from 1. A pretrained network and all that uses it
        are in one part.
      **data: `data_dir`, `download` and `remote_data`, see `data.make_source`.
    """

    def __init__(self, experiment: Experiment, workdir: str, shard=(1, 1), **data):
        self._experiment, self._workdir, self._data = experiment, workdir, data
        self._cells = experiment.cells()
        units = list(dict.fromkeys(cell.unit for cell in self._cells))
        mine = set(units[shard[0] - 1 :: shard[1]])
        self._mine = [cell for cell in self._cells if cell.unit in mine]

    def todo(self) -> list:
        """Lists the `Cell`s of the shard that have no row yet, in the order of running them.

        Raises:
          UserError: If a cell has a row of another config. Rows of earlier versions do not say.
        """
        rows_before = {row["cell"]: row for row in self._rows()} if self._workdir else {}
        for cell in self._cells:
            before = rows_before.get(cell.name, {}).get("config", "")
            if before and before != self._experiment.fingerprint(cell):
                raise UserError(
                    f"{cell.name}: the plan's config is not the one that its row in {rows.TABLE} "
                    "is of; give another --workdir, or remove its line and its folder in cells"
                )
        return _in_order([cell for cell in self._mine if not self._is_done(cell, rows_before)])

    def run(self, strategy) -> None:
        """Runs the cells of `todo`.

        Args:
          strategy: See `distribution.strategy.make_strategy`.

        Raises:
          UserError: If a cell fails by a mistake of the user, or cells are left that wait for the
            tuning of another shard.
        """
        todo = self.todo()
        logging.info(
            "%d cells, %d of them here, %d to do", len(self._cells), len(self._mine), len(todo)
        )
        work, waiting = {cell.name: self._gflop(cell) for cell in todo}, []
        start, done, all_work = time.time(), 0.0, sum(work.values())
        for number, cell in enumerate(todo, 1):
            setting = ()
            if cell.kind == "final" and self._experiment.tuning is not None:
                setting = best_setting(self._experiment, self._rows(), cell.recipe, cell.task)
                if setting is None:
                    waiting.append(cell)
                    continue
            logging.info("cell %d of %d: %s", number, len(todo), cell.name)
            self._write(cell, self._run(cell, setting, strategy))
            done += work[cell.name]
            left = (time.time() - start) / done * (all_work - done) if done else 0
            logging.info("%s done, about %.1f hours left", cell.name, left / 3600)
        self._write_table()
        if waiting:
            raise UserError(
                f"{len(waiting)} cells wait for the tuning of another shard, e.g. "
                f"{waiting[0].name}; give the same command again when that is done"
            )

    def _run(self, cell, setting, strategy) -> dict:
        """Runs one cell: what is particular to its row."""
        pretrained = read_json(self._path(cell.network), "row.json") if cell.network else None
        if cell.kind != "pretrain" and pretrained and pretrained["status"] == "diverged":
            return {"status": "diverged", "setting": setting_name(cell.setting or setting)}
        if cell.kind != "pretrain" and cell.network and not self._network(cell):
            raise UserError(
                f"{self._path(cell.network)}: its checkpoints are gone; remove this folder, and "
                "the network is made again"
            )
        folder, config = self._folder(cell), self._experiment.config(cell, setting)
        network = self._path(cell.network)
        arguments = {"strategy": strategy, **self._data}
        try:
            if cell.kind == "pretrain":
                return {**self._pretrained(pretrain(config, folder, **arguments)), "seed": ""}
            if cell.kind == "probe":
                return self._probe(network, folder)
            if cell.network:
                config.init_from = network
            result = finetune(config, folder, **arguments)
        except DivergedError as error:
            logging.warning("%s diverged: %s", cell.name, error)
            return {"status": "diverged", "setting": setting_name(cell.setting or setting)}
        finally:
            keras.mixed_precision.set_global_policy("float32")
            keras.backend.clear_session()
            gc.collect()
        split = "validation" if config.data.validation_fraction else "test"
        if split == "test":
            self._keep_predictions(cell)
        return {
            "setting": setting_name(cell.setting or setting),
            "split": split,
            **{name: result.get(f"{split}_{name}", "") for name in (*METRICS, "top5", "loss")},
            "train_loss": result["train_loss"],
            **{name: result["subset"][name] for name in _SUBSET},
            f"{split}_images": result[f"{split}_images"],
            **_about(result),
        }

    def _pretrained(self, result):
        return {**{k: result[k] for k in _PRETRAINED if k in result}, **_about(result)}

    def _probe(self, network, folder):
        found, start = {}, time.time()
        for count in self._experiment.probe_images:
            result = evaluate_pretrained(
                network,
                os.path.join(folder, str(count)),
                data_dir=self._data.get("data_dir", ""),
                train_images=count,
            )
            for kind, values in result["probes"].items():
                if isinstance(values, dict):
                    for name, value in values.items():
                        found[f"{kind}_{name}_{count}"] = value
        return {**found, "seconds": round(time.time() - start, 1)}

    def _keep_predictions(self, cell):
        """Puts a final cell's labels and predictions beside the table, where they may be kept."""
        found = read_predictions(self._folder(cell))
        if cell.kind == "final" and found is not None:
            folder = os.path.join(self._workdir, "predictions")
            tf.io.gfile.makedirs(folder)
            # Small, since a table may rest on hundreds of them.
            kept = {name: found[name].astype(np.int32) for name in ("labels", "predictions")}
            path = os.path.join(folder, cell.name.replace("/", "-") + ".npz")
            write_atomically(path, pack_arrays(kept))

    def _write(self, cell, row):
        row = {
            "cell": cell.name,
            "kind": cell.kind,
            "recipe": cell.recipe,
            "pretraining": cell.pretraining,
            "task": cell.task,
            "seed": cell.seed,
            "network": self._network(cell),
            "config": self._experiment.fingerprint(cell),
            "status": "finished",
            "machine": _machine(),
            **row,
        }
        tf.io.gfile.makedirs(self._folder(cell))
        write_atomically(os.path.join(self._folder(cell), "row.json"), json.dumps(row, indent=1))
        self._write_table()

    def _write_table(self):
        path = os.path.join(self._workdir, rows.TABLE)
        order = {cell.name: i for i, cell in enumerate(self._cells)}
        table = sorted(self._rows(), key=lambda row: order.get(row["cell"], len(order)))
        tf.io.gfile.makedirs(self._workdir)
        rows.write_table(path, table)

    def _rows(self):
        """All rows that there are, of all shards and earlier machines."""
        found = []
        for cell in self._cells:
            row = read_json(self._folder(cell), "row.json")
            if row is not None:
                found.append(rows.check(row, os.path.join(self._folder(cell), "row.json")))
        return rows.merge(rows.read_table(os.path.join(self._workdir, rows.TABLE)), found)

    def _is_done(self, cell, rows_before):
        """Whether a cell has a row.

        A pretrained network is made again if it is lost, and cells that need it are left.
        """
        if cell.name not in rows_before or cell.kind != "pretrain":
            return cell.name in rows_before
        left = [c for c in self._cells if c.unit == cell.unit and c.name not in rows_before]
        folder = self._folder(cell)
        return not left or any(read_json(folder, f) for f in ("result.json", "row.json"))

    def _network(self, cell):
        """Names the weights of the pretrained network; another machine would get others."""
        if not cell.network:
            return ""
        folder = os.path.join(self._path(cell.network), "checkpoints", "*", "manifest.json")
        manifests = sorted(tf.io.gfile.glob(folder))
        return sha256(manifests[-1])[:12] if manifests else ""

    def _gflop(self, cell):
        config = self._experiment.config(cell)
        if cell.kind == "probe":
            return 0.0
        return gflop_per_image(config) * config.train.batch_size * config.train.steps

    def _folder(self, cell):
        """The work directory of a cell."""
        return self._path(cell.name)

    def _path(self, name):
        return os.path.join(self._workdir, "cells", *name.split("/"))


def _in_order(cells):
    """Puts each pretraining right before the first of the cells that take its network.

    In the plan it may come long before: the others may have been done on another machine.
    """
    use = {}
    for number, cell in enumerate(cells):
        if cell.kind != "pretrain":
            use.setdefault(cell.network, number - 0.5)
    at = {
        cell.name: use.get(cell.network, number) if cell.kind == "pretrain" else number
        for number, cell in enumerate(cells)
    }
    return sorted(cells, key=lambda cell: at[cell.name])


def _about(result):
    return {
        "steps": result["steps"],
        "seconds": result["seconds"],
        "hardware": result["hardware"],
        "tensorflow": result["versions"]["tensorflow"],
        "git_commit": result["versions"]["git_commit"] or "",
    }


def _machine() -> str:
    """The processor, since weights depend on it."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model n")]
    except OSError:  # not Linux
        names = []
    return f"{len(names)} x {names[0]}" if names else platform.machine()
