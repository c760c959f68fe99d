"""Runs an experiment: many pretrainings and finetunings, and a table of what they give.

    selfie-tf experiment --config=experiments/quickstart --workdir=runs/experiment
    selfie-tf experiment --config=experiments/selfie_cifar10_table1 --dry_run

The same command again resumes it after any interruption. What is finished is in results.csv in the
work directory, from which another machine can continue.
"""

import os
import re

from absl import flags

from selfie_tf.cli import config_files
from selfie_tf.cli.common import Arguments, Command, define_training_flags
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "config", "experiments/quickstart", "Name or path of an experiment.", flag_values=values
    )
    define_training_flags(values)
    flags.DEFINE_string(
        "shard",
        "1/1",
        "I/N: do the I-th of N parts, on machines that share the work directory.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Only print what is left to do and what it costs. Without --workdir: the whole plan.",
        flag_values=values,
    )


def run(arguments: Arguments) -> None:
    """Runs the experiment, or prints its plan."""
    values = arguments.flags
    shard = re.fullmatch(r"(\d+)/(\d+)", values.shard)
    shard = tuple(map(int, shard.groups())) if shard else (0, 0)
    if not 1 <= shard[0] <= shard[1]:
        raise UserError(f"--shard={values.shard}: expected I/N, such as 1/2 or 2/2")
    experiment = config_files.load_experiment(values.config)
    from selfie_tf.experiments.run import ExperimentRunner

    runner = ExperimentRunner(
        experiment,
        os.path.expanduser(values.workdir),
        shard,
        data_dir=os.path.expanduser(values.data_dir),
        download=values.download,
        remote_data=values.tpu not in ("", "local"),
    )
    if values.dry_run:
        from selfie_tf.experiments.cost import describe

        print(describe(experiment, runner.todo()))
        return
    if not values.workdir:
        raise UserError("--workdir is missing: give a folder, as in --workdir=runs/experiment")
    from selfie_tf.distribution.strategy import make_strategy

    runner.run(make_strategy(values.tpu, values.virtual_devices))


COMMAND = Command("experiment", __doc__, define, run, needs_workdir=False)
