"""Measures the speed of a config on this machine.

    selfie-tf benchmark --config=selfie_cifar10 --data_dir=...
    selfie-tf benchmark --config=finetune_cifar10 --data_dir=... --compare=before.json

Measures the input pipeline stage by stage, the training step, and both together, in float32 and
mixed_bfloat16; the rate of large matrix products in the same run; and the time and memory that the
first steps of a run take. Prints a table on a terminal, and JSON to a file or with --json.

    selfie-tf benchmark --config=selfie_cifar10 --profile=runs/profile

Lists the operations that a training step spends its time in, and leaves a trace for TensorBoard.

    selfie-tf benchmark --virtual_devices=1,2,4 --workers=1,2

Measures what distribution costs: the training step alone, with one global batch divided over N
replicas of one process, and over N TF_CONFIG processes, as ratios to one replica.
"""

import json
import logging
import math
import os
import sys

from absl import flags

from selfie_tf.cli.common import Arguments, Command, define_data_dir, ends_on_sigterm
from selfie_tf.config import PretrainConfig, RunConfig, flatten
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_integer(
        "batch_size", 64, "Images per step; train.batch_size is not used.", flag_values=values
    )
    flags.DEFINE_float(
        "seconds",
        20.0,
        "Seconds per measurement, at least; short ones take a quarter.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "profile",
        "",
        "Instead, profile a few training steps, with the trace in this folder.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "compare",
        "",
        "JSON of an earlier benchmark: adds the ratio of each number to its number.",
        flag_values=values,
    )
    flags.DEFINE_bool("json", False, "Print JSON, on a terminal, too.", flag_values=values)
    flags.DEFINE_list(
        "virtual_devices", [], "Instead, numbers of replicas in one process.", flag_values=values
    )
    flags.DEFINE_list(
        "workers", [], "Instead, numbers of processes of one replica each.", flag_values=values
    )
    define_data_dir(values)


def run(arguments: Arguments) -> None:
    """Measures, and prints a table or JSON."""
    values, config = arguments.flags, arguments.config
    if not 0 < values.seconds < math.inf:
        raise UserError(f"--seconds={values.seconds}: expected more than 0, and no infinity")
    if values.batch_size < 1:
        raise UserError(f"--batch_size={values.batch_size}: expected at least 1")
    given = config.explicit_keys() - {"data.name", "train.batch_size"}
    config.train.batch_size = values.batch_size
    config.validate()
    devices, workers = _numbers(values, "virtual_devices"), _numbers(values, "workers")
    if (devices or workers) and values.profile:
        raise UserError("--profile excludes --virtual_devices and --workers: drop one")
    if (devices or workers) and not isinstance(config, PretrainConfig):
        raise UserError(
            f"--config={arguments.config_name} is a finetuning config; --virtual_devices and "
            "--workers take a pretraining config"
        )
    with ends_on_sigterm():
        from selfie_tf.benchmarks import report

        if devices or workers:
            config.data.name = "builtin:shapes"
        about = {"config": arguments.config_name, "data": config.data.name}
        changes = [f"{key}={value}" for key, value in flatten(config).items() if key in given]
        about["changes"] = " ".join(changes) or "none"
        old = report.read(os.path.expanduser(values.compare)) if values.compare else None
        for name, value in {**about, "batch_size": values.batch_size}.items():
            if old is not None and old.get(name, value) != value:
                logging.warning(
                    "--compare=%s has measured %s %s, this run measures %s: the ratios compare "
                    "different things",
                    *(values.compare, name.replace("_", " "), old[name], value),
                )
        try:
            result = _measure(values, config, devices, workers)
        except UserError as error:
            message = str(error).replace("--config.train.batch_size", "--batch_size")
            raise UserError(message) from error
    result = {**about, **result}
    ratios = report.compare(result, old) if old is not None else None
    if values.json or not sys.stdout.isatty():
        print(json.dumps(result if ratios is None else {**result, "ratios": ratios}, indent=2))
        return
    print(report.table(result, ratios))
    if ratios is not None:
        print(f"In brackets: the ratio to the number in {values.compare}.")


def _measure(values, config, devices, workers):
    data_dir = os.path.expanduser(values.data_dir)
    if devices or workers:
        from selfie_tf.benchmarks.replicas import scaling

        return scaling(config, values.seconds, devices, workers)
    from selfie_tf.benchmarks import speed

    if values.profile:
        return speed.profile_step(config, data_dir, os.path.expanduser(values.profile))
    return speed.benchmark(config, data_dir, values.seconds)


def _numbers(values, name):
    try:
        numbers = [int(value) for value in values[name].value]
        if min(numbers, default=1) < 1:
            raise ValueError
        return numbers
    except ValueError:
        given = ",".join(values[name].value)
        raise UserError(f"--{name}={given}: expected numbers from 1, such as 1,2,4") from None


COMMAND = Command(
    "benchmark", __doc__, define, run, RunConfig, "selfie_cifar10", logs_to_stderr=True
)
