"""What pretraining gains on CIFAR-10 at four fractions of the labels (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10.py --workdir=runs/cifar10
    python bin/summarize.py --config=configs/experiments/cifar10.py --workdir=runs/cifar10

Networks of width 16, on the test split. The pretrainings are those of cifar10_recipes.py and of
cifar10_trials.py: folders `cells/RECIPE/NUMBER/pretrain` can be copied to this experiment's.
instance-view16, the instance loss alone on views of 16x16 pixels, is the best recipe on validation
images, and takes 0.83 of the published form's operations. Its pretraining 0 is the one by which it
was chosen, so eight others are made: with fewer pairs no exact test can give p < 0.01.
1%-batch32 finetunes with small batches, which helped random weights on validation images.
1%-long and 5%-long train random weights for as many operations as the published form's pretraining
and finetuning together. 5%-long finetunes instance-view16 for as many steps, too.
Result: see docs/RESULTS.md.
"""

import copy

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    before = load_experiment("experiments/cifar10_recipes")
    trials = load_experiment("experiments/cifar10_trials")

    def task(fraction, steps, pretrainings, seeds, recipes=()):
        config = copy.deepcopy(before.tasks["1%"].config)
        config.data.label_fraction, config.data.validation_fraction = fraction, 0.0
        config.train.steps = config.train.eval_every = steps
        return Task(config, pretrainings, seeds, recipes)

    small_batch = task(0.01, 1564, (0, 1, 5), 2, ("scratch", "instance-view16"))
    small_batch.config.train.batch_size = 32
    small_batch.config.optimizer.learning_rate = 0.025  # as in cifar10_trials.py

    # Steps of finetuning that take as many operations as pretraining: 2,000 x 0.472 / 0.489 GFLOP.
    pretraining = 1930
    return Experiment(
        recipes={
            "scratch": Recipe(),
            "published": before.recipes["published"],
            "instance-view16": trials.recipes["instance-view16"],
        },
        tasks={
            "1%": task(0.01, 196, 9, 2),  # half the steps do as well, see cifar10_trials.py
            "5%": task(0.05, 586, 5, 1),
            "8%": task(0.08, 782, (3, 4, 5), 1),  # their networks were still there
            "20%": task(0.2, 1172, (3, 4, 5), 1),
            "1%-batch32": small_batch,
            "1%-long": task(0.01, 196 + pretraining, 3, 1, ("scratch",)),
            "5%-long": task(
                0.05, 586 + pretraining, (0, 1, 3, 4, 5), 1, ("scratch", "instance-view16")
            ),
        },
        primary=(
            ("published", "scratch", "1%"),
            ("published", "scratch", "5%"),
            ("instance-view16", "published", "1%"),
        ),
    )
