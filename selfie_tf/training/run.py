"""A run in its work directory: the lock, what it began with, errors, result.json."""

import json
import logging
import math
import os
import subprocess
import time
import zlib

import tensorflow as tf
import tf_keras as keras

import selfie_tf
from selfie_tf.config import to_dict
from selfie_tf.data import check_batch_size
from selfie_tf.data.source import BatchShard
from selfie_tf.distribution import strategy as distribution
from selfie_tf.errors import UserError, first_line
from selfie_tf.storage.workdir import WorkDir
from selfie_tf.training.startup import StartUp

REPORT = "report.html"
_LOST_WORKER = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


class Run:
    """One pretraining or finetuning run, as a context manager.

        with Run(config, workdir, strategy) as run:
            if run.result is not None:
                return run.result  # it has finished before
            run.use(source)
            ...
            return run.finish(metrics)

    Inside, the work directory is locked, and errors of the system become a `UserError` that says
    what to do.

    Args:
      config: A `config.RunConfig`.
      workdir: The folder of this run alone; docs/GUIDE.md says what it holds.
      strategy: See `distribution.strategy.make_strategy`.
      began: When the command began, in seconds since the epoch, if it made this run alone.

    Attributes:
      directory: The open `storage.workdir.WorkDir`.
      result: The contents of result.json if the run has finished, else None.
      source: Where images come from; see `use`.
      is_chief: Whether this process writes the work directory.
      startup: The `training.startup.StartUp` of the run.

    Raises:
      UserError: On anything that the user can mend: a config that cannot work, a work directory of
        another run, a full disk, lost workers, too little memory.
    """

    def __init__(self, config, workdir: str, strategy: tf.distribute.Strategy, began=None):
        self.startup = StartUp(began)
        if began is not None:
            self.startup.end("imports")
        self.config, self.workdir, self.strategy = config, workdir, strategy
        self.is_chief = distribution.is_chief(strategy)
        self.directory = self.result = self.source = self._started = None

    def __enter__(self):
        self.config.validate()
        distribution.per_replica_batch(self.strategy, self.config.train.batch_size)
        self.directory = WorkDir(self.workdir, self.config, self.is_chief)
        try:
            self.result = self.directory.result()
        except UserError:
            self.directory.close()
            raise
        if self.result is not None:
            logging.info("already finished: %s", self.directory.join("result.json"))
        return self

    def __exit__(self, kind, error, traceback):
        self.directory.close()
        if not isinstance(error, OSError | tf.errors.OpError):
            return
        if self.source is not None and self.source.failure is not None:
            raise self.source.failure from None  # tf.data wraps it in an error of its own
        explanation = self._explain(error)
        if explanation is not None:
            raise UserError(explanation) from error

    def use(self, source) -> None:
        """Takes the images of `source`, see `data.make_source`.

        Raises:
          UserError: If they are fewer than a batch, or workers differ in their images or configs.
        """
        check_batch_size(self.config, source)
        self.source, self._started = source, time.time()
        self._check_workers_agree()
        self.startup.end("data")

    def prepare(self) -> None:
        """Sets precision, seeds and determinism; call it before the model is built."""
        keras.mixed_precision.set_global_policy(self.config.train.precision)
        make_deterministic(self.config, self.strategy)

    def begin(self) -> None:
        """Ties the work directory to the config and the images.

        Call it once nothing in the config can be wrong any more, so that a mistake leaves the
        folder free.

        Raises:
          UserError: If the run began with other images.
        """
        self.directory.begin(self.source.fingerprint)
        self.startup.end("model")

    def finish(self, result: dict) -> dict:
        """Writes result.json: `result`, and what all runs record. Returns its contents."""
        result = {
            **result,
            "steps": self.config.train.steps,
            "seconds": round(time.time() - self._started, 1),
            "hardware": distribution.describe(self.strategy),
            "versions": versions(),
        }
        # A report made while the run went on would pass for the finished run's.
        self.directory.remove(REPORT)
        self.directory.write_result(result)
        return result

    def distribute(self, make_dataset):
        """See the function of this name."""
        return distribute(self.config, self.strategy, make_dataset)

    @property
    def steps_per_execution(self) -> int:
        """`train.steps_per_execution`, or what suits the hardware."""
        train = self.config.train
        if train.steps_per_execution:
            return train.steps_per_execution
        return math.gcd(*train.intervals.values()) if distribution.is_tpu(self.strategy) else 1

    def _check_workers_agree(self):
        """Checks before anything is written: workers that differ would train on, and wrongly."""
        same = {
            "configs: start all of them with the same command": json.dumps(to_dict(self.config)),
            f"images in data.name={self.config.data.name}: give all of them the same files": (
                self.source.fingerprint
            ),
        }
        for what, value in same.items():
            found = distribution.gather(self.strategy, zlib.crc32(value.encode()))
            if len(set(found)) > 1:
                raise UserError(f"the workers have different {what}")

    def _explain(self, error):
        """What the user can do about an error of the system; None if that is not known."""
        line = first_line(error)
        if "No space left" in str(error):
            return (
                f"--workdir={self.workdir}: no space left ({line}); make room, and the same "
                "command resumes at the last checkpoint"
            )
        tpu = distribution.is_tpu(self.strategy)
        workers = distribution.num_workers(self.strategy) > 1
        if (tpu or workers) and isinstance(error, _LOST_WORKER):
            return (
                f"{'the TPU' if tpu else 'another worker'} was lost, or storage ({line}); give the "
                f"same command again{'' if tpu else ', for all workers'}: it resumes at the last "
                "checkpoint"
            )
        if isinstance(error, tf.errors.DataLossError | tf.errors.NotFoundError):
            name = self.config.data.name
            prepare = name.startswith("tfds:")
            return (
                f"a file is damaged or lost, probably of data.name={name} ({line}); bring it back"
                f"{', or remove that dataset and prepare it again' if prepare else ''}: the same "
                "command resumes"
            )
        if isinstance(error, tf.errors.ResourceExhaustedError):
            size = self.config.train.batch_size
            return f"out of memory ({line}); lower --config.train.batch_size={size}"
        return None


def make_deterministic(config, strategy: tf.distribute.Strategy) -> bool:
    """Sets the seeds, and on CPUs TensorFlow's op determinism, for good: returns whether it is on.

    tf.data then runs an input in one thread if one of its functions keeps state.
    """
    keras.utils.set_random_seed(config.train.seed)
    if distribution.is_tpu(strategy) or tf.config.list_logical_devices("GPU"):
        return False
    tf.config.experimental.enable_op_determinism()
    return True


def distribute(config, strategy: tf.distribute.Strategy, make_dataset):
    """Makes a dataset of global batches, of which each worker reads its own rows.

    Args:
      config: For the batch size.
      strategy: See `distribution.strategy.make_strategy`.
      make_dataset: (shard, batch size per replica) -> dataset, see `data.pipeline`.
    """
    per_replica = distribution.per_replica_batch(strategy, config.train.batch_size)

    def dataset(context):
        count = config.train.batch_size // context.num_input_pipelines
        first = context.input_pipeline_id * count
        return make_dataset(BatchShard(config.train.batch_size, first, count), per_replica)

    return strategy.distribute_datasets_from_function(dataset)


def versions() -> dict:
    """The software that a result was made with."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(selfie_tf.__file__)))

    def git(*arguments):
        if not os.path.exists(os.path.join(root, ".git")):  # installed, maybe into a repository
            return None
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
