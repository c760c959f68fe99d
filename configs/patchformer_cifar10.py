"""PatchFormer on CIFAR-10, small enough to be studied on a CPU; not a run of the paper.

    python bin/pretrain.py --config=configs/patchformer_cifar10.py \
        --workdir=runs/patchformer_cifar10

32x32 images, 8x8 grid of 4x4 patches, 24 seen and 40 hidden (10 of 16 blocks of 2x2), of which all
4x4 pixels are decoded to 4 grey levels. Result: not measured. A short run on two CPU
cores, on CIFAR-10 (JPEG copy): width 16, mlp_dim 512, 3 attention layers, 2000 steps of 128, peak
learning rate 1e-3, mixed_bfloat16: pixel accuracy 0.585 on held-out images; copying the nearest
visible pixel makes 0.590.
"""

from selfie_tf.config import PatchFormerConfig


def get_config() -> PatchFormerConfig:
    config = PatchFormerConfig()
    config.data.name = "tfds:cifar10"
    config.data.image_size = 32
    config.data.min_crop_area = 0.5
    config.data.shuffle_buffer = 50_000
    config.patches.size = 4
    config.patches.target_size = 4
    config.augment.jitter = 1
    config.model.width = 32
    config.model.attention_layers = 4
    config.model.num_heads = 8
    config.model.mlp_dim = 2048
    config.optimizer.warmup_steps = 500
    config.train.steps = 20_000
    config.train.picture_every = 1000
    return config
