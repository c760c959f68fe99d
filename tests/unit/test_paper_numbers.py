"""Each config of a paper holds the paper's numbers, whether it spells them out or not.

The numbers are written out here once more, with the section that gives them, so that neither a
default nor a config can drift. S is Selfie (Trinh, Luong, Le 2019), PF is PatchFormer (ICLR 2020
submission); "ours" marks a choice where the paper is silent (docs/REPRODUCTION.md).
"""

import os
import runpy

import pytest

from selfie_tf.config import FinetuneConfig, PatchFormerConfig, SelfieConfig, flatten

from helpers import ROOT

SELFIE_OPTIMIZER = {
    "optimizer.name": "sgd",  # S 3.2
    "optimizer.momentum": 0.9,  # S 3.2, Nesterov
    "optimizer.warmup_steps": 100,  # S 3.2
    "optimizer.weight_decay": 1e-4,  # S 3.2
    "optimizer.learning_rate": 0.1,  # S 3.2: tuned in {0.01, ..., 0.4}; ours
    "train.steps": 120_000,  # S 3.2, for pretraining and finetuning alike
    "train.precision": "float32",
}
SELFIE_NETWORK = {
    "model.width": 64,  # S 3.2: ResNet-50's own, so that A's hidden size is 1024
    "model.attention_layers": 3,  # S 3.2
    "model.num_heads": 32,  # S 3.2
    "model.mlp_dim": 640,  # S 3.2
    "model.dropout_rate": 0.1,  # S 2.2
}
SELFIE_PRETRAINING = {
    **SELFIE_OPTIMIZER,
    **SELFIE_NETWORK,
    "method": "selfie",
    "patches.context_fraction": 0.75,  # S 3.2: p in {0.75, 0.5}
    "model.pooling": "attention",  # S 2.2
    "model.logit_scale": "none",  # S 2.1: the plain dot product
    "model.jigsaw_weight": 1.0,  # S 2.1: the only loss
    "model.instance_weight": 0.0,
}
SMALL_IMAGES = {
    "data.image_size": 32,  # S 3.1
    "data.crop": "pad",  # S 2.1: zero padding and a random crop, at 32x32 alone
    "patches.size": 8,  # S 2.1
    "patches.pad": 4,  # S 2.1
    "model.stem": "small",  # ours
    "model.position": "learned",  # S 2.2: one vector per patch
}
LARGE_IMAGES = {
    "data.image_size": 224,  # S 3.1
    "data.crop": "random_resized",  # ours
    "patches.size": 32,  # S 2.1
    "model.stem": "imagenet",  # S 2.1: ResNet's
    "model.position": "factorized",  # S 2.2: row plus column
}
SELFIE_FINETUNING = {
    **SELFIE_OPTIMIZER,
    "model.width": 64,
    "model.head": "resnet50",  # S 2.3
    "model.label_smoothing": 0.0,  # S 3.2: no other regularisation than weight decay
    "model.dropout_rate": 0.1,
    "data.flip": True,  # ours, as He et al. 2016a
    "data.label_fraction": 1.0,
    "data.validation_fraction": 0.0,
    "init_from": "",
}
PATCHFORMER = {
    "data.image_size": 224,  # PF 2.1
    "data.crop": "random_resized",  # ours
    "patches.size": 16,  # PF 2.1
    "model.width": 64,  # PF 2.1: vectors of 1024
    "model.attention_layers": 10,  # PF 2.1
    "model.num_heads": 16,  # PF 2.1
    "model.mlp_dim": 4096,  # PF 2.1: four times the width
    "model.dropout_rate": 0.1,
    "model.position": "factorized",  # PF 2.1
    "optimizer.name": "adamw",  # PF 2.1
    "optimizer.learning_rate": 2e-4,  # PF 2.1
    "optimizer.weight_decay": 1e-3,  # PF 2.1
    "optimizer.beta_1": 0.9,  # ours, BERT's
    "optimizer.beta_2": 0.999,  # ours, BERT's
    "optimizer.epsilon": 1e-6,  # ours, BERT's
    "train.batch_size": 128,  # PF 2.1
}
PAPER = {
    "selfie_cifar10": {
        **SELFIE_PRETRAINING,
        **SMALL_IMAGES,
        "data.name": "tfds:cifar10",
        "train.batch_size": 512,  # S 3.2
    },
    "selfie_imagenet32": {
        **SELFIE_PRETRAINING,
        **SMALL_IMAGES,
        "data.name": "tfds:imagenet_resized/32x32",
        "train.batch_size": 1024,  # S 3.2
    },
    "selfie_imagenet224": {
        **SELFIE_PRETRAINING,
        **LARGE_IMAGES,
        "data.name": "tfds:imagenet2012",
        "data.min_crop_area": 0.2,  # ours
        "train.batch_size": 1024,  # S 3.2
    },
    "finetune_cifar10": {
        **SELFIE_FINETUNING,
        **SMALL_IMAGES,
        "data.name": "tfds:cifar10",
        "data.test_crop": 1.0,
        "train.batch_size": 512,  # S 3.2
    },
    "finetune_imagenet32": {
        **SELFIE_FINETUNING,
        **SMALL_IMAGES,
        "data.name": "tfds:imagenet_resized/32x32",
        "data.test_crop": 1.0,
        "train.batch_size": 1024,  # S 3.2
    },
    "finetune_imagenet224": {
        **SELFIE_FINETUNING,
        **LARGE_IMAGES,
        "data.name": "tfds:imagenet2012",
        "data.min_crop_area": 0.08,  # ours, the usual value of supervised training
        "data.test_split": "validation",
        "data.test_crop": 0.875,  # ours, the usual 224 of 256
        "train.batch_size": 1024,  # S 3.2
    },
    "patchformer_imagenet224": {
        **PATCHFORMER,
        "method": "patchformer",
        "data.min_crop_area": 0.2,  # ours
        "patches.mask_ratio": 0.6,  # PF 2.1
        "patches.mask_block": 2,  # PF 2.1: a 7x7 grid, upsampled
        "patches.target": "center_crop",  # PF 2.1
        "patches.target_size": 8,  # PF 2.1
        "patches.target_bits": 2,  # PF 2.1
        "augment.jitter": 2,  # ours
        "augment.brightness": 32 / 255,  # ours, Inception's
        "augment.contrast": 0.5,  # ours, Inception's
        "augment.saturation": 0.5,  # ours, Inception's
        "augment.hue": 0.2,  # ours, Inception's
        "augment.flip_rate": 0.2,  # PF 2.1
        "augment.min_bits": 2,  # PF 2.1: bit depth 2 to 8
        "augment.grayscale_rate": 0.2,  # PF 2.1
        "model.query": "per_location",  # PF 2.1, one of its two readings
        "model.label_smoothing": 0.01,  # PF 2.1
        "optimizer.warmup_steps": 10_000,  # ours
        "train.steps": 300_000,  # PF 2.1
    },
    "finetune_patchformer_imagenet224": {
        **PATCHFORMER,
        "model.head": "patchformer",  # PF 2.2
        "patches.mask_ratio": 0.1,  # PF 2.2
        "model.label_smoothing": 0.1,  # PF 2.2: "soft labels"; the size is ours
        "optimizer.warmup_steps": 500,  # ours
        "train.steps": 30_000,  # ours
        "data.min_crop_area": 0.08,  # ours, the usual value of supervised training
        "data.test_split": "validation",
        "data.test_crop": 0.875,
    },
}


def read(name):
    path = os.path.join(ROOT, "configs", f"{name}.py")
    return flatten(runpy.run_path(path)["get_config"]())


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers(name):
    config = read(name)
    expected = PAPER[name]
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(
    "pretraining, finetuning",
    [
        ("selfie_cifar10", "finetune_cifar10"),
        ("selfie_imagenet32", "finetune_imagenet32"),
        ("selfie_imagenet224", "finetune_imagenet224"),
        ("patchformer_imagenet224", "finetune_patchformer_imagenet224"),
    ],
)
def test_finetuning_reads_the_images_of_the_pretraining(pretraining, finetuning):
    """Another copy of a dataset may have been shrunk in another way."""
    for key in ("data.name", "data.image_size"):
        assert read(pretraining)[key] == read(finetuning)[key]


@pytest.mark.parametrize(
    "name, kind",
    [
        ("selfie_cifar10", SelfieConfig),
        ("patchformer_imagenet224", PatchFormerConfig),
        ("finetune_cifar10", FinetuneConfig),
    ],
)
def test_the_defaults_are_a_papers_run(name, kind):
    """So that a config made in Python begins with the paper's numbers."""
    config = flatten(kind())
    assert {key: config[key] for key in PAPER[name]} == PAPER[name]
