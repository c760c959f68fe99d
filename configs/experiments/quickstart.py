"""Selfie against random weights on built-in images, over several pretrainings.

    python bin/experiment.py --config=configs/experiments/quickstart.py --workdir=runs/experiment
    python bin/summarize.py --config=configs/experiments/quickstart.py --workdir=runs/experiment

Five pretrainings of the quickstart, each finetuned once on 5 % of the labels. Expected cost: half
an hour on two CPU cores. Result: test accuracy 0.38 (0.25 to 0.56) pretrained, 0.24 (0.21 to 0.26)
from scratch.
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    pretrain, finetune = get("quickstart"), get("finetune_quickstart")
    finetune.train.eval_every = finetune.train.steps
    return Experiment(
        recipes={"scratch": Recipe(), "selfie": Recipe(pretrain)},
        tasks={"5%": Task(finetune, pretrainings=5, seeds=1)},
        primary=(("selfie", "scratch", "5%"),),
    )
