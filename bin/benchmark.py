#!/usr/bin/env python
"""Measures the speed of a config on this machine, as JSON: input, train step, and both.

    python bin/benchmark.py --config=configs/selfie_cifar10.py --data_dir=...

In float32 and mixed_bfloat16, beside the rate of large matrix products measured in the same run.

    python bin/benchmark.py --virtual_devices=1,2,4 --workers=1,2

What distribution costs: the step alone, one global batch over so many replicas of one process, and
over so many TF_CONFIG processes, as ratios to one replica.
"""

import json
import os
import sys

import _main
from absl import flags

from selfie_tf.config import PretrainConfig
from selfie_tf.errors import UserError

_main.define_config("selfie_cifar10.py", PretrainConfig)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step (the config's is not used).")
SECONDS = flags.DEFINE_float("seconds", 20.0, "Length of each of the measurements.")
DEVICES = flags.DEFINE_list("virtual_devices", [], "Numbers of replicas in one process.")
WORKERS = flags.DEFINE_list("workers", [], "Numbers of processes of one replica.")


def main():
    config = _main.CONFIG.value
    if not SECONDS.value > 0:
        raise UserError(f"--seconds={SECONDS.value}: expected more than 0")
    config.train.batch_size = BATCH_SIZE.value
    config.validate()
    if DEVICES.value or WORKERS.value:
        from selfie_tf.benchmarks.replicas import scaling

        _main.end_on_sigterm()
        config.data.name = "builtin:shapes"
        result = scaling(config, SECONDS.value, numbers(DEVICES), numbers(WORKERS))
    else:
        from selfie_tf.benchmarks.speed import benchmark

        result = benchmark(config, os.path.expanduser(_main.DATA_DIR.value), SECONDS.value)
    print(json.dumps(result, indent=2))


def numbers(flag):
    try:
        return [int(value) for value in flag.value]
    except ValueError:
        raise UserError(f"--{flag.name}={','.join(flag.value)}: expected e.g. 1,2,4") from None


if __name__ == "__main__":
    _main.run(main, log_stream=sys.stderr)  # stdout is JSON alone
