"""Selfie pretraining on CIFAR-10, the paper's run (sections 2.1, 2.2, 3.2).

    python bin/pretrain.py --config=configs/selfie_cifar10.py --workdir=runs/cifar10

32x32 images, 4x4 grid of 8x8 patches, 12 seen and 4 hidden; P + A have 25.09 M trainable
parameters. The paper tunes the peak learning rate in {0.01, 0.02, 0.05, 0.1, 0.2, 0.4} and p in
{0.5, 0.75} without saying what won. Expected cost: 120 000 steps of 512 images, about 7.5 GFLOP an
image. Result at this size: not measured. Chance is 0.25 patch accuracy. A first look on two CPU
cores, on CIFAR-10 (JPEG copy): width 16 (num_heads 8, mlp_dim 160), 400 steps of 128,
peak learning rate 0.05, mixed_bfloat16: patch accuracy 0.60 over the last 50 steps; held out 0.61
cropped as in training, 0.32 uncropped (the zero margin of edge patches gives their place away).
"""

from selfie_tf.config import SelfieConfig


def get_config() -> SelfieConfig:
    return SelfieConfig()  # the defaults are this run
