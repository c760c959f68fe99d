"""Finetuning on ImageNet downsampled to 32x32 (sections 2.3, 3.1, 3.2; Table 1).

    python bin/finetune.py --config=configs/finetune_imagenet32.py --workdir=runs/imagenet32_5 \
        --config.init_from=runs/imagenet32 --config.data.label_fraction=0.05

The images are those of the pretraining. The paper's fractions are 0.05, 0.1, 0.2 and 1. Expected
cost: 120,000 steps of 1024 images. Result: not measured.
"""

from selfie_tf.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    config = FinetuneConfig()
    config.data.name = "tfds:imagenet_resized/32x32"
    config.data.image_size = 32
    config.data.crop = "pad"
    config.data.flip = True
    config.patches.size = 8
    config.patches.pad = 4
    config.model.head = "resnet50"
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
