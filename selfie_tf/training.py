"""From a config to a trained model: build, resume, fit, save, show."""

import io
import json
import logging
import math
import os
import signal
import subprocess
import threading
import time

import numpy as np
import tensorflow as tf
import tf_keras as keras

import selfie_tf
from selfie_tf import distribute, figures, losses
from selfie_tf.checkpoints import Checkpointer, write_atomically
from selfie_tf.config import Config, from_dict
from selfie_tf.data.pipeline import held_out_batches, training_batches
from selfie_tf.data.sources import Rows, make_source
from selfie_tf.errors import Interrupted, UserError
from selfie_tf.models.selfie import SelfiePretrainer
from selfie_tf.optimizers import make_optimizer, warmup_cosine
from selfie_tf.workdir import WorkDir

_LAST_STEPS = 50  # result.json's training metrics are means over the last so many steps
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


def compile_pretrainer(config: Config, model: SelfiePretrainer, steps_per_execution: int) -> None:
    """Gives the model its optimizer, whose variables exist afterwards."""
    optimizer = config.optimizer
    schedule = warmup_cosine(optimizer.learning_rate, config.train.steps, optimizer.warmup_steps)
    model.compile(
        make_optimizer(optimizer.name, schedule, optimizer.momentum),
        steps_per_execution=steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)


def load_pretrained(workdir: str) -> SelfiePretrainer:
    """Loads what a pretraining run has learnt so far.

    Args:
      workdir: of the run, finished or not.

    Returns:
      the model with the weights of the newest whole checkpoint; `.patch_network` is P,
      `.attention_pooling` is A.

    Raises:
      UserError: if there is no run or no whole checkpoint in `workdir`.
    """
    path = os.path.join(workdir, "config.json")
    if not tf.io.gfile.exists(path):
        raise UserError(f"{workdir}: no config.json in it; give the work directory of a run")
    with tf.io.gfile.GFile(path) as file:
        config = from_dict(json.load(file))
    model = build_pretrainer(config)
    compile_pretrainer(config, model, 1)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    if not Checkpointer(os.path.join(workdir, "checkpoints"), checkpoint).restore():
        raise UserError(f"{workdir}: no checkpoint in it yet")
    return model


def distributed_batches(config: Config, source, strategy, start_step: int):
    """The training batches from `start_step` on; each worker reads its own rows of every batch."""
    per_replica = distribute.per_replica_batch(strategy, config.train.batch_size)

    def dataset(context):
        count = config.train.batch_size // context.num_input_pipelines
        rows = Rows(config.train.batch_size, context.input_pipeline_id * count, count)
        return training_batches(source, config, start_step, rows, per_replica)

    return strategy.distribute_datasets_from_function(dataset)


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
      UserError: on anything that is the user's to mend, NaN or infinite loss among it.
      Interrupted: on SIGTERM or SIGINT, after saving.
    """
    config.validate()
    distribute.per_replica_batch(strategy, config.train.batch_size)
    chief = distribute.is_chief(strategy)
    directory = WorkDir(workdir, config, chief)
    try:
        result = directory.result()
        if result is not None:
            logging.info("already finished: %s", directory.join("result.json"))
            return result
        source = make_source(config, data_dir, download, remote_data)
        directory.begin(source.fingerprint)
        try:
            return _pretrain(config, directory, strategy, source, chief)
        except (OSError, tf.errors.OpError) as error:
            if source.failure is not None:  # tf.data wraps it in an error of its own
                raise source.failure from None
            if "No space left" in str(error):
                raise UserError(
                    f"--workdir={workdir}: no space left ({distribute.first_line(error)}); make "
                    "room, and the same command resumes at the last checkpoint"
                ) from error
            if isinstance(error, tf.errors.ResourceExhaustedError):
                raise UserError(
                    f"out of memory ({distribute.first_line(error)}); lower "
                    f"--config.train.batch_size={config.train.batch_size}"
                ) from error
            raise
    finally:
        directory.close()


def _pretrain(config, directory, strategy, source, chief):
    started = time.time()
    keras.mixed_precision.set_global_policy(config.train.precision)
    keras.utils.set_random_seed(config.train.seed)
    if not distribute.is_tpu(strategy) and not tf.config.list_logical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    with strategy.scope():
        model = build_pretrainer(config)
        compile_pretrainer(config, model, _steps_per_execution(config, strategy))
    weights = sum(math.prod(v.shape) for v in model.trainable_variables)
    logging.info("%s; %.2f M trainable weights", distribute.describe(strategy), weights / 1e6)
    checkpointer = Checkpointer(
        directory.join("checkpoints"),
        tf.train.Checkpoint(model=model, optimizer=model.optimizer),
        config.train.keep_checkpoints,
        chief,
    )
    step = checkpointer.restore()
    directory.rewind(step)
    if step:
        logging.info("resuming at step %d of %d", step, config.train.steps)
    held_out = HeldOut(config, source, strategy, model)
    jigsaw = Jigsaw(config, held_out, directory, chief)
    jigsaw.rewind(step)
    with Stop() as stop:
        if step < config.train.steps:
            model.fit(
                distributed_batches(config, source, strategy, step),
                steps_per_epoch=config.train.steps - step,
                epochs=1,
                verbose=0,
                callbacks=[Progress(config, directory, checkpointer, jigsaw, stop, step, strategy)],
            )
    jigsaw.draw_progress()
    points = directory.metrics()
    result = {
        **last_metrics(points, config.train.steps, _LAST_STEPS),
        "chance": 1 / config.num_targets,
        **held_out.evaluate(),
        "steps": config.train.steps,
        "trainable_weights": weights,
        "seconds": round(time.time() - started, 1),
        "resumed_at": step,
        "hardware": distribute.describe(strategy),
        "data": {
            "name": config.data.name,
            "training_images": source.num_train,
            "held_out_images": source.num_held_out,
        },
        "versions": versions(),
    }
    if chief and points:
        with tf.io.gfile.GFile(directory.join("figures", "curves.png"), "wb") as file:
            figures.draw_curves(file, points, 1 / config.num_targets)
    directory.write_result(result)
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


def last_metrics(points: list, steps: int, window: int) -> dict:
    """Means of the log points that cover at least the last `window` of `steps` steps.

    Args:
      points: dicts with `step` and `window` (the number of steps the point is a mean over).
      steps: the last step.
      window: in steps.

    Returns:
      `loss`, `patch_accuracy`, `averaged_steps` (more than `window` where a log point spans its
      beginning; the others are None if there is no log point).
    """
    chosen = [p for p in points if p["step"] > steps - window]
    if not chosen:  # metrics.jsonl was removed, the checkpoint kept
        return {"loss": None, "patch_accuracy": None, "averaged_steps": 0}
    weights = [p["window"] for p in chosen]
    return {
        **{
            key: float(np.average([p[key] for p in chosen], weights=weights))
            for key in ("loss", "patch_accuracy")
        },
        "averaged_steps": sum(weights),
    }


def versions() -> dict:
    """What the result was made with."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(selfie_tf.__file__)))

    def git(*arguments):
        try:
            command = ["git", "-C", root, *arguments]
            return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
        except (OSError, subprocess.SubprocessError):
            return None

    return {
        "selfie_tf": selfie_tf.__version__,
        "tensorflow": tf.__version__,
        "tf_keras": keras.__version__,
        "git_commit": git("rev-parse", "HEAD"),
        "git_changes": git("status", "--porcelain", "--untracked-files=no"),
    }


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

    def draw(self, step: int) -> np.ndarray:
        """Draws the picture of `step`; returns it as uint8 `[h, w, 3]` (zeros if not the chief)."""
        self._history[step] = self._held_out.logits(self._tensors).numpy().argmax(-1)
        if not self._chief:
            return np.zeros([1, 1, 3], np.uint8)
        history = {s: c.tolist() for s, c in self._history.items()}
        write_atomically(self._history_path, json.dumps(history))
        return self._write(f"jigsaw_{step:08d}.png", {step: self._history[step]})

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


class Stop:
    """Notes SIGTERM and SIGINT, so that training saves and stops at the next step.

    A second signal of the kind acts at once, as without this.
    """

    def __init__(self):
        self.signum, self._previous = None, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_):
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum, _):
        self.signum = signum
        os.write(2, b"saving at the next step, then stopping\n")
        signal.signal(signum, self._previous[signum])


class Progress(keras.callbacks.Callback):
    """Logs, saves, draws and stops, at the steps that the config says."""

    # Keeps `fit` from reading metrics at every step, for which the device would wait.
    _supports_tf_logs = True

    def __init__(self, config, directory, checkpointer, jigsaw, stop, step, strategy):
        super().__init__()
        self._config, self._directory, self._checkpointer = config, directory, checkpointer
        self._jigsaw, self._stop = jigsaw, stop
        self._chief = distribute.is_chief(strategy)
        self._workers = distribute.num_workers(strategy)
        self._start = self._saved = self._logged = step
        self._time = time.time()
        if self._chief:
            self._writer = tf.summary.create_file_writer(directory.join("tensorboard"))

    def on_train_begin(self, logs=None):
        if self._start == 0:
            self._draw(0)
        self._time = time.time()

    def on_train_batch_end(self, batch, logs=None):
        step = self._start + batch + 1
        train = self._config.train
        last = step == train.steps
        # One worker cannot save alone, so with several of them a signal just ends the process.
        stopping = self._stop.signum is not None
        if stopping and self._workers > 1:
            raise Interrupted(self._stop.signum, f"stopped at step {step}; {self._resume_hint()}")
        logs_now = step % train.log_every == 0 or last
        saves_now = step % train.checkpoint_every == 0 or last or stopping
        if logs_now or saves_now:
            # Not from `logs`, which fit has reduced over workers as if they were counts.
            values = {metric.name: float(metric.result()) for metric in self.model.metrics}
            if values["nonfinite_steps"]:
                raise UserError(
                    f"the loss or its gradient became NaN or infinite between steps "
                    f"{self._logged + 1} and {step}; try a lower --config.optimizer.learning_rate; "
                    f"{self._resume_hint()}"
                )
        if logs_now:
            self._log(step, values)
        if saves_now:
            self._checkpointer.save(step)
            self._saved = step
        if step % train.picture_every == 0 or last:
            self._draw(step)
        if stopping:
            raise Interrupted(self._stop.signum, f"stopped at step {step}; {self._resume_hint()}")

    def _resume_hint(self):
        return (
            f"the checkpoint of step {self._saved} is kept: the same command goes on from there"
            if self._saved
            else "no checkpoint yet: the same command starts over"
        )

    def _log(self, step, values):
        train, now = self._config.train, time.time()
        window = step - self._logged
        rate = window / max(now - self._time, 1e-9)
        point = {
            "step": step,
            "loss": values["loss"],
            "patch_accuracy": values["patch_accuracy"],
            "learning_rate": float(tf.convert_to_tensor(self.model.optimizer.learning_rate)),
            "l2": values["l2"],
            "gradient_norm": values["gradient_norm"],
            "images_per_second": rate * train.batch_size,
            "window": window,
        }
        self._directory.append_metrics(point)
        if self._chief:
            with self._writer.as_default(step):
                for name, value in point.items():
                    if name not in ("step", "window"):
                        tf.summary.scalar(name, value)
            self._writer.flush()
        left = (train.steps - step) / rate
        clock = time.strftime("%H:%M:%S", time.gmtime(left % 86_400))
        logging.info(
            "step %d/%d  loss %.4f  patch accuracy %.3f  lr %.4f  %.2f steps/s  %.0f images/s  "
            "%dd %s left",
            step,
            train.steps,
            point["loss"],
            point["patch_accuracy"],
            point["learning_rate"],
            rate,
            point["images_per_second"],
            left // 86_400,
            clock,
        )
        self.model.reset_metrics()
        self._logged, self._time = step, time.time()

    def _draw(self, step):
        picture = self._jigsaw.draw(step)
        if self._chief:
            with self._writer.as_default(step):
                tf.summary.image("jigsaw", picture[None])
            self._writer.flush()


def _steps_per_execution(config, strategy):
    train = config.train
    if train.steps_per_execution:
        return train.steps_per_execution
    if distribute.is_tpu(strategy):
        return math.gcd(train.log_every, train.checkpoint_every, train.picture_every)
    return 1
