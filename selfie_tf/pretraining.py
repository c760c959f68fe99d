"""Pretraining: from a config to a trained Selfie, and back from disk."""

import io
import json
import logging

import numpy as np
import tensorflow as tf

from selfie_tf import distribute, figures, losses
from selfie_tf.checkpoints import write_atomically
from selfie_tf.config import Config
from selfie_tf.data.pipeline import held_out_batches, training_batches
from selfie_tf.data.sources import make_source
from selfie_tf.models.selfie import SelfiePretrainer
from selfie_tf.training import (
    LoadedRun,
    Loop,
    Visit,
    compile_model,
    last_metrics,
    load_run,
    num_weights,
    prepare,
    run_in_workdir,
    steps_per_execution,
)

_NUM_PICTURES = 6


def build_pretrainer(config: Config) -> SelfiePretrainer:
    """Makes the model with all its weights; call it in the strategy's scope."""
    model = config.model
    pretrainer = SelfiePretrainer(
        grid=config.grid,
        width=model.width,
        stem=model.stem,
        attention_layers=model.attention_layers,
        num_heads=model.num_heads,
        mlp_dim=model.mlp_dim,
        dropout_rate=model.dropout_rate,
        position=model.position,
        pooling=model.pooling,
        logit_scale=model.logit_scale,
        weight_decay=config.optimizer.weight_decay,
        norm_momentum=model.norm_momentum,
        norm_synchronized=model.norm_synchronized,
        seed=config.train.seed,
    )
    size = config.patches.size
    pretrainer.build({"context_patches": [None, config.num_context, size, size, 3]})
    return pretrainer


def load_pretrained(path: str) -> SelfiePretrainer:
    """Loads what a pretraining run has learnt so far.

    Args:
      path: work directory of the run, finished or not, or an export of it.

    Returns:
      the model with the weights of the newest whole checkpoint; `.patch_network` is P,
      `.attention_pooling` is A.

    Raises:
      UserError: if there is neither in `path`, no whole checkpoint, or a damaged export.
    """
    return load_pretraining_run(path).model


def load_pretraining_run(path: str) -> LoadedRun:
    """As `load_pretrained`, with all that is known of the run."""
    return load_run(path, Config, lambda config, _: build_pretrainer(config))


def pretrain(
    config: Config,
    workdir: str,
    strategy: tf.distribute.Strategy,
    data_dir: str = "",
    download: bool = False,
    remote_data: bool = False,
) -> dict:
    """Pretrains `config` in `workdir`, or goes on where an earlier run of it stopped.

    Args:
      config: see `config.Config`.
      workdir: of this run alone; see the README for what it holds afterwards.
      strategy: see `distribute.make_strategy`.
      data_dir, download, remote_data: see `data.sources.make_source`.

    Returns:
      the contents of result.json.

    Raises:
      UserError, Interrupted: see `training.run_in_workdir`.
    """

    def open_source():
        return make_source(config, data_dir, download, remote_data)

    def body(directory, source):
        return _pretrain(config, directory, strategy, source)

    return run_in_workdir(config, workdir, strategy, open_source, body)


def _pretrain(config, directory, strategy, source):
    prepare(config, strategy)
    with strategy.scope():
        model = build_pretrainer(config)
        compile_model(config, model, steps_per_execution(config, strategy))
    chief = distribute.is_chief(strategy)
    loop = Loop(config, model, strategy, directory)
    directory.begin(source.fingerprint)
    held_out = HeldOut(config, source, strategy, model)
    jigsaw = Jigsaw(config, held_out, directory, chief)
    jigsaw.rewind(loop.step)
    loop.fit(
        lambda step, rows, size: training_batches(source, config, step, rows, size),
        [Visit(config.train.picture_every, jigsaw.draw, at_start=True)],
    )
    jigsaw.draw_progress()
    points = directory.points("metrics.jsonl")
    result = {
        **last_metrics(points, ("loss", "patch_accuracy"), config.train.steps),
        "chance": 1 / config.num_targets,
        **held_out.evaluate(),
        "trainable_weights": num_weights(model),
        "resumed_at": loop.resumed_at,
        "data": {
            "name": config.data.name,
            "training_images": source.num_train,
            "held_out_images": source.num_held_out,
        },
    }
    if chief and points:
        with tf.io.gfile.GFile(directory.join("figures", "curves.png"), "wb") as file:
            figures.draw_curves(file, points, 1 / config.num_targets)
    logging.info(
        "finished: patch accuracy %s over the last %d steps; on %d held-out images %.3f cropped "
        "as in training, %.3f uncropped (chance %.3f); see %s and %s",
        "unknown" if result["patch_accuracy"] is None else f"{result['patch_accuracy']:.3f}",
        result["averaged_steps"],
        result["evaluated_images"],
        result["held_out_patch_accuracy"],
        result["held_out_patch_accuracy_uncropped"],
        result["chance"],
        directory.join("result.json"),
        directory.join("figures"),
    )
    return result


class HeldOut:
    """The model's answers on held-out images.

    Every replica answers the same batch and the first answer is taken: right under any strategy,
    and cheap beside training.
    """

    def __init__(self, config, source, strategy, model):
        self._config, self._source = config, source

        @tf.function
        def logits(batch):
            per_replica = strategy.run(lambda x: model(x, training=False), args=(batch,))
            return strategy.experimental_local_results(per_replica)[0]

        self.logits = logits

    def batch(self, count: int) -> dict:
        """The first `count` held-out images as one batch."""
        return next(iter(held_out_batches(self._source, self._config, count, count)))

    def evaluate(self) -> dict:
        """Loss and patch accuracy on held-out images, cropped as in training and uncropped.

        Both, because the paper's zero padding gives places at the edge away: the patches of cropped
        images carry a black margin, and a network may learn little else at first.
        """
        cropped, uncropped = self._evaluate(True), self._evaluate(False)
        return {
            "held_out_loss": cropped[0],
            "held_out_patch_accuracy": cropped[1],
            "held_out_patch_accuracy_uncropped": uncropped[1],
            "evaluated_images": cropped[2],
        }

    def _evaluate(self, crop):
        config = self._config
        all_losses, accuracies = [], []
        for batch in held_out_batches(
            self._source, config, config.train.batch_size, config.data.eval_images, crop
        ):
            logits = self.logits(batch)
            all_losses.append(losses.patch_classification_loss(logits).numpy())
            accuracies.append(losses.patch_accuracy(logits).numpy())
        all_losses, accuracies = np.concatenate(all_losses), np.concatenate(accuracies)
        return float(np.mean(all_losses)), float(np.mean(accuracies)), len(accuracies)


class Jigsaw:
    """The same held-out images with the model's choices at every picture step."""

    def __init__(self, config, held_out, directory, chief):
        self._config, self._held_out, self._chief = config, held_out, chief
        self._directory = directory
        self._history_path = directory.join("figures", "jigsaw.json")
        self._tensors = held_out.batch(_NUM_PICTURES)
        self._batch = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        self._history = {}

    def rewind(self, step: int) -> None:
        """Takes up the choices of the steps that a resumed run won't repeat."""
        try:
            with tf.io.gfile.GFile(self._history_path) as file:
                saved = json.load(file)
            history = {int(s): np.array(c) for s, c in saved.items() if int(s) <= step}
        except (tf.errors.OpError, ValueError, AttributeError):
            return  # pictures never stop a run
        shape = self._batch["target_positions"].shape
        self._history = {s: c for s, c in history.items() if c.shape == shape}

    def draw(self, step: int, writer) -> None:
        """Draws the picture of `step`, also for TensorBoard; `writer` is None if not the chief."""
        self._history[step] = self._held_out.logits(self._tensors).numpy().argmax(-1)
        if writer is None:
            return
        history = {s: c.tolist() for s, c in self._history.items()}
        write_atomically(self._history_path, json.dumps(history))
        picture = self._write(f"jigsaw_{step:08d}.png", {step: self._history[step]})
        with writer.as_default(step):
            tf.summary.image("jigsaw", picture[None])
        writer.flush()

    def draw_progress(self) -> None:
        """Draws all picture steps side by side, at most six of them, spread evenly in log(step)."""
        if not self._chief or not self._history:
            return
        steps = sorted(self._history)
        places = np.geomspace(1, len(steps), min(6, len(steps)))
        chosen = sorted({steps[round(place) - 1] for place in places})
        self._write("jigsaw.png", {step: self._history[step] for step in chosen})

    def _write(self, name, choices_at):
        buffer = io.BytesIO()
        figures.draw_jigsaw(buffer, self._batch, choices_at, self._config.grid)
        with tf.io.gfile.GFile(self._directory.join("figures", name), "wb") as file:
            file.write(buffer.getvalue())
        return tf.io.decode_png(buffer.getvalue(), channels=3).numpy()
