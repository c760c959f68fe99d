"""How to finetune on 1 % of CIFAR-10's labels (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10_finetuning.py \
        --workdir=runs/finetuning

The learning rate, a smaller one for the pretrained layers (`optimizer.backbone_factor`), and first
steps that leave them alone (`train.frozen_steps`), each compared with the settings of
cifar10_recipes.py, on validation images. The pretrained network is that of its recipe "instance";
whatever can be offered to random weights is.
Result: see docs/RESULTS.md.
"""

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    before = load_experiment("experiments/cifar10_recipes")
    return Experiment(
        recipes={
            "scratch": Recipe(),
            "instance": before.recipes["instance"],
            "instance-lr0.1": Recipe("instance", {"optimizer.learning_rate": 0.1}),
            "scratch-lr0.1": Recipe(finetune={"optimizer.learning_rate": 0.1}),
            "instance-frozen100": Recipe("instance", {"train.frozen_steps": 100}),
            "instance-factor0.3": Recipe("instance", {"optimizer.backbone_factor": 0.3}),
            "instance-factor0.1": Recipe("instance", {"optimizer.backbone_factor": 0.1}),
        },
        tasks={"1%": Task(before.tasks["1%"].config, pretrainings=1, seeds=2)},
    )
