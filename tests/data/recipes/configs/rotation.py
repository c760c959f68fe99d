"""Rotation prediction on noise.

python bin/pretrain.py --config=configs/rotation.py --workdir=runs/rotation
"""

from selfie_tf.config.rotation import RotationConfig


def get_config() -> RotationConfig:
    config = RotationConfig()
    config.data.name = "noise:64"
    config.data.image_size = 16
    config.data.crop = "center"
    config.patches.size = 4
    config.model.width = 2
    config.model.num_heads = 2
    config.optimizer.warmup_steps = 1
    config.train.batch_size = 8
    config.train.steps = 2
    return config
