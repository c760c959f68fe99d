"""A small Selfie on built-in images (`make quickstart`): no download, minutes on a CPU.

    python bin/pretrain.py --config=configs/quickstart.py --workdir=runs/quickstart/pretrained

Not the paper's numbers: width 8 instead of 64, 600 steps of 64 drawn images. Chance is 0.25 patch
accuracy. Result: 0.75 to 0.79 on held-out images, 125 s on two CPU cores, 180 to 220 s on one.
"""

from selfie_tf.config import SelfieConfig


def get_config() -> SelfieConfig:
    config = SelfieConfig()
    config.data.name = "builtin:shapes"
    config.data.crop = "center"  # no zero margin, which would tell where edge patches belong
    config.model.width = 8
    config.model.num_heads = 4
    config.model.mlp_dim = 80
    config.optimizer.learning_rate = 0.05
    config.train.steps = 600
    config.train.batch_size = 64
    config.train.checkpoint_every = 100
    config.train.picture_every = 100
    config.train.log_every = 20
    return config
