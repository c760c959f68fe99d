"""What more pretraining buys on CIFAR-10 (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10_steps.py \
        --workdir=runs/steps

500 to 4,000 steps of the instance loss alone, as in cifar10_recipes.py, 1,000 to 8,000 of it on
views of 16x16 pixels, which cost a quarter, and the published loss in twice its steps, which takes
more operations than the longest of these. One pretraining each, on validation images.
Result: see docs/RESULTS.md.
"""

import copy

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    before = load_experiment("experiments/cifar10_recipes")
    known = {**before.recipes, **load_experiment("experiments/cifar10_views").recipes}

    def longer(name, steps):
        config = copy.deepcopy(known[name].pretrain)
        config.train.steps = steps
        return Recipe(config)

    return Experiment(
        recipes={
            "scratch": Recipe(),
            "instance-4000": longer("instance", 4000),
            "instance": before.recipes["instance"],
            "published": before.recipes["published"],
            "instance-500": longer("instance", 500),
            "instance-view16": known["instance-view16"],
            "instance-view16-1000": longer("instance-view16", 1000),
            "instance-view16-2000": longer("instance-view16", 2000),
            "instance-view16-8000": longer("instance-view16", 8000),
            "published-4000": longer("published", 4000),
        },
        tasks={"1%": Task(before.tasks["1%"].config, pretrainings=1, seeds=2)},
        probe_images=(500, 2500),
    )
