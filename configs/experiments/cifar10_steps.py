"""What more pretraining buys on CIFAR-10 (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10_steps.py \
        --workdir=runs/steps

500 to 4,000 steps of the instance loss alone, as in cifar10_recipes.py, and the published loss with
as many image-forwards. One pretraining each, on validation images.
Result: see docs/RESULTS.md.
"""

import copy

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    before = load_experiment("experiments/cifar10_recipes")

    def longer(name, steps):
        config = copy.deepcopy(before.recipes[name].pretrain)
        config.train.steps = steps
        return Recipe(config)

    return Experiment(
        recipes={
            "scratch": Recipe(),
            "instance-4000": longer("instance", 4000),
            "instance": before.recipes["instance"],
            "published": before.recipes["published"],
            "instance-500": longer("instance", 500),
            "instance-2000": longer("instance", 2000),
            "published-8000": longer("published", 8000),
        },
        tasks={"1%": Task(before.tasks["1%"].config, pretrainings=1, seeds=2)},
        probe_images=(500, 2500),
    )
