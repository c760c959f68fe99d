"""Selfie and a recipe beyond it against random weights on built-in images.

    python bin/experiment.py --config=configs/experiments/quickstart.py --workdir=runs/experiment
    python bin/summarize.py --config=configs/experiments/quickstart.py --workdir=runs/experiment

Five pretrainings of configs/quickstart.py ("selfie") and of configs/quickstart_plus.py ("plus"),
each finetuned once on 5 % of the labels. Expected cost: an hour on two CPU cores.
Result: see docs/RESULTS.md.
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    finetune = get("finetune_quickstart")
    finetune.train.eval_every = finetune.train.steps
    return Experiment(
        recipes={
            "scratch": Recipe(),
            "selfie": Recipe(get("quickstart")),
            "plus": Recipe(get("quickstart_plus")),
        },
        tasks={"5%": Task(finetune, pretrainings=5, seeds=1)},
        primary=(("selfie", "scratch", "5%"), ("plus", "scratch", "5%")),
    )
