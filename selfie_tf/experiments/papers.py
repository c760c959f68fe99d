"""What the plans of the papers' tables share."""

import copy

from selfie_tf.config import FinetuneConfig, SelfieConfig
from selfie_tf.experiments.plan import Experiment, Recipe, Task, Tuning

SELFIE_TUNING = Tuning({"optimizer.learning_rate": (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)})


def selfie_table1(
    pretrain: SelfieConfig, finetune: FinetuneConfig, fractions: dict, published: dict
) -> Experiment:
    """One dataset of Selfie's Table 1: supervised and from Selfie, five seeds each (section 3.2).

    Args:
      pretrain, finetune: The configs of the runs.
      fractions: {task: fraction of the labels}.
      published: {"scratch" or "selfie": (accuracy in %, standard deviation) per fraction}.
    """
    tasks = {}
    for name, fraction in fractions.items():
        config = copy.deepcopy(finetune)
        config.data.label_fraction = fraction
        config.train.eval_every = config.train.steps
        tasks[name] = Task(config, pretrainings=1, seeds=5)
    return Experiment(
        recipes={"scratch": Recipe(), "selfie": Recipe(pretrain)},
        tasks=tasks,
        tuning=SELFIE_TUNING,
        published={
            (recipe, task): numbers
            for recipe, all_numbers in published.items()
            for task, numbers in zip(fractions, all_numbers, strict=True)
        },
    )
