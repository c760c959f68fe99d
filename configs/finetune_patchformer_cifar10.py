"""Finetuning PatchFormer on CIFAR-10, after configs/patchformer_cifar10.py (section 2.2).

    python bin/finetune.py --config=configs/finetune_patchformer_cifar10.py \
        --workdir=runs/patchformer_cifar10_5 --config.init_from=runs/patchformer_cifar10 \
        --config.data.label_fraction=0.05

Small enough to be studied on a CPU; not a run of the paper. Result: not measured.
After the first look of configs/patchformer_cifar10.py, 400 steps, peak learning rate 1e-3: test
accuracy 0.477 on 5 % of the labels, 0.372 from scratch (one seed).
"""

from selfie_tf.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    config = FinetuneConfig()
    config.patches.size = 4
    config.patches.mask_ratio = 0.1
    config.model.head = "patchformer"
    config.model.width = 32
    config.model.attention_layers = 4
    config.model.num_heads = 8
    config.model.mlp_dim = 2048
    config.model.position = "factorized"
    config.model.label_smoothing = 0.1
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.weight_decay = 1e-3
    config.train.steps = 5000
    config.train.batch_size = 128
    config.train.eval_every = 1000
    return config
