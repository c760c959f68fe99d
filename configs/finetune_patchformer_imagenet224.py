"""Finetuning PatchFormer on ImageNet at 224x224 (section 2.2, Tables 1 and 2).

    python bin/finetune.py --config=configs/finetune_patchformer_imagenet224.py \
        --workdir=runs/patchformer_10 --config.init_from=runs/patchformer \
        --config.data.label_fraction=0.1 --data_dir=...

The decoder is dropped; the pooled context of the patches, of which training leaves out a tenth,
goes through a residual unit and dropout to the classifier. The paper's fractions are 0.01, 0.1 and
0.2; it tunes batch size in {16, 32, 64, 128, 256} and learning rate in {3e-5, 2e-4, 4e-4, 1e-3}
(`--config.data.validation_fraction=0.1`), and does not give the number of steps, warm-up, the size
of its soft labels or the crop: 30,000, 500, 0.1 and random resized crops of 8 % of the area or more
are our choice. Result: not measured.
"""

from selfie_tf.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    config = FinetuneConfig()
    config.data.name = "tfds:imagenet2012"
    config.data.image_size = 224
    config.data.test_split = "validation"  # TFDS's test split has no labels
    config.data.crop = "random_resized"
    config.data.min_crop_area = 0.08
    config.data.test_crop = 0.875
    config.data.shuffle_buffer = 16_384
    config.patches.size = 16
    config.patches.mask_ratio = 0.1
    config.model.head = "patchformer"
    config.model.attention_layers = 10
    config.model.num_heads = 16
    config.model.mlp_dim = 4096
    config.model.position = "factorized"
    config.model.label_smoothing = 0.1
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.weight_decay = 1e-3
    config.train.steps = 30_000
    config.train.batch_size = 128
    return config
