"""What an experiment costs, before it is run."""

import numpy as np
import tf_keras as keras

from selfie_tf.benchmarks.speed import step_seconds
from selfie_tf.experiments.plan import Experiment
from selfie_tf.training.cost import gflop_per_image

# Of the measurement. Large networks take a smaller batch: it has to fit into the memory.
_BATCH_SIZE, _SMALL_BATCH_SIZE = 32, 2
_LARGE = 100.0  # GFLOP per image
_SECONDS = 2.0


def describe(experiment: Experiment, cells: list) -> str:
    """Tables of some of an experiment's cells: how many of each kind, and what they cost.

    That is steps, images, GFLOP and hours, of whole cells even where one has begun.
    The hours are those of this machine: a few steps of each kind of training are timed.
    Probes, which take minutes, are counted without a cost. Final cells are taken as their task
    says: what the tuning will choose for them is not known yet.
    """
    groups, speeds, total, rows = {}, {}, np.zeros(4), []
    for cell in cells:
        groups.setdefault((cell.kind, cell.recipe, cell.task), []).append(cell)
    for names, group in groups.items():
        cost, steps = np.zeros(3), set()
        for config in map(experiment.config, group) if names[0] != "probe" else ():
            images = config.train.batch_size * config.train.steps
            hours = images / _speed(config, speeds) / 3600
            cost += [images, images * gflop_per_image(config), hours]
            steps.add(config.train.steps)
        total += [len(group), *cost]
        numbers = " or ".join(f"{count:,}" for count in sorted(steps))
        rows.append([*names, f"{len(group):,}", numbers, *_numbers(*cost)])
    count, *cost = total
    rows.append(["total", "", "", f"{count:,.0f}", "", *_numbers(*cost)])
    return "\n".join(map(_line, [_HEAD, *rows]))


_HEAD = ["kind", "recipe", "task", "cells", "steps", "images", "GFLOP", "hours here"]


def _numbers(images, gflop, hours):
    return f"{images:,.0f}", f"{gflop:,.0f}", f"{hours:,.1f}"


def _line(values):
    kind, recipe, task, *numbers = values
    widths = (6, 9, 16, 18, 11)
    cells = (f"{number:>{width}}" for number, width in zip(numbers, widths, strict=True))
    return f"{kind:9} {recipe:24} {task:12} {' '.join(cells)}"


def _speed(config, known):
    """Images per second of training, measured once per kind of step."""
    network = sorted(pair for pair in config.network_arguments.items() if pair[0] != "seed")
    about = (type(config), getattr(config.model, "head", ""), config.data.image_size)
    # The losses and the size of views change the number of operations.
    about += (config.train.precision, config.patches.size, gflop_per_image(config))
    key = str((about, network))
    if key not in known:
        batch_size = _BATCH_SIZE if gflop_per_image(config) < _LARGE else _SMALL_BATCH_SIZE
        known[key] = batch_size / step_seconds(config, batch_size, _SECONDS)
        keras.backend.clear_session()
    return known[key]
