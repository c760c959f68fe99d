"""What pretraining buys on photographs of solar cells, of which 28 % are defective.

    pip install elpv-dataset
    python examples/solar_cells.py data/solar_cells
    python bin/prepare.py --images=data/solar_cells --name=solar_cells --output=data/tfds \
        --shorter_side=128
    python bin/experiment.py --config=configs/experiments/solar_cells.py \
        --workdir=runs/solar_cells --data_dir=data/tfds

Networks of width 16 on 128x128 images, a 4x4 grid of 32x32 patches. The published form, and the
recipe that did best on CIFAR-10: the instance loss alone on views of half the side, with 0.85 of
the operations. Compared by balanced accuracy, for most cells are intact.
Result: see docs/RESULTS.md (three pretrainings; no clear difference).
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.plan import Experiment, Recipe, Task

DATA = "tfds:solar_cells"


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


def pretraining():
    """Selfie as published, with 256,000 image-forwards."""
    config = small(get("selfie_cifar10"), 128)
    config.train.steps = 2000
    return config


def instance_view64():
    config = pretraining()
    config.model.jigsaw_weight, config.model.instance_weight = 0.0, 1.0
    config.views.size = 64
    config.train.steps = 4000
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
            "published": Recipe(pretraining()),
            "instance-view64": Recipe(instance_view64()),
        },
        tasks={
            name: Task(finetuning(fraction), pretrainings=3, seeds=1, metric="balanced_accuracy")
            for name, fraction in (("5%", 0.05), ("25%", 0.25))
        },
        primary=(("published", "scratch", "5%"), ("instance-view64", "scratch", "5%")),
    )
