"""Selfie pretraining on ImageNet at 224x224 (sections 2.1, 2.2, 3.2).

    python bin/pretrain.py --config=configs/selfie_imagenet224.py --workdir=runs/imagenet224 \
        --config.data.name=folder:/path/to/images

7x7 grid of 32x32 patches, 37 seen and 12 hidden; row + column positions; ResNet's ImageNet stem
(7x7 stride 2 and max-pooling: a 32x32 patch ends as 2x2). The paper says nothing of the crop
before cutting at this size; a random resized crop is our choice. Expected cost: 120,000 steps of
1024 images. Result: not measured.
"""

from selfie_tf.config import SelfieConfig


def get_config() -> SelfieConfig:
    config = SelfieConfig()
    config.data.name = "tfds:imagenet2012"
    config.data.image_size = 224
    config.data.crop = "random_resized"
    config.data.shuffle_buffer = 16_384
    config.patches.size = 32
    config.patches.context_fraction = 0.75
    config.model.stem = "imagenet"
    config.model.width = 64
    config.model.attention_layers = 3
    config.model.num_heads = 32
    config.model.mlp_dim = 640
    config.model.dropout_rate = 0.1
    config.model.position = "factorized"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 1e-4
    config.train.steps = 120_000
    config.train.batch_size = 1024
    return config
