#!/usr/bin/env python
"""Measures the speed of a config on this machine, as JSON: input, train step, and both.

    python bin/benchmark.py --config=configs/selfie_cifar10.py --data_dir=...

In float32 and mixed_bfloat16, beside the rate of large matrix products measured in the same run.
"""

import json
import os
import sys

import _main
from absl import flags

from selfie_tf.config import PretrainConfig

_main.define_config("selfie_cifar10.py", PretrainConfig)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step (the config's is not used).")
SECONDS = flags.DEFINE_float("seconds", 20.0, "Length of each of the measurements.")


def main():
    from selfie_tf.benchmark import benchmark

    config = _main.CONFIG.value
    config.train.batch_size = BATCH_SIZE.value
    config.validate()
    print(
        json.dumps(
            benchmark(config, os.path.expanduser(_main.DATA_DIR.value), SECONDS.value), indent=2
        )
    )


if __name__ == "__main__":
    _main.run(main, log_stream=sys.stderr)  # stdout is JSON alone
