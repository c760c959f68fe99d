"""PatchFormer pretraining on ImageNet at 224x224, the paper's run (section 2.1).

    python bin/pretrain.py --config=configs/patchformer_imagenet224.py --workdir=runs/patchformer \
        --config.data.name=folder:/path/to/images

14x14 grid of 16x16 patches, 80 seen and 116 hidden (29 of 49 blocks of 2x2); of each hidden patch
the middle 8x8 pixels are decoded to 4 grey levels. Ten attention blocks of width 1024. The paper
does not describe warm-up, learning-rate decay or the crop before cutting: 10,000 steps, a
cosine, and random resized crops are our choice. Expected cost: 300,000 steps of 128 images. Result
at this size: not measured.
"""

from selfie_tf.config import PatchFormerConfig


def get_config() -> PatchFormerConfig:
    config = PatchFormerConfig()
    config.data.name = "tfds:imagenet2012"
    config.data.image_size = 224
    config.data.crop = "random_resized"
    config.data.shuffle_buffer = 16_384
    config.patches.size = 16
    config.patches.mask_ratio = 0.6
    config.patches.mask_block = 2
    config.patches.target = "center_crop"
    config.patches.target_size = 8
    config.patches.target_bits = 2
    config.model.width = 64
    config.model.attention_layers = 10
    config.model.num_heads = 16
    config.model.mlp_dim = 4096
    config.model.dropout_rate = 0.1
    config.model.position = "factorized"
    config.model.query = "per_location"
    config.model.label_smoothing = 0.01
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 10_000
    config.optimizer.weight_decay = 1e-3
    config.train.steps = 300_000
    config.train.batch_size = 128
    config.train.picture_every = 10_000
    return config
