"""Ways to pretrain, compared on validation images of CIFAR-10 (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10_recipes.py \
        --workdir=runs/recipes

Networks of width 16. Each recipe sees as many images: an image that is cut into patches counts
once, and a view of an image counts once. So 2,000 steps of the jigsaw are 1,000 of the instance
loss, which takes two views, and 667 of both together.

A recipe is chosen by its accuracy after finetuning on 500 labels (1 %). It is measured on 4,500
other training images, so that the test split has no part in the choice. Linear probes stand beside.
Result: see docs/RESULTS.md.
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.plan import Experiment, Recipe, Task

BATCH_SIZE = 128


def small(config):
    """Width 16 and what goes with it; batch, learning rate and precision of all runs."""
    config.model.width, config.model.num_heads, config.model.mlp_dim = 16, 8, 160
    config.optimizer.learning_rate = 0.05
    config.train.batch_size = BATCH_SIZE
    config.train.precision = "mixed_bfloat16"
    config.train.keep_checkpoints = 1
    return config


def pretraining(query="pooled", pad_mode="zeros", jigsaw=1.0, instance=0.0):
    """Selfie with 256,000 image-forwards."""
    config = small(get("selfie_cifar10"))
    config.model.query, config.data.pad_mode = query, pad_mode
    config.model.jigsaw_weight, config.model.instance_weight = jigsaw, instance
    forwards = (1 if jigsaw else 0) + (2 if instance else 0)
    config.train.steps = round(2000 / forwards)
    return config


def finetuning(fraction, steps):
    """ResNet-50 of width 16 on a fraction of the labels."""
    config = get("finetune_plus_cifar10")  # pads with the mirrored image, see padding.py
    config.data.label_fraction = fraction
    config.train.steps = config.train.eval_every = steps
    return config


def get_config() -> Experiment:
    task = finetuning(0.1, 391)
    task.data.validation_fraction = 0.9  # of these 5,000: 500 to train on
    return Experiment(
        recipes={
            "scratch": Recipe(),
            "published": Recipe(pretraining()),
            "instance": Recipe(pretraining(jigsaw=0.0, instance=1.0)),
            "located-enlarge-instance": Recipe(pretraining("per_location", "enlarge", 1.0, 1.0)),
            "located-enlarge": Recipe(pretraining("per_location", "enlarge")),
            "published-enlarge": Recipe(pretraining(pad_mode="enlarge")),
            "located": Recipe(pretraining("per_location")),
        },
        # Of the published loss, network 4 is that of cifar10.py, and so was meant to be 3.
        tasks={"1%": Task(task, pretrainings=(0, 3, 4), seeds=2)},
        probe_images=(500, 2500),
    )
