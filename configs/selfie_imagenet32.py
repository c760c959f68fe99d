"""Selfie pretraining on ImageNet downsampled to 32x32 (sections 2.1, 3.1, 3.2).

    python bin/pretrain.py --config=configs/selfie_imagenet32.py --workdir=runs/imagenet32

As CIFAR-10 (8x8 patches, learned positions) with batch 1024. Expected cost: 120 000 steps of 1024
images, about 7.5 GFLOP an image. Result: not measured.
"""

from selfie_tf.config import SelfieConfig


def get_config() -> SelfieConfig:
    config = SelfieConfig()
    config.data.name = "tfds:downsampled_imagenet/32x32"
    config.train.batch_size = 1024
    return config
