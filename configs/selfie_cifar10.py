"""Selfie pretraining on CIFAR-10, the paper's run (sections 2.1, 2.2, 3.2).

    python bin/pretrain.py --config=configs/selfie_cifar10.py --workdir=runs/cifar10

32x32 images, 4x4 grid of 8x8 patches, 12 seen and 4 hidden; P + A have 25.09 M trainable
parameters. The paper tunes the peak learning rate in {0.01, 0.02, 0.05, 0.1, 0.2, 0.4} and p in
{0.5, 0.75} without saying which values won. Expected cost: 120,000 steps of 512 images, about 7.5
GFLOP per image. Result: not measured. Chance is 0.25 patch accuracy. A short run on two CPU cores,
on CIFAR-10 (JPEG copy): width 16 (num_heads 8, mlp_dim 160), 400 steps of 128,
peak learning rate 0.05, mixed_bfloat16: patch accuracy 0.60 over the last 50 steps; held out 0.61
cropped as in training, 0.32 uncropped (the zero margin of edge patches gives their position away).
"""

from selfie_tf.config import SelfieConfig


def get_config() -> SelfieConfig:
    config = SelfieConfig()
    config.data.name = "tfds:cifar10"
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
    config.train.batch_size = 512
    return config
