"""A miniature experiment for the tests: a recipe and its baseline on built-in images."""

from selfie_tf.config import FinetuneConfig, SelfieConfig
from selfie_tf.experiments.plan import Experiment, Recipe, Task, Tuning


def shrink(config):
    config.data.name = "builtin:shapes"
    config.data.image_size, config.patches.size, config.patches.pad = 16, 4, 2
    config.model.width, config.model.num_heads, config.model.mlp_dim = 2, 2, 16
    config.model.attention_layers = 1
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 0.05, 1
    config.train.batch_size, config.train.steps = 16, 4
    config.train.checkpoint_every = config.train.log_every = 2
    return config


def get_config() -> Experiment:
    selfie, finetune = shrink(SelfieConfig()), shrink(FinetuneConfig())
    selfie.data.eval_images = 32
    finetune.data.label_fraction, finetune.train.eval_every = 0.02, 4
    return Experiment(
        recipes={
            "scratch": Recipe(finetune={"data.pad_mode": "reflect"}),
            "selfie": Recipe(selfie),
        },
        tasks={
            "2%": Task(finetune, pretrainings=2, seeds=1),
            "few": Task(finetune, recipes=("scratch",), seeds=1),
        },
        tuning=Tuning({"optimizer.learning_rate": (0.01, 0.05)}, validation_fraction=0.5),
        probe_images=(100,),
    )
