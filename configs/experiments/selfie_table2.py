"""Selfie's Table 2: ResNet-50 against ResNet-36 with attention pooling (section 4.2, Figure 5).

    python bin/experiment.py --config=configs/experiments/selfie_table2.py --workdir=runs/table2 \
        --dry_run

Both finetune the same pretrained network: on CIFAR-10 with 8 and 100 % of the labels, on ImageNet
at 224x224 with 10 and 100 %; five seeds each, after tuning as in Table 1. Result: not measured.
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.papers import SELFIE_TUNING
from selfie_tf.experiments.plan import Experiment, Recipe, Task

FRACTIONS = {
    "cifar10": {"cifar10-8%": 0.08, "cifar10-100%": 1.0},
    "imagenet224": {"imagenet224-10%": 0.1, "imagenet224-100%": 1.0},
}
PUBLISHED = {  # in %, mean and standard deviation of five seeds (Table 2)
    "resnet50": ((80.3, 0.3), (95.7, 0.1), (61.8, 0.2), (77.0, 0.1)),
    "resnet36": ((81.3, 0.1), (95.4, 0.2), (62.1, 0.2), (77.5, 0.1)),
}


def get_config() -> Experiment:
    recipes, tasks, published = {}, {}, {}
    for data, fractions in FRACTIONS.items():
        names = f"{data}-resnet50", f"{data}-resnet36"
        recipes[names[0]] = Recipe(get(f"selfie_{data}"))
        recipes[names[1]] = Recipe(names[0], {"model.head": "resnet36_attention"})
        for task, fraction in fractions.items():
            config = get(f"finetune_{data}")
            config.data.label_fraction = fraction
            config.train.eval_every = config.train.steps
            for name, numbers in zip(names, PUBLISHED.values(), strict=True):
                published[name, task] = numbers[len(tasks)]
            tasks[task] = Task(config, pretrainings=1, seeds=5, recipes=names)
    return Experiment(
        recipes,
        tasks,
        tuning=SELFIE_TUNING,
        primary=tuple(
            (f"{data}-resnet36", f"{data}-resnet50", task)
            for data, fractions in FRACTIONS.items()
            for task in fractions
        ),
        published=published,
    )
