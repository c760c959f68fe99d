"""How to finetune on 1 % of CIFAR-10's labels (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10_finetuning.py \
        --workdir=runs/finetuning

The learning rate, a smaller one for the pretrained layers (`optimizer.backbone_factor`), first
steps that leave them alone (`train.frozen_steps`), half the steps, a quarter of the batch with as
many images, and random resized crops, each compared with the settings of cifar10_recipes.py, on
validation images. The pretrained networks are that of its recipe "instance" and that of
"instance-view16" in cifar10_views.py; whatever can be offered to random weights is.
Result: see docs/RESULTS.md.
"""

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    before = load_experiment("experiments/cifar10_recipes")
    views = load_experiment("experiments/cifar10_views")
    crop = {"data.crop": "random_resized", "data.min_crop_area": 0.3}
    half = {"train.steps": 196, "train.eval_every": 196}
    small = {"train.batch_size": 32, "train.steps": 1564, "train.eval_every": 1564}
    small["optimizer.learning_rate"] = 0.025  # by the square root of the batch size
    return Experiment(
        recipes={
            "scratch": Recipe(),
            "instance": before.recipes["instance"],
            "instance-lr0.1": Recipe("instance", {"optimizer.learning_rate": 0.1}),
            "instance-factor0.3": Recipe("instance", {"optimizer.backbone_factor": 0.3}),
            "instance-factor0.1": Recipe("instance", {"optimizer.backbone_factor": 0.1}),
            "instance-view16": views.recipes["instance-view16"],
            "instance-view16-crop": Recipe("instance-view16", crop),
            "scratch-crop": Recipe(finetune=crop),
            "instance-view16-half": Recipe("instance-view16", half),
            "scratch-half": Recipe(finetune=half),
            "scratch-lr0.1": Recipe(finetune={"optimizer.learning_rate": 0.1}),
            "instance-frozen100": Recipe("instance", {"train.frozen_steps": 100}),
            "instance-view16-batch32": Recipe("instance-view16", small),
            "scratch-batch32": Recipe(finetune=small),
        },
        tasks={"1%": Task(before.tasks["1%"].config, pretrainings=1, seeds=2)},
    )
