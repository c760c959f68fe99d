"""Finetuning: from a pretrained network and few labels to a classifier (section 2.3)."""

import hashlib
import io
import json
import logging
import os

import tensorflow as tf

from selfie_tf import figures
from selfie_tf.config import FinetuneConfig
from selfie_tf.data import make_source
from selfie_tf.data.pipeline import labelled_batches
from selfie_tf.data.subsets import labelled_source
from selfie_tf.errors import UserError
from selfie_tf.models.classifier import load_pretrained_weights
from selfie_tf.training.build import build_classifier, compile_model, num_weights
from selfie_tf.training.evaluator import ClassifierEvaluator
from selfie_tf.training.load import load_pretraining_run
from selfie_tf.training.loop import Hook, Trainer, last_metrics, write_scalars
from selfie_tf.training.run import Run


def finetune(
    config: FinetuneConfig,
    workdir: str,
    strategy: tf.distribute.Strategy | None = None,
    data_dir: str = "",
    download: bool = False,
    remote_data: bool = False,
) -> dict:
    """Trains a classifier in `workdir`, or resumes an earlier run of it.

    Args:
      config: See `config.FinetuneConfig`.
      workdir: The folder of this run alone; docs/GUIDE.md says what it holds afterwards.
      strategy: See `distribution.strategy.make_strategy`; by default the current one.
      data_dir, download, remote_data: See `data.make_source`.

    Returns:
      The contents of result.json.

    Raises:
      UserError: On anything that the user can mend, see `training.run.Run`.
      Interrupted: On SIGTERM or SIGINT, after saving.
    """
    with Run(config, workdir, strategy or tf.distribute.get_strategy()) as run:
        if run.result is not None:
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
                initialisation = _initialise(config, model)
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
        path = run.directory.join("result.json")
        logging.info("finished: %s; see %s", describe_metrics(result), path)
        return run.finish(result)


class _Evaluation:
    """The hook that evaluates the classifier; `latest` holds what it found last."""

    def __init__(self, run, model):
        self._directory = run.directory
        self._evaluator = ClassifierEvaluator(run.config, run.source, run.strategy, model)
        self.split = "validation" if run.config.data.validation_fraction else "test"
        self.latest = {}

    def measure(self):
        metrics = self._evaluator.run()
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


def _initialise(config, model) -> dict:
    """Loads what `init_from` asks for; returns the contents of initialisation.json."""
    if not config.init_from:
        logging.info("initialisation: all weights are random (the supervised baseline)")
        return {"from": "", "step": 0, "config": None}
    pretrained = load_pretraining_run(os.path.expanduser(config.init_from))
    origin = f"init_from={config.init_from}"
    used = load_pretrained_weights(model, pretrained.model, origin)
    theirs = pretrained.config
    if config.has_attention and theirs.model.num_heads != config.model.num_heads:
        # No tensor shows it.
        raise UserError(
            f"{origin} does not fit: model.num_heads is {theirs.model.num_heads} there and "
            f"{config.model.num_heads} here; give --config.model.num_heads={theirs.model.num_heads}"
        )
    logging.info("initialisation: loaded from %s: %s", pretrained.origin, _parts(used["loaded"]))
    if config.model.head == "patchformer" and theirs.patches.size != config.patches.size:
        logging.warning(
            "  patches were %d pixels a side in pretraining and are %d here",
            theirs.patches.size,
            config.patches.size,
        )
    logging.info("  left fresh: %s", _parts(used["fresh"]))
    if used["unused"]:
        logging.info("  of no use here: %s", _parts(used["unused"]))
    return {
        "from": config.init_from,
        "step": pretrained.step,
        "config": {
            "method": theirs.method,
            "data": theirs.data.name,
            "crop": theirs.data.crop,
            "steps": theirs.train.steps,
        },
        **used,
    }


_DEEP = ("backbone/", "attention_pooling/", "patch_network/", "transformer/")


def _parts(names) -> str:
    """Names of tensors, summed up by layer: "backbone/group1 (42), head (2)"."""
    counts = {}
    for name in names:
        depth = 2 if name.startswith(_DEEP) else 1
        part = "/".join(name.split("/")[:depth])
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{part} ({count})" for part, count in counts.items())
