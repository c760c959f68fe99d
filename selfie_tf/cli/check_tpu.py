"""Compiles a config's training step for a TPU, without a TPU, and says whether it fits.

    selfie-tf check-tpu --config=selfie_cifar10 --topology=v3:2x2 \\
        --config.train.precision=mixed_bfloat16

Needs requirements/aot.txt; `make check-tpu` makes an environment with it. Exits with 0 if the step
compiles, 1 if a compiler rejects it, and 3 if it contains what a step on a TPU should not.
"""

import json
import logging
import os
import sys
import textwrap

from absl import flags

from selfie_tf.cli.common import Arguments, Command, ends_on_sigterm
from selfie_tf.config import RunConfig
from selfie_tf.errors import UserError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_list(
        "topology",
        ["v3:2x2"],
        "Chips and their grids: v2:2x2, v3:2x2, v4:2x2x1, v5e:2x4, v6e:2x4, ...",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_per_core",
        0,
        "Images per core and step; 0: train.batch_size divided by the cores.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "largest", False, "Search for the largest batch per core that fits.", flag_values=values
    )
    flags.DEFINE_integer("num_classes", 1000, "Finetuning: number of classes.", flag_values=values)
    flags.DEFINE_string(
        "json", "", "File to write the measurements to; empty: none.", flag_values=values
    )


def run(arguments: Arguments) -> int:
    """Checks each topology and prints a table; returns the exit code."""
    with ends_on_sigterm():
        from selfie_tf.benchmarks.tpu import check

        values, config = arguments.flags, arguments.config
        path = os.path.abspath(os.path.expanduser(values.json)) if values.json else ""
        if path and (os.path.isdir(path) or not os.path.isdir(os.path.dirname(path))):
            raise UserError(f"--json={values.json}: expected a file in a folder that exists")
        if not values.topology:
            raise UserError("--topology is empty: expected e.g. v3:2x2,v5e:2x4")
        if values.batch_per_core < 0 or values.num_classes < 2:
            raise UserError(
                "expected --batch_per_core of 1 or more, and --num_classes of 2 or more"
            )
        results = _check(check, values, config)
    print(f"{arguments.config_name}, {config.train.precision}")
    print(check.table(results), flush=True)
    for result in results:
        for reason in result.get("problems", [result.get("reason")]):
            if reason:
                print(f"{result['topology']}: {result['status']}: {reason}", file=sys.stderr)
    if path:
        report = {
            "config": arguments.config_name,
            "precision": config.train.precision,
            "batch_size": config.train.batch_size,
            "steps": config.train.steps,
            "checks": results,
        }
        try:
            with open(path, "w") as file:
                json.dump(report, file)
        except OSError as error:
            raise UserError(f"--json={values.json}: {error}") from error
    statuses = {result["status"] for result in results}
    if check.OK in statuses:
        print(textwrap.fill(check.MEANING, 100))
    return 1 if check.REJECTED in statuses else 3 if check.PROBLEMS in statuses else 0


def _check(check, values, config):
    """The results of all topologies."""
    steps, results = {}, []
    for about in [check.describe(topology) for topology in values.topology]:
        cores = about["cores"]
        batch = values.batch_per_core or config.train.batch_size // cores
        if not values.batch_per_core and config.train.batch_size % cores:
            raise UserError(
                f"train.batch_size={config.train.batch_size} is not divisible by the {cores} "
                f"cores of {about['topology']}: give --batch_per_core"
            )
        logging.info("%s, %d cores, %d images per core", about["chip"], cores, batch)
        if cores not in steps:
            steps[cores] = check.TrainStep(config, cores, values.num_classes)
        examine = check.largest if values.largest else check.check
        results.append(examine(steps[cores], about, batch))
    return results


COMMAND = Command(
    "check-tpu", __doc__, define, run, RunConfig, "selfie_cifar10", logs_to_stderr=True
)
