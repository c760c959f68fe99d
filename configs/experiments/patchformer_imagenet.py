"""PatchFormer's results on ImageNet at 224x224 (section 3, Tables 1 and 2).

    python bin/experiment.py --config=configs/experiments/patchformer_imagenet.py \
        --workdir=runs/patchformer --dry_run

Top-1 accuracy on 1, 10 and 20 % of the labels, after tuning batch size and learning rate as in
section 2.2. The paper does not say how many seeds its numbers are of; here it is one, and the same
network from random weights stands beside. Result: not measured.
"""

from selfie_tf.config.files import get
from selfie_tf.experiments.plan import Experiment, Recipe, Task, Tuning

FRACTIONS = {"1%": 0.01, "10%": 0.1, "20%": 0.2}
PUBLISHED = {"1%": 30.3, "10%": 65.5, "20%": 70.2}  # in %


def get_config() -> Experiment:
    tasks = {}
    for name, fraction in FRACTIONS.items():
        config = get("finetune_patchformer_imagenet224")
        config.data.label_fraction = fraction
        config.train.eval_every = config.train.steps
        tasks[name] = Task(config, pretrainings=1, seeds=1)
    grid = {
        "train.batch_size": (16, 32, 64, 128, 256),
        "optimizer.learning_rate": (3e-5, 2e-4, 4e-4, 1e-3),
    }
    return Experiment(
        recipes={"scratch": Recipe(), "patchformer": Recipe(get("patchformer_imagenet224"))},
        tasks=tasks,
        tuning=Tuning(grid),
        published={("patchformer", task): (top1, None) for task, top1 in PUBLISHED.items()},
    )
