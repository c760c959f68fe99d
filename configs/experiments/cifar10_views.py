"""How large the views of the instance loss should be at equal operations (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10_views.py \
        --workdir=runs/views

The instance loss alone, as in cifar10_recipes.py. Views of 24x24 and 16x16 pixels cost less than
those of 32x32, so that more of them are seen: steps are set to as many operations. One pretraining
each, on validation images.
Result: see docs/RESULTS.md.
"""

import copy

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    before = load_experiment("experiments/cifar10_recipes")
    instance = before.recipes["instance"]

    def smaller(size):
        config = copy.deepcopy(instance.pretrain)
        config.views.size = size
        config.train.steps = round(config.train.steps * (32 / size) ** 2)
        return Recipe(config)

    return Experiment(
        recipes={
            "scratch": Recipe(),
            "instance": instance,
            "instance-view16": smaller(16),
            "instance-view24": smaller(24),
        },
        tasks={"1%": Task(before.tasks["1%"].config, pretrainings=1, seeds=2)},
        probe_images=(500, 2500),
    )
