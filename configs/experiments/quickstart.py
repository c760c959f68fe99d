"""Selfie against random weights on built-in images, over several pretrainings.

python bin/experiment.py --config=configs/experiments/quickstart.py --workdir=runs/experiment
"""

import os
import runpy

from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    folder = os.path.join(os.path.dirname(__file__), os.pardir)
    pretrain, finetune = (
        runpy.run_path(os.path.join(folder, f"{name}.py"))["get_config"]()
        for name in ("quickstart", "finetune_quickstart")
    )
    finetune.train.eval_every = finetune.train.steps
    finetune.train.keep_checkpoints = pretrain.train.keep_checkpoints = 1
    return Experiment(
        recipes={"scratch": Recipe(), "selfie": Recipe(pretrain)},
        tasks={"5%": Task(finetune, pretrainings=5, seeds=1)},
    )
