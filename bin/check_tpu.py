#!/usr/bin/env python
"""Compiles a config's train step for a TPU without a TPU, and says whether it fits.

    python bin/check_tpu.py --config=configs/selfie_cifar10.py --topology=v3:2x2 \
        --config.train.precision=mixed_bfloat16

Needs requirements/aot.txt; `make check-tpu` makes an environment with it. Exits 0 if the step
compiles, 1 if a compiler rejects it, 3 if there is in it what a TPU's step should not have.
"""

import json
import logging
import os
import sys
import textwrap

import _main
from absl import flags

from selfie_tf.config import RunConfig
from selfie_tf.errors import UserError

_main.define_config("selfie_cifar10.py", RunConfig)
TOPOLOGY = flags.DEFINE_list(
    "topology", ["v3:2x2"], "Chip and its grid: v2:2x2, v3:2x2, v4:2x2x1, v5e:2x4, v6e:2x4, ..."
)
BATCH = flags.DEFINE_integer(
    "batch_per_core", 0, "Images a core and step; the config's batch over the cores if 0."
)
LARGEST = flags.DEFINE_bool("largest", False, "Search the largest batch a core that fits.")
CLASSES = flags.DEFINE_integer("num_classes", 1000, "Finetuning: classes to tell apart.")
JSON = flags.DEFINE_string("json", "", "File to write the figures to.")


def main():
    _main.end_on_sigterm()
    from selfie_tf.benchmarks.tpu import check

    config = _main.CONFIG.value
    path = os.path.abspath(os.path.expanduser(JSON.value)) if JSON.value else ""
    if path and (os.path.isdir(path) or not os.path.isdir(os.path.dirname(path))):
        raise UserError(f"--json={JSON.value}: expected a file in a folder that exists")
    if not TOPOLOGY.value:
        raise UserError("--topology is empty: expected e.g. v3:2x2,v5e:2x4")
    if BATCH.value < 0 or CLASSES.value < 2:
        raise UserError("expected --batch_per_core of 1 or more, and --num_classes of 2 or more")
    steps, results = {}, []
    for about in [check.describe(topology) for topology in TOPOLOGY.value]:
        cores = about["cores"]
        batch = BATCH.value or config.train.batch_size // cores
        if not BATCH.value and config.train.batch_size % cores:
            raise UserError(
                f"train.batch_size={config.train.batch_size} is not divisible by the {cores} "
                f"cores of {about['topology']}: give --batch_per_core"
            )
        logging.info("%s, %d cores, %d images a core", about["chip"], cores, batch)
        if cores not in steps:
            steps[cores] = check.TrainStep(config, cores, CLASSES.value)
        examine = check.largest if LARGEST.value else check.check
        results.append(examine(steps[cores], about, batch))
    name = os.path.relpath(flags.FLAGS["config"].config_filename, _main.ROOT)
    print(f"{name}, {config.train.precision}")
    print(check.table(results))
    for result in results:
        for reason in result.get("problems", [result.get("reason")]):
            if reason:
                print(f"{result['topology']}: {result['status']}: {reason}", file=sys.stderr)
    figures = {
        "config": name,
        "precision": config.train.precision,
        "batch_size": config.train.batch_size,
        "steps": config.train.steps,
        "checks": results,
    }
    if path:
        try:
            with open(path, "w") as file:
                json.dump(figures, file)
        except OSError as error:
            raise UserError(f"--json={JSON.value}: {error}") from error
    statuses = {result["status"] for result in results}
    if check.OK in statuses:
        print(textwrap.fill(check.MEANING, 100))
    sys.stdout.flush()
    if check.REJECTED in statuses:
        sys.exit(1)
    if check.PROBLEMS in statuses:
        sys.exit(3)


if __name__ == "__main__":
    _main.run(main, log_stream=sys.stderr)
