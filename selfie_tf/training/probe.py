"""Is it working? What the features tell of a few labelled images while they are learnt."""

import logging

import numpy as np

from selfie_tf.data.probing import open_probe, read_probe
from selfie_tf.errors import UserError
from selfie_tf.training.features import (
    NEIGHBOURS,
    compute,
    effective_rank,
    knn_accuracy,
    linear_probe_accuracy,
    spread,
)
from selfie_tf.training.loop import write_scalars

_BATCH_SIZE = 128
_LEAST_RANK = 2.0
# The cosine of two images is then 0.9999 on average. Untrained networks were at 0.05 and more.
_LEAST_SPREAD = 0.01


class Probe:
    """Measures the features of labelled images, and changes nothing in training.

    The images are read at once, so that a mistake shows before training.

    Args:
      run: An open `training.run.Run`, with its source.
      data_dir, download, remote: See `data.make_source`.

    Raises:
      UserError: If there are no such images, or a resumed run began with others.
    """

    def __init__(self, run, data_dir: str = "", download: bool = False, remote: bool = False):
        self._directory, config = run.directory, run.config
        self._start = "at step 0" if config.init_from else "untrained"
        self._features = self._images = None
        source = open_probe(config, run.source, data_dir, download, remote)
        before = run.directory.read_json("probe.json")
        if before is not None and before.get("fingerprint") != source.fingerprint:
            raise UserError(
                f"data.probe={config.data.probe} holds other images than --workdir={run.workdir} "
                "began with; use another --workdir, or bring back the same files to resume"
            )
        self._about = {
            "data": config.data.probe or config.data.name,
            "classes": len(source.class_names),
            "fingerprint": source.fingerprint,
        }
        if run.is_chief:
            self._images = read_probe(config, source)
            self._about["training_images"] = len(self._images.train)
            self._about["test_images"] = len(self._images.test)

    def begin(self, features) -> None:
        """Notes what is probed, once nothing in the config can be wrong any more.

        Args:
          features: A function from images, uint8 `[B, S, S, 3]`, to features `[B, D]`.
        """
        self._features = features
        self._directory.write_json("probe.json", self._about)

    def __call__(self, step: int, writer) -> None:
        """Measures the features of `step`, see `training.loop.Hook`."""
        if writer is None:  # not the chief
            return
        train, test = (
            compute(self._features, x, _BATCH_SIZE) for x in (self._images.train, self._images.test)
        )
        if not (np.isfinite(train).all() and np.isfinite(test).all()):
            logging.warning("probe at step %d: features are NaN or infinite", step)
            return
        both = np.concatenate([train, test])
        labels = self._images.train_labels, self._images.test_labels
        # No more votes than a class has images, or others would always win.
        votes = max(1, min(NEIGHBOURS, len(train) // self._about["classes"]))
        point = {
            "step": step,
            "knn_top1": knn_accuracy(train, labels[0], test, labels[1], votes),
            "linear_probe_top1": linear_probe_accuracy(train, labels[0], test, labels[1]),
            "effective_rank": effective_rank(both),
            "spread": spread(both),
        }
        self._directory.append("probes.jsonl", point)
        write_scalars(writer, step, {f"probe/{k}": v for k, v in point.items() if k != "step"})
        self._report(point, both.shape[1])

    def result(self) -> dict:
        """What was found last, and at step 0, for result.json."""
        points = {point["step"]: point for point in self._directory.points("probes.jsonl")}
        last = points[max(points)] if points else None
        return {**self._about, "last": last, "at_step_0": points.get(0)}

    def _report(self, point, dim):
        step = point["step"]
        points = self._directory.points("probes.jsonl")
        first = next((p for p in points if p["step"] == 0 < step), None)

        def share(name):
            before = f" ({self._start} {100 * first[name]:.1f} %)" if first else ""
            return f"{100 * point[name]:.1f} %{before}"

        logging.info(
            "probe at step %d: %s of %d images by their nearest neighbours, %s by a linear probe, "
            "effective rank %.0f of %d",
            step,
            share("knn_top1"),
            len(self._images.test),
            share("linear_probe_top1"),
            point["effective_rank"],
            dim,
        )
        alike = min(_LEAST_SPREAD, first["spread"] / 2 if first else 1)
        if step and (point["effective_rank"] < _LEAST_RANK or point["spread"] < alike):
            logging.warning(
                "probe at step %d: the features have collapsed, images look alike to the network "
                "(effective rank %.1f of %d, spread %.4f of 1); if it lasts, start again with a "
                "lower --config.optimizer.learning_rate or more --config.optimizer.warmup_steps",
                step,
                point["effective_rank"],
                dim,
                point["spread"],
            )
