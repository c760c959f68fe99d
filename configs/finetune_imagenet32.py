"""Finetuning on ImageNet downsampled to 32x32 (sections 2.3, 3.1, 3.2; Table 1).

    python bin/finetune.py --config=configs/finetune_imagenet32.py --workdir=runs/imagenet32_5 \
        --config.init_from=runs/imagenet32 --config.data.label_fraction=0.05

`tfds:imagenet_resized/32x32`, because `tfds:downsampled_imagenet/32x32` of the pretraining has no
labels; any TFDS dataset with labels, or class folders, will do. The paper's fractions are 0.05,
0.1, 0.2 and 1. Expected cost: 120 000 steps of 1024 images. Result: not measured.
"""

from selfie_tf.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    config = FinetuneConfig()
    config.data.name = "tfds:imagenet_resized/32x32"
    config.train.batch_size = 1024
    return config
