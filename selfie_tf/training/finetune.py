"""Finetuning: from a pretrained network and few labels to a classifier (section 2.3)."""

import hashlib
import io
import json
import logging

import numpy as np
import tensorflow as tf

from selfie_tf import figures
from selfie_tf.config import FinetuneConfig
from selfie_tf.data import make_source
from selfie_tf.data.pipeline import labelled_batches
from selfie_tf.data.subsets import labelled_source
from selfie_tf.training.build import build_classifier, compile_model, num_weights
from selfie_tf.training.evaluator import ClassifierEvaluator
from selfie_tf.training.initialise import initialise_classifier, take_network
from selfie_tf.training.loop import Hook, Trainer, last_metrics, write_scalars
from selfie_tf.training.report import leave_report
from selfie_tf.training.run import Run


def finetune(
    config: FinetuneConfig,
    workdir: str,
    strategy: tf.distribute.Strategy | None = None,
    data_dir: str = "",
    download: bool = False,
    remote_data: bool = False,
    began: float | None = None,
) -> dict:
    """Trains a classifier in `workdir`, or resumes an earlier run of it.

    Args:
      config: See `config.FinetuneConfig`.
      workdir: The folder of this run alone; docs/GUIDE.md says what it holds afterwards.
      strategy: See `distribution.strategy.make_strategy`; by default the current one.
      data_dir, download, remote_data: See `data.make_source`.
      began: When the command began, for the log; see `training.run.Run`.

    Returns:
      The contents of result.json.

    Raises:
      UserError: On anything that the user can mend, see `training.run.Run`.
      Interrupted: On SIGTERM or SIGINT, after saving.
    """
    config = take_network(config, workdir)
    with Run(config, workdir, strategy or tf.distribute.get_strategy(), began) as run:
        if run.result is not None:
            leave_report(run, data_dir)
            return run.result
        images = make_source(config.data, data_dir, download, remote_data)
        source, subset = labelled_source(images, config.data)
        if subset["ids"] != "all":  # a subset file may change as the images may
            digest = hashlib.sha256(json.dumps(subset).encode()).hexdigest()
            source.fingerprint = f"{source.fingerprint}#{digest}"
        run.use(source)
        run.prepare()
        with run.strategy.scope():
            model = build_classifier(config, len(source.class_names))
            compile_model(config, model, run.steps_per_execution)
        trainer = Trainer(run, model)
        if trainer.step:
            unknown = {"from": config.init_from, "step": None, "config": None}
            initialisation = run.directory.read_json("initialisation.json") or unknown
        else:
            with run.strategy.scope():
                initialisation = initialise_classifier(config, model)
        run.begin()
        run.directory.write_json("initialisation.json", initialisation)
        run.directory.write_json("subset.json", subset)
        evaluation = _Evaluation(run, model)
        trainer.fit(
            lambda step, shard, size: labelled_batches(source, config, step, shard, size),
            [Hook(config.train.eval_every, evaluation)],
        )
        if not evaluation.latest:  # killed after the last checkpoint, before result.json
            evaluation.measure()
        points = run.directory.points("metrics.jsonl")
        means = last_metrics(points, ("loss", "top1"), config.train.steps)
        split = evaluation.split
        result = {
            **evaluation.latest,
            "train_loss": means["loss"],
            "train_top1": means["top1"],
            "averaged_steps": means["averaged_steps"],
            f"{split}_images": source.num_held_out,
            "classes": len(source.class_names),
            "initialisation": {k: initialisation[k] for k in ("from", "step", "config")},
            "subset": {
                "labelled_images": subset["images"],
                "trained_on": source.num_train,
                "label_fraction": config.data.label_fraction,
                "labels_per_class": config.data.labels_per_class,
                "subset_file": config.data.subset_file,
                "subset_seed": config.data.subset_seed,
                "validation_fraction": config.data.validation_fraction,
            },
            "trainable_weights": num_weights(model),
            "resumed_at": trainer.resumed_at,
            "data": {"name": config.data.name, "training_images": source.num_train},
        }
        if run.is_chief and points:
            buffer = io.BytesIO()
            evaluations = run.directory.points("evaluations.jsonl")
            figures.draw_finetuning(buffer, [("", points, evaluations)], split)
            with tf.io.gfile.GFile(run.directory.join("figures", "curves.png"), "wb") as file:
                file.write(buffer.getvalue())
        ids = np.array(subset["validation_ids"] or images.held_out_ids(), str)
        run.directory.write_arrays("predictions.npz", ids=ids, **evaluation.predictions)
        path = run.directory.join("result.json")
        logging.info("finished: %s; see %s", describe_metrics(result), path)
        result = run.finish(result)
        leave_report(run, data_dir, source)
        return result


class _Evaluation:
    """The hook that evaluates the classifier.

    Attributes:
      split: "test", or "validation" where the run holds out some of its labelled images.
      latest: The metrics that it found last.
      predictions: The `labels` and `predictions` that these are of, int64 `[N]`, and the
        `probabilities` of the predicted classes, float32 `[N]`, in the order of the held-out
        images.
    """

    def __init__(self, run, model):
        self._directory = run.directory
        self._evaluator = ClassifierEvaluator(run.config, run.source, run.strategy, model)
        self.split = "validation" if run.config.data.validation_fraction else "test"
        self.latest, self.predictions = {}, {}

    def measure(self):
        metrics, *arrays = self._evaluator.run_with_predictions()
        names = ("labels", "predictions", "probabilities")
        self.predictions = dict(zip(names, arrays, strict=True))
        self.latest = {f"{self.split}_{name}": value for name, value in metrics.items()}

    def __call__(self, step, writer):
        self.measure()
        point = {"step": step, **self.latest}
        self._directory.append("evaluations.jsonl", point)
        logging.info("step %d  %s", step, describe_metrics(point))
        write_scalars(writer, step, point)


def describe_metrics(values: dict) -> str:
    """The losses and accuracies among `values` in a log line, without those of training."""
    kinds = ("loss", "top1", "top5")
    chosen = {k: v for k, v in values.items() if k.endswith(kinds) and not k.startswith("train")}
    return "  ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in chosen.items())
