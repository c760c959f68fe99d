"""Variants of the recipes on validation images of CIFAR-10 (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10_trials.py \
        --workdir=runs/trials

Three questions, one pretraining each. The recipes that they start from, and the test on 500 labels,
are those of cifar10_recipes.py:

- How to train the instance loss: its batch, its learning rate, and the size of the views. Views of
  24x24 and 16x16 pixels cost less than those of 32x32, so more of them are seen: steps are set to
  as many operations.
- What more steps buy.
- How to finetune: the learning rate, a smaller one for the pretrained layers
  (`optimizer.backbone_factor`), first steps that leave them alone (`train.frozen_steps`), half the
  steps, a quarter of the batch with as many images, and random resized crops. Whatever can be
  offered to random weights is.

Result: see docs/RESULTS.md.
"""

import copy

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    before = load_experiment("experiments/cifar10_recipes")
    recipes = {name: before.recipes[name] for name in ("scratch", "published", "instance")}

    def pretrained(name, start, steps, batch_size=128, learning_rate=0.05, size=0):
        config = copy.deepcopy(recipes[start].pretrain)
        config.train.steps, config.train.batch_size = steps, batch_size
        config.optimizer.learning_rate = learning_rate
        config.views.size = size  # 0: that of the image
        recipes[name] = Recipe(config)

    pretrained("instance-batch64", "instance", 2000, batch_size=64)
    pretrained("instance-lr0.15", "instance", 1000, learning_rate=0.15)
    pretrained("instance-view16", "instance", 4000, size=16)
    pretrained("instance-view24", "instance", 1778, size=24)

    pretrained("instance-500", "instance", 500)
    pretrained("instance-4000", "instance", 4000)
    for steps in (500, 1000, 2000):
        pretrained(f"instance-view16-{steps}", "instance", steps, size=16)

    def finetuned(name, starts, settings):
        for start in starts:
            pretrain = start if recipes[start].pretrain else None
            recipes[f"{start}-{name}"] = Recipe(pretrain, settings)

    rate = "optimizer.learning_rate"
    best = ("scratch", "instance-view16")
    finetuned("half", best, {"train.steps": 196, "train.eval_every": 196})
    finetuned("crop", best, {"data.crop": "random_resized", "data.min_crop_area": 0.3})
    small = {"train.batch_size": 32, "train.steps": 1564, "train.eval_every": 1564}
    finetuned("batch32", best, {**small, rate: 0.025})  # by the square root of the batch size
    finetuned("lr0.1", ("scratch", "instance"), {rate: 0.1})
    finetuned("factor0.3", ("instance",), {"optimizer.backbone_factor": 0.3})
    finetuned("factor0.1", ("instance",), {"optimizer.backbone_factor": 0.1})
    finetuned("frozen100", ("instance",), {"train.frozen_steps": 100})
    return Experiment(
        recipes=recipes,
        tasks={"1%": Task(before.tasks["1%"].config, pretrainings=1, seeds=2)},
        probe_images=(500, 2500),
    )
