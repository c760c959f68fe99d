"""A small classifier on few labels of the built-in images (`make quickstart`).

    python bin/finetune.py --config=configs/finetune_quickstart.py --workdir=runs/finetuned \
        --config.init_from=runs/quickstart/pretrained

ResNet-50 of width 8 on 250 of the 5000 labels; without `init_from` the supervised baseline.
Result: test accuracy 0.49 pretrained, 0.21 from scratch; over five pretrainings 0.25 to 0.56, and
0.21 to 0.26 from scratch. One or two minutes each on two CPU cores.
"""

from selfie_tf.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    config = FinetuneConfig()
    config.data.name = "builtin:shapes"
    config.data.label_fraction = 0.05
    config.model.width = 8
    config.model.num_heads = 4
    config.model.mlp_dim = 80
    config.optimizer.learning_rate = 0.05
    config.optimizer.warmup_steps = 20
    config.train.steps = 200
    config.train.batch_size = 64
    config.train.checkpoint_every = 100
    config.train.eval_every = 100
    config.train.log_every = 20
    return config
