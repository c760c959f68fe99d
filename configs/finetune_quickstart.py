"""A small classifier on few labels of the built-in images (`make quickstart`).

    python bin/finetune.py --config=configs/finetune_quickstart.py --workdir=runs/finetuned \
        --config.init_from=runs/quickstart/pretrained

ResNet-50 of width 8 on 250 of the 5000 labels; without `init_from` the supervised baseline.
Result: over five pretrainings test accuracy 0.33 to 0.37 after quickstart_plus, 0.20 to 0.38 after
quickstart, and 0.13 to 0.20 from scratch. About one minute each on two CPU cores.
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
    config.train.eval_every = 50
    config.train.log_every = 20
    return config
