"""The training loop: resuming, logging, hooks, checkpoints, signals."""

import dataclasses
import logging
import os
import signal
import threading
import time
import typing

import numpy as np
import psutil
import tensorflow as tf
import tf_keras as keras

from selfie_tf import optimizers
from selfie_tf.distribution import strategy as distribution
from selfie_tf.errors import DivergedError, Interrupted, UserError
from selfie_tf.storage.checkpoints import Checkpointer
from selfie_tf.training.build import num_weights
from selfie_tf.training.progress import ProgressLog
from selfie_tf.training.waiting import input_clock

_LAST_STEPS = 50  # result.json's training metrics are means over the last 50 steps


@dataclasses.dataclass
class Hook:
    """Something to do every `every` steps and at the end; it must not change what is trained.

    Attributes:
      every: Steps between two calls.
      call: (step, TensorBoard writer or None in a process that writes nothing) -> None.
      at_start: Whether to call it before the first step, too.
    """

    every: int
    call: typing.Callable
    at_start: bool = False


class Trainer:
    """Fits a model, from where an earlier run in the work directory stopped.

    Args:
      run: An open `training.run.Run`.
      model: Compiled, built under the run's strategy; its metrics are logged.

    Attributes:
      step: Where the run stands.
      resumed_at: Where it stood at the start.

    Raises:
      UserError: If the checkpoints are damaged, of another model, or differ between workers.
    """

    def __init__(self, run, model: keras.Model):
        self._run, self._model = run, model
        self._checkpointer = Checkpointer(
            run.directory.join("checkpoints"),
            tf.train.Checkpoint(model=model, optimizer=model.optimizer),
            run.config.train.keep_checkpoints,
            "" if run.is_chief else f"scratch-{distribution.worker_name(run.strategy)}",
        )
        hardware, count = distribution.describe(run.strategy), num_weights(model)
        logging.info("%s; %.2f M trainable weights", hardware, count / 1e6)
        self.step = self.resumed_at = self._checkpointer.restore()
        steps = distribution.gather(run.strategy, self.step)
        if len(set(steps)) > 1:
            raise UserError(
                f"the workers' checkpoints are of different steps {steps}: --workdir="
                f"{run.workdir} must be a folder that all of them share"
            )
        if self.step:
            logging.info("resuming at step %d of %d", self.step, run.config.train.steps)

    def fit(self, make_dataset, hooks: list) -> None:
        """Trains to the last step.

        Args:
          make_dataset: (first step, shard, batch size per replica) -> dataset.
          hooks: `Hook`s, called in order.

        Raises:
          DivergedError: On a loss that is NaN or infinite.
          Interrupted: On SIGTERM or SIGINT, after saving.
        """
        run, first = self._run, self.step
        run.directory.rewind(first)
        if first == run.config.train.steps:
            return
        alone = distribution.num_workers(run.strategy) == 1
        with SignalGuard("saving, then stopping" if alone else "stopping, without saving") as guard:
            clock = input_clock(run, self._model)
            callback = TrainingCallback(run, self._checkpointer, hooks, guard, first, clock)
            try:
                self._model.fit(
                    run.distribute(lambda shard, size: make_dataset(first, shard, size)),
                    steps_per_epoch=run.config.train.steps - first,
                    epochs=1,
                    verbose=0,
                    callbacks=[callback],
                )
            finally:
                callback.close()
            if guard.signum is not None:  # in the last step's hooks; an experiment would go on
                callback.stop(run.config.train.steps)
        self.step = run.config.train.steps


class SignalGuard:
    """Notes SIGTERM and SIGINT, so that training stops after the current step.

    A second signal of the same kind acts at once, as it would without this.

    Args:
      message: What will be done, as a line for stderr.

    Attributes:
      signum: The signal's number; None as long as there was none.
    """

    def __init__(self, message: str):
        self.signum, self._message, self._previous = None, message, {}

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
        os.write(2, f"{self._message}\n".encode())
        signal.signal(signum, self._previous[signum])


class TrainingCallback(keras.callbacks.Callback):
    """Logs, calls the hooks, saves and stops, at the steps that the config says.

    Args:
      run: An open `training.run.Run`.
      checkpointer: Saves the model and its optimizer. It has restored the checkpoint of `step`.
      hooks: `Hook`s, called in order.
      guard: A `SignalGuard`.
      step: Where the run stands.
      clock: The `training.waiting.InputClock` of the model's steps, or None.
    """

    # Keeps `fit` from reading metrics at every step, for which the device would wait.
    _supports_tf_logs = True

    def __init__(self, run, checkpointer, hooks, guard, step, clock=None):
        super().__init__()
        self._run, self._checkpointer, self._hooks, self._guard = run, checkpointer, hooks, guard
        self._start = self._saved = self._timed = step
        self._clock = clock
        self._logged = checkpointer.notes.get("logged", step)
        self._time = time.time()
        self._average = self._metrics = self._writer = self._progress = None
        if run.is_chief:
            self._writer = tf.summary.create_file_writer(run.directory.join("tensorboard"))

    def on_train_begin(self, logs=None):
        variables = self.model.non_trainable_variables
        self._average = distribution.averager(self._run.strategy, variables)
        self._average()  # changes nothing yet; if it fails, it fails before hours of training
        metrics = [v for metric in self.model.metrics for v in metric.variables]
        self._metrics = distribution.ReplicaValues(self._run.strategy, metrics)
        self._metrics.read()  # for the same reason
        if self._start == 0:
            for hook in self._hooks:
                if hook.at_start:
                    hook.call(0, self._writer)
                    self._run.startup.end("pictures")
        shown = [m.name for m in (self.model.accuracy_metric, *self.model.more_metrics)]
        self._progress = ProgressLog(self._run.config.train.steps, self._start, shown)
        self._time = time.time()

    def on_epoch_begin(self, epoch, logs=None):
        # `fit` has just reset the metrics, but the log point to come averages all steps since the
        # last one, also those before the checkpoint.
        if "metrics" in self._checkpointer.notes:
            self._metrics.write(self._checkpointer.notes["metrics"])

    def on_train_batch_end(self, batch, logs=None):
        if self._clock is not None:
            self._clock.end(batch + 1)
        if "first step" not in self._run.startup.parts:
            self.model.metrics[0].result().numpy()  # a device may still be at work
            self._run.startup.end("first step")
            self._run.startup.report()
        step = self._start + batch + 1
        train = self._run.config.train
        last = step == train.steps
        # One worker cannot save alone, so with several of them a signal just ends the process.
        stopping = self._guard.signum is not None
        if stopping and distribution.num_workers(self._run.strategy) > 1:
            self.stop(step)
        logs_now = step % train.log_every == 0 or last
        saves_now = step % train.checkpoint_every == 0 or last or stopping
        if logs_now or saves_now:
            # Not from `logs`, which fit has reduced over workers as if they were counts.
            values = {metric.name: float(metric.result()) for metric in self.model.metrics}
            if values["nonfinite_steps"]:
                raise DivergedError(
                    f"the loss or its gradient became NaN or infinite between steps "
                    f"{self._logged + 1} and {step}; try a lower --config.optimizer.learning_rate; "
                    f"{self._resume_hint()}"
                )
        self._progress.advance(step)
        if logs_now:
            self._log(step, values)
        hooks = [hook for hook in self._hooks if step % hook.every == 0 or last]
        if hooks or saves_now:
            self._average()  # what is measured is what is saved
        # Before saving: a run that is killed in between calls them again.
        for hook in hooks:
            hook.call(step, self._writer)
        if saves_now:
            notes = {"logged": self._logged, "metrics": self._metrics.read().tolist()}
            self._checkpointer.save(step, notes)
            self._saved = step
        if stopping:
            self.stop(step)

    def close(self) -> None:
        """Leaves the terminal as it was; also after an error."""
        if self._progress is not None:
            self._progress.close()

    def stop(self, step: int) -> None:
        """Raises `Interrupted` by the signal that has come."""
        message = f"stopped at step {step}; {self._resume_hint()}"
        raise Interrupted(self._guard.signum, message)

    def _resume_hint(self):
        if self._saved:
            return f"the checkpoint of step {self._saved} is kept: the same command resumes there"
        return "no checkpoint yet: the same command starts over"

    def _log(self, step, values):
        train, now = self._run.config.train, time.time()
        rate = (step - self._timed) / max(now - self._time, 1e-9)
        point = {
            "step": step,
            **{name: value for name, value in values.items() if name != "nonfinite_steps"},
            "learning_rate": optimizers.current_learning_rate(self.model.optimizer),
            "images_per_second": rate * train.batch_size,
            "memory_mb": psutil.Process().memory_info().rss / 1e6,
            "window": step - self._logged,
        }
        self._run.directory.append("metrics.jsonl", point)
        write_scalars(self._writer, step, {k: v for k, v in point.items() if k != "window"})
        self._progress.report(point, rate)
        self.model.reset_metrics()
        self._logged = self._timed = step
        self._time = time.time()


def write_scalars(writer, step: int, values: dict) -> None:
    """Writes numbers for TensorBoard.

    Args:
      writer: TensorBoard's; None writes nothing.
      step: The step of the values.
      values: {name: number}; `step` among them is left out.
    """
    if writer is None:
        return
    with writer.as_default(step):
        for name, value in values.items():
            if name != "step":
                tf.summary.scalar(name, value)
    writer.flush()


def last_metrics(points: list, names, steps: int, window: int = _LAST_STEPS) -> dict:
    """Averages training metrics over the end of a run.

    Args:
      points: Log points with `step` and `window`, the number of steps that a point averages.
      names: Names of the metrics.
      steps: The last step.
      window: How many steps to average over, at least.

    Returns:
      The means by name, and `averaged_steps`, which is more than `window` if a log point spans
      its beginning. Without log points the means are None.
    """
    chosen = [p for p in points if p["step"] > steps - window]
    if not chosen:  # metrics.jsonl was removed, the checkpoint kept
        return {**dict.fromkeys(names), "averaged_steps": 0}
    weights = [p["window"] for p in chosen]
    return {
        **{name: float(np.average([p[name] for p in chosen], weights=weights)) for name in names},
        "averaged_steps": sum(weights),
    }


def make_predict_fn(strategy: tf.distribute.Strategy, model: typing.Callable):
    """Makes a function from a batch to the outputs of a model, or of its method, at inference.

    Every replica predicts the same batch, and the outputs of the first are returned. That is right
    under any strategy, because `TrainingCallback` gives all replicas the same moving statistics
    beforehand, and it is cheap beside training.
    """

    @tf.function(autograph=False)
    def predict(batch):
        per_replica = strategy.run(lambda x: model(x, training=False), args=(batch,))
        return strategy.experimental_local_results(per_replica)[0]

    return predict
