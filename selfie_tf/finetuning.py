"""Finetuning: from a config and few labels to a trained classifier (section 2.3)."""

import hashlib
import io
import json
import logging
import os

import tensorflow as tf

from selfie_tf import distribute, figures
from selfie_tf.config import FinetuneConfig
from selfie_tf.data.pipeline import labelled_batches, test_batches
from selfie_tf.data.sources import check_batch, make_source
from selfie_tf.data.subsets import labelled_source
from selfie_tf.errors import UserError
from selfie_tf.losses import classification_loss, top_k
from selfie_tf.models.classifier import (
    TOP5_FROM,
    Classifier,
    ImageClassifier,
    load_pretrained_weights,
)
from selfie_tf.models.patchformer import PatchFormerClassifier
from selfie_tf.pretraining import load_pretraining_run
from selfie_tf.training import (
    LoadedRun,
    Loop,
    Visit,
    compile_model,
    distributed,
    last_metrics,
    load_run,
    num_weights,
    prepare,
    run_in_workdir,
    steps_per_execution,
)


def build_classifier(config: FinetuneConfig, num_classes: int) -> ImageClassifier:
    """Makes the model with all its weights; call it in the strategy's scope."""
    model = config.model
    arguments = {
        "image_size": config.data.image_size,
        "label_smoothing": model.label_smoothing,
        **config.network_arguments,
    }
    if model.head == "patchformer":
        mask_ratio = config.patches.mask_ratio
        classifier = PatchFormerClassifier(num_classes, mask_ratio=mask_ratio, **arguments)
    else:
        classifier = Classifier(
            num_classes, head=model.head, patch_by_patch=model.patch_by_patch, **arguments
        )
    classifier.build()
    return classifier


def load_finetuned(path: str) -> ImageClassifier:
    """Loads the classifier of a finetuning run, finished or not, or of an export of it.

    Raises:
      UserError: see `training.load_run`.
    """
    return load_finetuning_run(path).model


def load_finetuning_run(path: str) -> LoadedRun:
    """As `load_finetuned`, with all that is known of the run."""
    return load_run(
        path, FinetuneConfig, lambda config, names: build_classifier(config, len(names))
    )


def finetune(
    config: FinetuneConfig,
    workdir: str,
    strategy: tf.distribute.Strategy,
    data_dir: str = "",
    download: bool = False,
    remote_data: bool = False,
) -> dict:
    """Trains a classifier in `workdir`, or goes on where an earlier run of it stopped.

    Args:
      config: see `config.FinetuneConfig`.
      workdir: of this run alone; see the README for what it holds afterwards.
      strategy: see `distribute.make_strategy`.
      data_dir, download, remote_data: see `data.sources.make_source`.

    Returns:
      the contents of result.json.

    Raises:
      UserError, Interrupted: see `training.run_in_workdir`.
    """
    subset = {}

    def open_source():
        whole = make_source(config, data_dir, download, remote_data)
        source, chosen = labelled_source(whole, config.data)
        subset.update(chosen)
        if chosen["ids"] != "all":  # a subset file may change as the images may
            digest = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()
            source.fingerprint = f"{source.fingerprint}#{digest}"
        check_batch(config, source)
        return source

    def body(directory, source):
        return _finetune(config, directory, strategy, source, subset)

    return run_in_workdir(config, workdir, strategy, open_source, body)


def _finetune(config, directory, strategy, source, subset):
    prepare(config, strategy)
    with strategy.scope():
        model = build_classifier(config, len(source.class_names))
        compile_model(config, model, steps_per_execution(config, strategy))
    loop = Loop(config, model, strategy, directory)
    if loop.step:
        unknown = {"from": config.init_from, "step": None, "config": None}
        initialisation = directory.read_json("initialisation.json") or unknown
    else:
        with strategy.scope():
            initialisation = _initialise(config, model)
    directory.begin(source.fingerprint)
    directory.write_json("initialisation.json", initialisation)
    directory.write_json("subset.json", subset)
    split = "validation" if config.data.validation_fraction else "test"
    evaluation = Evaluation(config, source, strategy, model, split)

    latest = {}

    def evaluate(step, writer):
        latest.update(evaluation.run())
        point = {"step": step, **latest}
        directory.append("evaluations.jsonl", point)
        logging.info("step %d  %s", step, describe(point))
        if writer is not None:
            with writer.as_default(step):
                for name, value in point.items():
                    if name != "step":
                        tf.summary.scalar(name, value)
            writer.flush()

    loop.fit(
        lambda step, rows, size: labelled_batches(source, config, step, rows, size),
        [Visit(config.train.eval_every, evaluate)],
    )
    if not latest:  # killed after the last checkpoint, before result.json
        latest.update(evaluation.run())
    points = directory.points("metrics.jsonl")
    means = last_metrics(points, ("loss", "top1"), config.train.steps)
    result = {
        **latest,
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
        "resumed_at": loop.resumed_at,
        "data": {"name": config.data.name, "training_images": source.num_train},
    }
    if distribute.is_chief(strategy) and points:
        buffer = io.BytesIO()
        evaluations = directory.points("evaluations.jsonl")
        figures.draw_finetuning(buffer, [("", points, evaluations)], split)
        with tf.io.gfile.GFile(directory.join("figures", "curves.png"), "wb") as file:
            file.write(buffer.getvalue())
    logging.info("finished: %s; see %s", describe(result), directory.join("result.json"))
    return result


def describe(values: dict) -> str:
    """The losses and accuracies among `values`, for a log line."""
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


class Evaluation:
    """Loss, top-1 and (from 20 classes up) top-5 accuracy on all held-out images.

    Every image counts once, under any strategy.

    Args:
      config: a `config.FinetuneConfig`.
      source: whose held-out images are evaluated.
      strategy, model: the model was built in the strategy's scope.
      split: "test" or "validation", for the keys.
    """

    def __init__(self, config, source, strategy, model, split):
        self._config, self._source, self._strategy, self._split = config, source, strategy, split
        self._names = ["loss", "top1"] + ["top5"] * (model.num_classes >= TOP5_FROM)

        def sums(images, labels):
            logits = model(images, training=False)
            values = [classification_loss(logits, labels), top_k(logits, labels, 1)]
            if "top5" in self._names:
                values.append(top_k(logits, labels, 5))
            values.append(tf.cast(labels >= 0, tf.float32))
            return tf.stack([tf.reduce_sum(tf.cast(v, tf.float32)) for v in values])

        @tf.function(autograph=False)
        def step(images, labels):
            return strategy.reduce("SUM", strategy.run(sums, args=(images, labels)), axis=None)

        self._step = step

    def run(self) -> dict:
        """{"test_loss": ..., "test_top1": ..., ...}; accuracies are in [0, 1].

        Raises:
          UserError: if images have no label.
        """
        batches = distributed(
            self._config,
            self._strategy,
            lambda rows, size: test_batches(self._source, self._config, rows, size),
        )
        total = 0.0
        for images, labels in batches:
            total = total + tf.cast(self._step(images, labels), tf.float64).numpy()
        count = total[-1]
        if count != self._source.num_held_out:
            raise UserError(
                f"data.test_split={self._config.data.test_split}: {count:.0f} of "
                f"{self._source.num_held_out} held-out images of {self._config.data.name} have a "
                "label; give a split that has labels"
            )
        return {
            f"{self._split}_{name}": float(value / count)
            for name, value in zip(self._names, total, strict=False)
        }
