"""What every kind of run shares: the work directory, resuming, fitting, logging, stopping."""

import dataclasses
import json
import logging
import math
import os
import signal
import subprocess
import threading
import time
import typing
import zlib

import numpy as np
import tensorflow as tf
import tf_keras as keras

import selfie_tf
from selfie_tf import distribute, optimizers, savedmodel
from selfie_tf.checkpoints import Checkpointer
from selfie_tf.config import FinetuneConfig, PretrainConfig, from_dict, to_dict
from selfie_tf.data.sources import Rows
from selfie_tf.errors import Interrupted, UserError
from selfie_tf.workdir import WorkDir, read_json

_OF_LOST_WORKERS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
_LAST_STEPS = 50  # result.json's training metrics are means over the last so many steps


def run_in_workdir(config, workdir: str, strategy, open_source, body) -> dict:
    """Runs `body`, or returns the result of a run that has finished.

    Args:
      config: a `config.PretrainConfig` or `config.FinetuneConfig`.
      workdir: of this run alone; see the README for what it holds afterwards.
      strategy: see `distribute.make_strategy`.
      open_source: () -> where images come from, see `data.sources.make_source`.
      body: (directory, source) -> the contents of result.json. It calls `directory.begin` once
        nothing in the config can be wrong any more.

    Returns:
      the contents of result.json.

    Raises:
      UserError: on anything that is the user's to mend, NaN or infinite loss among it.
      Interrupted: on SIGTERM or SIGINT, after saving.
    """
    config.validate()
    distribute.per_replica_batch(strategy, config.train.batch_size)
    directory = WorkDir(workdir, config, distribute.is_chief(strategy))
    try:
        result = directory.result()
        if result is not None:
            logging.info("already finished: %s", directory.join("result.json"))
            return result
        source = open_source()
        started = time.time()
        try:
            _check_workers_agree(config, strategy, source)
            result = body(directory, source)
        except (OSError, tf.errors.OpError) as error:
            if source.failure is not None:  # tf.data wraps it in an error of its own
                raise source.failure from None
            explanation = _explain(error, config, workdir, strategy)
            if explanation is None:
                raise
            raise UserError(explanation) from error
        result = {
            **result,
            "steps": config.train.steps,
            "seconds": round(time.time() - started, 1),
            "hardware": distribute.describe(strategy),
            "versions": versions(),
        }
        directory.write_result(result)
        return result
    finally:
        directory.close()


def _check_workers_agree(config, strategy, source):
    """Before anything of the run is written. Workers that differ would train on, and wrongly."""
    same = {
        "configs: start all of them with the same command": json.dumps(to_dict(config)),
        f"images in data.name={config.data.name}: give all of them the very same files": (
            source.fingerprint
        ),
    }
    for what, value in same.items():
        if len(set(distribute.gather(strategy, zlib.crc32(value.encode())))) > 1:
            raise UserError(f"the workers have different {what}")


def _explain(error, config, workdir, strategy):
    """What the user can do about an error of the system's; None if that is not known."""
    line = distribute.first_line(error)
    if "No space left" in str(error):
        return (
            f"--workdir={workdir}: no space left ({line}); make room, and the same command resumes "
            "at the last checkpoint"
        )
    tpu, workers = distribute.is_tpu(strategy), distribute.num_workers(strategy) > 1
    if (tpu or workers) and isinstance(error, _OF_LOST_WORKERS):
        return (
            f"{'the TPU' if tpu else 'another worker'} was lost, or storage ({line}); give the "
            f"same command again{'' if tpu else ', for all workers'}: it goes on at the last "
            "checkpoint"
        )
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return f"out of memory ({line}); lower --config.train.batch_size={config.train.batch_size}"
    return None


def prepare(config, strategy) -> None:
    """Sets precision, seeds and determinism; call it before the model is built."""
    keras.mixed_precision.set_global_policy(config.train.precision)
    keras.utils.set_random_seed(config.train.seed)
    if not distribute.is_tpu(strategy) and not tf.config.list_logical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


def compile_model(config, model: keras.Model, steps_per_execution: int) -> None:
    """Gives the model its optimizer, whose variables exist afterwards."""
    optimizer = config.optimizer
    schedule = optimizers.warmup_cosine(
        optimizer.learning_rate, config.train.steps, optimizer.warmup_steps
    )
    model.compile(
        optimizers.make_optimizer(
            optimizer.name,
            schedule,
            optimizer.momentum,
            optimizer.weight_decay,
            optimizer.beta_1,
            optimizer.beta_2,
            optimizer.epsilon,
        ),
        steps_per_execution=steps_per_execution,
    )
    optimizers.build(model.optimizer, model.trainable_variables)


def steps_per_execution(config, strategy) -> int:
    """`train.steps_per_execution`, or what suits the hardware."""
    train = config.train
    if train.steps_per_execution:
        return train.steps_per_execution
    return math.gcd(*train.intervals.values()) if distribute.is_tpu(strategy) else 1


def num_weights(model: keras.Model) -> int:
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def distributed(config, strategy, make_dataset):
    """A dataset of global batches, of which each worker reads its own rows.

    Args:
      config: for the batch size.
      strategy: see `distribute.make_strategy`.
      make_dataset: (rows, batch size a replica) -> dataset, see `data.pipeline`.
    """
    per_replica = distribute.per_replica_batch(strategy, config.train.batch_size)

    def dataset(context):
        count = config.train.batch_size // context.num_input_pipelines
        first = context.input_pipeline_id * count
        return make_dataset(Rows(config.train.batch_size, first, count), per_replica)

    return strategy.distribute_datasets_from_function(dataset)


@dataclasses.dataclass
class LoadedRun:
    """A model from disk; `origin` is a line that says where it is from.

    `fingerprint` is that of the images it was trained on, see `data.sources.IndexedSource`.
    """

    model: keras.Model
    config: typing.Any
    class_names: tuple
    step: int
    origin: str
    fingerprint: str

    def check_images(self, source) -> None:
        """Raises UserError if the run's images have changed, and with them the held-out ones."""
        if self.fingerprint.partition("#")[0] not in ("", source.fingerprint):
            raise UserError(
                f"data.name={self.config.data.name} holds other images than the run was trained "
                "on, so held-out images may have been trained on; bring back the very files, or "
                "give others with --data_name"
            )


def load_run(path: str, kind: type, build) -> LoadedRun:
    """Loads the model of a run from its work directory, or from an export of it.

    Args:
      path: of either.
      kind: `config.PretrainConfig` or `config.FinetuneConfig`: what the run must be.
      build: (config, class names) -> model.

    Returns:
      the run; its model is compiled and in float32 (float64 if the run was).

    Raises:
      UserError: if there is no such thing in `path`, or it is of the other kind or damaged.
    """
    info = savedmodel.read_info(path)
    config = _config(path, info)
    if not isinstance(config, kind):
        found, wanted = ("finetuning", "pretraining")[:: 1 if kind is PretrainConfig else -1]
        raise UserError(f"{path} is of a {found} run; give one of a {wanted} run")
    about = info if info is not None else read_json(path, "subset.json") or {}
    class_names = about.get("class_names", ())
    if kind is FinetuneConfig and not class_names:
        raise UserError(f"{path}: no class names: its subset.json is lost; bring it back")
    data = info if info is not None else read_json(path, "data.json") or {}
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(
        "float64" if config.train.precision == "float64" else "float32"
    )
    try:
        model = build(config, class_names)
        compile_model(config, model, 1)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    if info is not None:
        savedmodel.restore(path, info, model)
        step = info["step"]
    else:
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        step = Checkpointer(os.path.join(path, "checkpoints"), checkpoint).restore()
        if not step:
            raise UserError(f"{path}: no checkpoint in it yet")
    origin = f"{path} ({config.data.name}, step {step} of {config.train.steps})"
    return LoadedRun(model, config, tuple(class_names), step, origin, data.get("fingerprint", ""))


def is_finetuning(path: str) -> bool:
    """Whether a work directory or export is of a finetuning run.

    Raises:
      UserError: if there is neither in `path`.
    """
    return isinstance(_config(path, savedmodel.read_info(path)), FinetuneConfig)


def _config(path, info):
    values = read_json(path, "config.json") if info is None else info["config"]
    if values is None:
        raise UserError(
            f"{path}: no config.json in it; give the work directory of a run, or an export"
        )
    try:
        return from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: its config cannot be used ({error})") from error


@dataclasses.dataclass
class Visit:
    """Something to do every so many steps and at the end."""

    every: int
    act: typing.Callable  # (step, TensorBoard writer or None) -> None
    at_start: bool = False


class Loop:
    """Fits a model, from where an earlier run in the work directory stopped.

    Args:
      config: of the run.
      model: compiled; its metrics are logged.
      strategy: that the model was built under.
      directory: an open `workdir.WorkDir`.

    Attributes:
      step: where the run stands.
    """

    def __init__(self, config, model, strategy, directory):
        self._config, self._model = config, model
        self._strategy, self._directory = strategy, directory
        self._checkpointer = Checkpointer(
            directory.join("checkpoints"),
            tf.train.Checkpoint(model=model, optimizer=model.optimizer),
            config.train.keep_checkpoints,
            "" if distribute.is_chief(strategy) else f"scratch-{distribute.worker_name(strategy)}",
        )
        logging.info(
            "%s; %.2f M trainable weights", distribute.describe(strategy), num_weights(model) / 1e6
        )
        self.step = self.resumed_at = self._checkpointer.restore()
        steps = distribute.gather(strategy, self.step)
        if len(set(steps)) > 1:
            raise UserError(
                f"the workers' checkpoints are of different steps {steps}: --workdir="
                f"{directory.path} must be a folder that all of them share"
            )
        if self.step:
            logging.info("resuming at step %d of %d", self.step, config.train.steps)

    def fit(self, make_dataset, visits) -> None:
        """Trains to the last step.

        Args:
          make_dataset: (first step, rows, batch size a replica) -> dataset.
          visits: `Visit`s, in order; none of them may change what is trained.
        """
        steps = self._config.train.steps
        self._directory.rewind(self.step)
        if self.step == steps:
            return
        alone = distribute.num_workers(self._strategy) == 1
        with Stop("saving, then stopping" if alone else "stopping, without saving") as stop:
            progress = Progress(
                self._config,
                self._directory,
                self._checkpointer,
                visits,
                stop,
                self.step,
                self._strategy,
            )
            self._model.fit(
                distributed(
                    self._config,
                    self._strategy,
                    lambda rows, size: make_dataset(self.step, rows, size),
                ),
                steps_per_epoch=steps - self.step,
                epochs=1,
                verbose=0,
                callbacks=[progress],
            )
        self.step = steps


def last_metrics(points: list, keys, steps: int, window: int = _LAST_STEPS) -> dict:
    """Means of the log points that cover at least the last `window` of `steps` steps.

    Args:
      points: dicts with `step` and `window` (the number of steps the point is a mean over).
      keys: of the metrics.
      steps: the last step.
      window: in steps.

    Returns:
      the keys' means and `averaged_steps` (more than `window` where a log point spans its
      beginning; the others are None if there is no log point).
    """
    chosen = [p for p in points if p["step"] > steps - window]
    if not chosen:  # metrics.jsonl was removed, the checkpoint kept
        return {**dict.fromkeys(keys), "averaged_steps": 0}
    weights = [p["window"] for p in chosen]
    return {
        **{key: float(np.average([p[key] for p in chosen], weights=weights)) for key in keys},
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


class Stop:
    """Notes SIGTERM and SIGINT, so that training stops at the next step.

    A second signal of the kind acts at once, as without this.

    Args:
      answer: a line for stderr, that says what will be done.
    """

    def __init__(self, answer: str):
        self.signum, self._answer, self._previous = None, answer, {}

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
        os.write(2, f"{self._answer}\n".encode())
        signal.signal(signum, self._previous[signum])


class Progress(keras.callbacks.Callback):
    """Logs, visits, saves and stops, at the steps that the config says."""

    # Keeps `fit` from reading metrics at every step, for which the device would wait.
    _supports_tf_logs = True

    def __init__(self, config, directory, checkpointer, visits, stop, step, strategy):
        super().__init__()
        self._config, self._directory, self._checkpointer = config, directory, checkpointer
        self._visits, self._stop = visits, stop
        self._strategy, self._average = strategy, None
        self._start = self._saved = self._logged = step
        self._time = time.time()
        self._writer = None
        if distribute.is_chief(strategy):
            self._writer = tf.summary.create_file_writer(directory.join("tensorboard"))

    def on_train_begin(self, logs=None):
        self._average = distribute.averager(self._strategy, self.model.non_trainable_variables)
        self._average()  # changes nothing yet; should it fail, then before hours of training
        if self._start == 0:
            for visit in self._visits:
                if visit.at_start:
                    visit.act(0, self._writer)
        self._time = time.time()

    def on_train_batch_end(self, batch, logs=None):
        step = self._start + batch + 1
        train = self._config.train
        last = step == train.steps
        # One worker cannot save alone, so with several of them a signal just ends the process.
        stopping = self._stop.signum is not None
        if stopping and distribute.num_workers(self._strategy) > 1:
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
        visits = [visit for visit in self._visits if step % visit.every == 0 or last]
        if visits or saves_now:
            self._average()  # what is measured is what is saved
        # Before saving: a run killed in between does them again.
        for visit in visits:
            visit.act(step, self._writer)
        if saves_now:
            self._checkpointer.save(step)
            self._saved = step
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
            **{name: value for name, value in values.items() if name != "nonfinite_steps"},
            "learning_rate": optimizers.current_learning_rate(self.model.optimizer),
            "images_per_second": rate * train.batch_size,
            "window": window,
        }
        self._directory.append("metrics.jsonl", point)
        if self._writer is not None:
            with self._writer.as_default(step):
                for name, value in point.items():
                    if name not in ("step", "window"):
                        tf.summary.scalar(name, value)
            self._writer.flush()
        accuracy = self.model.accuracy_metric.name
        left = (train.steps - step) / rate
        clock = time.strftime("%H:%M:%S", time.gmtime(left % 86_400))
        logging.info(
            "step %d/%d  loss %.4f  %s %.3f  lr %.3g  %.2f steps/s  %.0f images/s  %dd %s left",
            step,
            train.steps,
            point["loss"],
            accuracy.replace("_", " "),
            point[accuracy],
            point["learning_rate"],
            rate,
            point["images_per_second"],
            left // 86_400,
            clock,
        )
        self.model.reset_metrics()
        self._logged, self._time = step, time.time()
