"""What pretraining buys on photographs of solar cells, of which 28 % are defective.

    pip install elpv-dataset
    python examples/solar_cells.py data/solar_cells
    python bin/experiment.py --config=configs/experiments/solar_cells.py --workdir=runs/solar_cells

Networks of width 16 on 128x128 images, a 4x4 grid of 32x32 patches, and as many image-forwards as
in cifar10_recipes.py. Recipes are compared by balanced accuracy, for most cells are intact.
Result: not measured yet.
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.plan import Experiment, Recipe, Task

DATA = "folder:data/solar_cells"


def small(config, batch_size):
    """The images; width 16 and what goes with it; batch, learning rate and precision."""
    config.data.name, config.data.image_size = DATA, 128
    config.patches.size, config.patches.pad = 32, 16
    config.model.width, config.model.num_heads, config.model.mlp_dim = 16, 8, 160
    config.model.stem = "imagenet"
    config.optimizer.learning_rate = 0.05
    config.train.batch_size = batch_size
    config.train.precision = "mixed_bfloat16"
    config.train.keep_checkpoints = 1
    return config


def pretraining(jigsaw, instance):
    """Selfie with 256,000 image-forwards."""
    config = small(get("selfie_cifar10"), 128)
    config.model.jigsaw_weight, config.model.instance_weight = jigsaw, instance
    config.train.steps = 1000 if instance else 2000  # the instance loss takes two views
    return config


def finetuning(fraction):
    """ResNet-50 of width 16 on a fraction of the labels."""
    config = small(get("finetune_cifar10"), 64)
    config.data.label_fraction = fraction
    config.data.pad_mode = "reflect"
    config.optimizer.warmup_steps = 50
    config.train.steps = config.train.eval_every = 400
    return config


def get_config() -> Experiment:
    return Experiment(
        recipes={
            "scratch": Recipe(),
            "published": Recipe(pretraining(1.0, 0.0)),
            "instance": Recipe(pretraining(0.0, 1.0)),
        },
        tasks={
            name: Task(finetuning(fraction), pretrainings=5, seeds=1, metric="balanced_accuracy")
            for name, fraction in (("5%", 0.05), ("25%", 0.25))
        },
        primary=(("published", "scratch", "5%"), ("instance", "scratch", "5%")),
    )
