"""Finetuning on ImageNet at 224x224 (sections 2.3, 3.1, 3.2; Tables 1 and 2, Figure 4).

    python bin/finetune.py --config=configs/finetune_imagenet224.py --workdir=runs/imagenet224_5 \
        --config.init_from=runs/imagenet224 --config.data.label_fraction=0.05 --data_dir=...

ResNet-50 with ResNet's ImageNet stem. Random resized crops of 8 % of the area or more and mirroring
in training, the central 7/8 of the shorter side at test, as is usual. The paper's fractions are
0.02 (Figure 4 only), 0.05, 0.1, 0.2 and 1. A labelled subset is held in memory in its stored form
(about 110 KB per image); the whole training set is streamed. Expected cost: 120,000 steps of 1,024
images.
Result: not measured.
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
    config.data.flip = True
    config.data.shuffle_buffer = 16_384
    config.patches.size = 32
    config.model.head = "resnet50"
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
