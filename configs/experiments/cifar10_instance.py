"""How to train Selfie's instance loss at a fixed number of images (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10_instance.py \
        --workdir=runs/instance

The instance loss alone, as in cifar10_recipes.py: with other learning rates, and with smaller
batches and as many more steps. One pretraining each, on validation images.
Result: see docs/RESULTS.md.
"""

import copy

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    before = load_experiment("experiments/cifar10_recipes")
    instance = before.recipes["instance"]

    def other(learning_rate, batch_size=128):
        config = copy.deepcopy(instance.pretrain)
        config.optimizer.learning_rate = learning_rate
        config.train.steps = config.train.steps * config.train.batch_size // batch_size
        config.train.batch_size = batch_size
        return Recipe(config)

    return Experiment(
        recipes={
            "scratch": Recipe(),
            "instance": instance,
            "instance-batch64": other(0.05, 64),
            "instance-lr0.15": other(0.15),
        },
        tasks={"1%": Task(before.tasks["1%"].config, pretrainings=1, seeds=2)},
        probe_images=(500, 2500),
    )
