"""The first steps of a run, in a process of its own: when they come, and what memory they take."""

import contextlib
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile

import tensorflow as tf

from selfie_tf.benchmarks.replicas import ROOT, failure
from selfie_tf.benchmarks.workload import Workload
from selfie_tf.config import RunConfig, to_dict
from selfie_tf.distribution.strategy import make_strategy
from selfie_tf.errors import UserError
from selfie_tf.methods import read_config
from selfie_tf.training.loop import Hook, Trainer
from selfie_tf.training.run import Run
from selfie_tf.training.startup import process_start

_STEPS = 5  # memory no longer grows


def measure(config: RunConfig, precision: str, data_dir: str) -> dict:
    """Takes the first steps of a run in a new process, as `pretrain` or `finetune` would.

    Args:
      config: A config of pretraining or finetuning.
      precision: Instead of the config's `train.precision`.
      data_dir: See `data.make_source`.

    Returns:
      A dict for JSON: `startup_seconds`, from the start of the process to the end of the first step
      and what it is made of; `peak_memory_mb`, the process's peak resident set size; and with GPUs
      `peak_device_memory_mb`, that of the fullest. MB are 10^6 bytes.

    Raises:
      UserError: If the process fails.
    """
    config = copy.deepcopy(config)
    config.train.precision = precision
    task = json.dumps({"config": to_dict(config), "data_dir": data_dir})
    command = [sys.executable, "-m", "selfie_tf.benchmarks.first_steps", task]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    environment.pop("TF_CONFIG", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.splitlines()
        raise UserError(failure(done.returncode, lines, f"taking first steps in {precision}"))
    return json.loads(done.stdout.splitlines()[-1])


class _EnoughSteps(Exception):
    pass


def take(config: RunConfig, data_dir: str, began: float | None = None) -> dict:
    """Takes the first steps in this process; see `measure`."""

    def stop(step, _):
        if step >= _STEPS:
            raise _EnoughSteps

    with tempfile.TemporaryDirectory() as workdir:
        with (
            contextlib.suppress(_EnoughSteps),
            Run(config, workdir, make_strategy(), began) as run,
        ):
            workload = Workload(config, data_dir)
            run.use(workload.source)
            run.prepare()
            with run.strategy.scope():
                model = workload.build(run.steps_per_execution)
            trainer = Trainer(run, model)
            run.begin()
            trainer.fit(workload.batches, [Hook(1, stop)])
    parts = {name.replace(" ", "_"): seconds for name, seconds in run.startup.parts.items()}
    found = {
        "startup_seconds": {**parts, "sum": sum(parts.values())},
        "peak_memory_mb": _peak_memory() / 1e6,
    }
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        peaks = [tf.config.experimental.get_memory_info(gpu.name)["peak"] for gpu in gpus]
        found["peak_device_memory_mb"] = max(peaks) / 1e6
    return found


def _peak_memory():
    """The peak resident set size of this process in bytes."""
    try:
        # Not ru_maxrss, which begins with that of the process that started this one.
        with open("/proc/self/status") as file:
            (line,) = (line for line in file if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    given, code = json.loads(sys.argv[1]), 0
    try:
        measured = take(read_config(given["config"]), given["data_dir"], process_start())
        print(json.dumps(measured), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 1
    os._exit(code)
