"""Measures the speed of a config on this machine, and prints it as JSON.

    selfie-tf benchmark --config=selfie_cifar10 --data_dir=...

Measures the input pipeline, the training step, and both together, in float32 and mixed_bfloat16;
and the rate of large matrix products in the same run.

    selfie-tf benchmark --virtual_devices=1,2,4 --workers=1,2

Measures what distribution costs: the training step alone, with one global batch divided over N
replicas of one process, and over N TF_CONFIG processes, as ratios to one replica.
"""

import json
import os

from absl import flags

from selfie_tf.cli.common import Arguments, Command, define_data_dir, ends_on_sigterm
from selfie_tf.config import PretrainConfig
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_integer(
        "batch_size", 64, "Images per step; train.batch_size is not used.", flag_values=values
    )
    flags.DEFINE_float("seconds", 20.0, "Seconds per measurement, at least.", flag_values=values)
    flags.DEFINE_list(
        "virtual_devices", [], "Numbers of replicas in one process.", flag_values=values
    )
    flags.DEFINE_list(
        "workers", [], "Numbers of processes of one replica each.", flag_values=values
    )
    define_data_dir(values)


def run(arguments: Arguments) -> None:
    """Measures, and prints JSON."""
    values, config = arguments.flags, arguments.config
    if not values.seconds > 0:  # NaN, too
        raise UserError(f"--seconds={values.seconds}: expected more than 0")
    config.train.batch_size = values.batch_size
    config.validate()
    devices, workers = _numbers(values, "virtual_devices"), _numbers(values, "workers")
    if devices or workers:
        from selfie_tf.benchmarks.replicas import scaling

        config.data.name = "builtin:shapes"
        with ends_on_sigterm():
            result = scaling(config, values.seconds, devices, workers)
    else:
        from selfie_tf.benchmarks.speed import benchmark

        result = benchmark(config, os.path.expanduser(values.data_dir), values.seconds)
    print(json.dumps(result, indent=2))


def _numbers(values, name):
    try:
        return [int(value) for value in values[name].value]
    except ValueError:
        given = ",".join(values[name].value)
        raise UserError(f"--{name}={given}: expected numbers, such as 1,2,4") from None


COMMAND = Command(
    "benchmark", __doc__, define, run, PretrainConfig, "selfie_cifar10", logs_to_stderr=True
)
