"""What the parts of the published Selfie do on CIFAR-10 (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/cifar10_ablations.py \
        --workdir=runs/ablations

The pretraining of cifar10_recipes.py with one thing changed: the fraction of the patches that the
encoder sees (section 3.2 tries 75 and 50 %), how the context is pooled, what scales the logits,
and whether there is a context at all. Linear probes of one pretraining each. The published network
is also finetuned with both heads of Table 2, on validation images.
Result: see docs/RESULTS.md.
"""

import copy

from selfie_tf.cli.config_files import load_experiment
from selfie_tf.experiments.plan import Experiment, Recipe, Task

CHANGES = {
    "half-context": ("patches", "context_fraction", 0.5),
    "no-context": ("model", "query", "position"),
    "mean-pooling": ("model", "pooling", "mean"),
    "sqrt-dim": ("model", "logit_scale", "sqrt_dim"),
}


def get_config() -> Experiment:
    before = load_experiment("experiments/cifar10_recipes")
    published = before.recipes["published"]

    def changed(section, field, value):
        config = copy.deepcopy(published.pretrain)
        setattr(getattr(config, section), field, value)
        return Recipe(config)

    resnet36 = {"model.head": "resnet36_attention"}
    return Experiment(
        recipes={
            "scratch": Recipe(),
            "scratch-resnet36": Recipe(finetune=resnet36),
            "published": published,
            "published-resnet36": Recipe("published", resnet36),
            **{name: changed(*change) for name, change in CHANGES.items()},
        },
        tasks={
            "1%": Task(
                before.tasks["1%"].config,
                seeds=2,
                recipes=("scratch", "scratch-resnet36", "published", "published-resnet36"),
            )
        },
        probe_images=(500, 2500),
    )
