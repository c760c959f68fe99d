"""What the crop pads with in supervised training on few labels (docs/RESULTS.md).

    python bin/experiment.py --config=configs/experiments/padding.py --workdir=runs/padding

A ResNet-50 of width 16 from random weights on 5 % of CIFAR-10's labels, four ways to pad, three
seeds each. It is trained on 2,500 images and tested on 22,500 other training images, so that the
test split has no part in the choice.
"""

from selfie_tf.config import FinetuneConfig
from selfie_tf.experiments.plan import Experiment, Recipe, Task


def get_config() -> Experiment:
    config = FinetuneConfig()
    config.model.width = 16
    config.optimizer.learning_rate = 0.05
    config.optimizer.warmup_steps = 50
    config.train.batch_size = 128
    config.train.steps = config.train.eval_every = 586
    config.train.keep_checkpoints = 1
    config.train.precision = "mixed_bfloat16"
    config.data.label_fraction = 0.5
    config.data.validation_fraction = 0.9
    return Experiment(
        recipes={
            mode: Recipe(finetune={"data.pad_mode": mode})
            for mode in ("zeros", "mean", "reflect", "enlarge")
        },
        tasks={"5%": Task(config, pretrainings=3, seeds=1)},
    )
