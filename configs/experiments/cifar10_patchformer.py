"""What PatchFormer's pretraining gains on CIFAR-10 (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10_patchformer.py \
        --workdir=runs/patchformer

Networks of width 16 with three attention blocks, on the test split. A pretraining sees 256,000
images, as in cifar10_recipes.py. The learning rate was not tuned.
Result: docs/RESULTS.md.
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def small(config, steps, warmup_steps):
    """Width 16 and what goes with it; the optimizer and the precision of all runs."""
    config.model.width, config.model.mlp_dim, config.model.attention_layers = 16, 512, 3
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e-3, warmup_steps
    config.train.batch_size, config.train.steps = 128, steps
    config.train.precision = "mixed_bfloat16"
    config.train.keep_checkpoints = 1
    return config


def finetuning(fraction, steps):
    """The classifier on a fraction of the labels."""
    config = small(get("finetune_patchformer_cifar10"), steps, 50)
    config.data.label_fraction = fraction
    config.train.eval_every = steps
    return config


def get_config() -> Experiment:
    return Experiment(
        recipes={
            "scratch": Recipe(),
            "patchformer": Recipe(small(get("patchformer_cifar10"), 2000, 200)),
        },
        tasks={
            "1%": Task(finetuning(0.01, 391), pretrainings=3, seeds=2),
            "5%": Task(finetuning(0.05, 586), pretrainings=3, seeds=1),
        },
        primary=(("patchformer", "scratch", "1%"), ("patchformer", "scratch", "5%")),
    )
