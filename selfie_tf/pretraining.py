"""Pretraining: from a config to a trained Selfie or PatchFormer, and back from disk."""

import io
import json
import logging

import numpy as np
import tensorflow as tf
import tf_keras as keras

from selfie_tf import distribute, jigsaw, reconstruction
from selfie_tf.checkpoints import write_atomically
from selfie_tf.config import PretrainConfig
from selfie_tf.data.pipeline import held_out_batches, training_batches
from selfie_tf.data.sources import make_source
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

TASKS = {"selfie": jigsaw, "patchformer": reconstruction}
_NUM_PICTURES = 6


def build_pretrainer(config: PretrainConfig) -> keras.Model:
    """Makes the model with all its weights; call it in the strategy's scope."""
    return TASKS[config.method].build(config)


def load_pretrained(path: str) -> keras.Model:
    """Loads what a pretraining run has learnt so far.

    Args:
      path: work directory of the run, finished or not, or an export of it.

    Returns:
      the model, a `SelfiePretrainer` or `PatchFormerPretrainer`, with the weights of the newest
      whole checkpoint; `.patch_network` is P, `.attention_pooling` what pools P's vectors.

    Raises:
      UserError: if there is neither in `path`, no whole checkpoint, or a damaged export.
    """
    return load_pretraining_run(path).model


def load_pretraining_run(path: str) -> LoadedRun:
    """As `load_pretrained`, with all that is known of the run."""
    return load_run(path, PretrainConfig, lambda config, _: build_pretrainer(config))


def pretrain(
    config: PretrainConfig,
    workdir: str,
    strategy: tf.distribute.Strategy,
    data_dir: str = "",
    download: bool = False,
    remote_data: bool = False,
) -> dict:
    """Pretrains `config` in `workdir`, or goes on where an earlier run of it stopped.

    Args:
      config: a `config.Config` (Selfie) or `config.PatchFormerConfig`.
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
    task = TASKS[config.method]
    prepare(config, strategy)
    with strategy.scope():
        model = build_pretrainer(config)
        compile_model(config, model, steps_per_execution(config, strategy))
    chief = distribute.is_chief(strategy)
    loop = Loop(config, model, strategy, directory)
    directory.begin(source.fingerprint)
    logits = answers(strategy, model)
    pictures = Pictures(config, source, logits, directory, chief)
    pictures.rewind(loop.step)
    loop.fit(
        lambda step, rows, size: training_batches(source, config, step, rows, size),
        [Visit(config.train.picture_every, pictures.draw, at_start=True)],
    )
    pictures.draw_progress()
    points = directory.points("metrics.jsonl")
    trained = last_metrics(points, ("loss", task.ACCURACY), config.train.steps)
    held_out = task.evaluate(config, source, logits)
    result = {
        **task.result(trained, held_out),
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
            task.draw_curves(file, points, result)
    accuracy = trained[task.ACCURACY]
    logging.info(
        "finished: %s %s over the last %d steps; %s; see %s and %s",
        task.ACCURACY.replace("_", " "),
        "unknown" if accuracy is None else f"{accuracy:.3f}",
        trained["averaged_steps"],
        task.describe(held_out),
        directory.join("result.json"),
        directory.join("figures"),
    )
    return result


def answers(strategy, model):
    """batch -> the model's logits, at inference.

    Every replica answers the same batch and the first answer is taken: right under any strategy,
    since `training.Progress` gives all replicas the same moving statistics before; and cheap beside
    training.
    """

    @tf.function(autograph=False)
    def logits(batch):
        per_replica = strategy.run(lambda x: model(x, training=False), args=(batch,))
        return strategy.experimental_local_results(per_replica)[0]

    return logits


class Pictures:
    """The same held-out images with the model's answers at every picture step."""

    def __init__(self, config, source, logits, directory, chief):
        self._config, self._task, self._logits = config, TASKS[config.method], logits
        self._directory, self._chief = directory, chief
        self._history_path = directory.join("figures", f"{self._task.NAME}.json")
        batches = held_out_batches(
            source, config, _NUM_PICTURES, _NUM_PICTURES, self._task.PICTURE_CROPPED
        )
        self._tensors = next(iter(batches))
        self._batch = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        self._history = {}

    def rewind(self, step: int) -> None:
        """Takes up the answers of the steps that a resumed run won't repeat."""
        try:
            with tf.io.gfile.GFile(self._history_path) as file:
                saved = json.load(file)
            history = {int(s): np.array(a) for s, a in saved.items() if int(s) <= step}
        except (tf.errors.OpError, ValueError, AttributeError):
            return  # pictures never stop a run
        shape = self._batch[self._task.TRUTH].shape
        self._history = {s: a for s, a in history.items() if a.shape == shape}

    def draw(self, step: int, writer) -> None:
        """Draws the picture of `step`, also for TensorBoard; `writer` is None if not the chief."""
        self._history[step] = self._logits(self._tensors).numpy().argmax(-1)
        if writer is None:
            return
        history = {s: a.tolist() for s, a in self._history.items()}
        write_atomically(self._history_path, json.dumps(history))
        name = self._task.NAME
        picture = self._write(f"{name}_{step:08d}.png", {step: self._history[step]})
        with writer.as_default(step):
            tf.summary.image(name, picture[None])
        writer.flush()

    def draw_progress(self) -> None:
        """Draws all picture steps side by side, at most six of them, spread evenly in log(step)."""
        if not self._chief or not self._history:
            return
        steps = sorted(self._history)
        places = np.geomspace(1, len(steps), min(6, len(steps)))
        chosen = sorted({steps[round(place) - 1] for place in places})
        self._write(f"{self._task.NAME}.png", {step: self._history[step] for step in chosen})

    def _write(self, name, answers_at):
        buffer = io.BytesIO()
        self._task.draw(buffer, self._config, self._batch, answers_at)
        with tf.io.gfile.GFile(self._directory.join("figures", name), "wb") as file:
            file.write(buffer.getvalue())
        return tf.io.decode_png(buffer.getvalue(), channels=3).numpy()
