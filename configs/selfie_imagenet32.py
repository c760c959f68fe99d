"""Selfie pretraining on ImageNet downsampled to 32x32 (sections 2.1, 3.1, 3.2).

    python bin/pretrain.py --config=configs/selfie_imagenet32.py --workdir=runs/imagenet32

As CIFAR-10 (8x8 patches, learned positions) with batch 1024. The images are those that
configs/finetune_imagenet32.py reads, all of ImageNet shrunk with a box filter. Expected cost:
120,000 steps of 1024 images, about 7.5 GFLOP per image. Result: not measured.
"""

from selfie_tf.config import SelfieConfig


def get_config() -> SelfieConfig:
    config = SelfieConfig()
    config.data.name = "tfds:imagenet_resized/32x32"
    config.data.image_size = 32
    config.data.crop = "pad"
    config.patches.size = 8
    config.patches.pad = 4
    config.patches.context_fraction = 0.75
    config.model.width = 64
    config.model.attention_layers = 3
    config.model.num_heads = 32
    config.model.mlp_dim = 640
    config.model.dropout_rate = 0.1
    config.model.position = "learned"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 1e-4
    config.train.steps = 120_000
    config.train.batch_size = 1024
    return config
