"""Selfie's Table 1, CIFAR-10: 40 finetunings after tuning (sections 3.1, 3.2).

    python bin/experiment.py --config=configs/experiments/selfie_cifar10_table1.py \
        --workdir=runs/table1 --dry_run

ResNet-50 on 5, 8, 20 and 100 % of the labels, supervised and from Selfie, five seeds each. The peak
learning rate is tuned on a tenth of the labelled images. The seeds also draw the labelled subsets,
of which the paper says nothing. It tunes the pretraining too, without saying what won.
Result: not measured.
"""

from selfie_tf.cli.config_files import get
from selfie_tf.experiments.plan import Experiment, Recipe, Task, Tuning

FRACTIONS = {"5%": 0.05, "8%": 0.08, "20%": 0.2, "100%": 1.0}
PUBLISHED = {  # in %, mean and standard deviation of five seeds (Table 1)
    "scratch": ((75.9, 0.7), (79.3, 1.0), (88.3, 0.3), (95.5, 0.2)),
    "selfie": ((75.9, 0.4), (80.3, 0.3), (89.1, 0.5), (95.7, 0.1)),
}


def get_config() -> Experiment:
    tasks = {}
    for name, fraction in FRACTIONS.items():
        config = get("finetune_cifar10")
        config.data.label_fraction = fraction
        config.train.eval_every = config.train.steps
        tasks[name] = Task(config, pretrainings=1, seeds=5)
    return Experiment(
        recipes={"scratch": Recipe(), "selfie": Recipe(get("selfie_cifar10"))},
        tasks=tasks,
        tuning=Tuning({"optimizer.learning_rate": (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)}),
        published={
            (recipe, task): numbers[i]
            for recipe, numbers in PUBLISHED.items()
            for i, task in enumerate(FRACTIONS)
        },
    )
