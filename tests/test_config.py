"""Configs that cannot work are refused; those of a run are read back."""

import json

import pytest

from selfie_tf.config import (
    Config,
    FinetuneConfig,
    PatchFormerConfig,
    flatten,
    from_dict,
    to_dict,
)
from selfie_tf.errors import UserError


def changed(kind, values):
    config = kind()
    for key, value in values.items():
        holder = config
        *path, name = key.split(".")
        for part in path:
            holder = getattr(holder, part)
        assert hasattr(holder, name)
        setattr(holder, name, value)
    return config


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"patches.mask_ratio": 0.0}, ["mask_ratio=0.0", "0 hidden"]),
        ({"patches.mask_ratio": 1.0}, ["mask_ratio=1.0", "0 visible"]),
        ({"patches.mask_ratio": 0.01}, ["mask_ratio=0.01", "0 hidden"]),
        ({"patches.mask_ratio": float("nan")}, ["mask_ratio=nan", "from 0 to 1"]),
        ({"patches.mask_block": 3}, ["mask_block=3", "14x14"]),
        ({"patches.mask_block": 15}, ["mask_block=15", "from 1 to 14"]),
        ({"patches.mask_block": 14}, ["0 visible"]),
        ({"patches.target_size": 6}, ["target_size=6", "power of two"]),
        ({"patches.target_size": 32}, ["target_size=32", "from 2 to 16"]),
        ({"patches.target": "middle"}, ["target='middle'", "center_crop, subsample"]),
        ({"patches.target_bits": 0}, ["target_bits=0", "from 1 to 8"]),
        (
            {"patches.size": 14, "patches.target": "subsample"},
            ["target_size=8 does not divide patches.size=14"],
        ),
        ({"augment.jitter": 16}, ["augment.jitter=16", "from 0 to 15"]),
        ({"augment.hue": 0.6}, ["augment.hue=0.6", "0.5"]),
        ({"augment.contrast": -0.1}, ["augment.contrast=-0.1"]),
        ({"augment.saturation": 1.1}, ["augment.saturation=1.1"]),
        ({"augment.brightness": 2.0}, ["augment.brightness=2.0"]),
        ({"augment.flip_rate": 1.5}, ["augment.flip_rate=1.5"]),
        ({"augment.grayscale_rate": -1.0}, ["augment.grayscale_rate=-1.0"]),
        ({"augment.min_bits": 0}, ["augment.min_bits=0", "from 1 to 8"]),
        ({"model.query": "mean"}, ["model.query='mean'", "per_location, pooled"]),
        ({"model.label_smoothing": 1.0}, ["model.label_smoothing=1.0"]),
        ({"optimizer.name": "adam"}, ["optimizer.name='adam'", "sgd, adamw"]),
        ({"optimizer.beta_2": 1.0}, ["optimizer.beta_2=1.0"]),
        ({"optimizer.epsilon": 0.0}, ["optimizer.epsilon=0.0"]),
        ({"method": "selfie"}, ["method='selfie'", "configs/selfie_cifar10.py"]),
        ({"method": "mae"}, ["method='mae'", "of patchformer"]),
    ],
)
def test_patchformer_configs_that_cannot_work(values, expected):
    with pytest.raises(UserError) as error:
        changed(PatchFormerConfig, values).validate()
    for part in expected:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"patches.mask_ratio": 0.1}, ["mask_ratio=0.1", "model.head=patchformer"]),
        (
            {"model.head": "patchformer", "patches.mask_ratio": 0.95},
            ["mask_ratio=0.95", "from 0 to 0.9"],
        ),
        ({"model.head": "patchformer", "model.num_heads": 3}, ["num_heads=3", "1024"]),
        ({"model.label_smoothing": -0.1}, ["label_smoothing=-0.1"]),
    ],
)
def test_finetuning_configs_that_cannot_work(values, expected):
    with pytest.raises(UserError) as error:
        changed(FinetuneConfig, values).validate()
    for part in expected:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "kind, values",
    [
        (Config, {"model.pooling": "mean"}),
        (PatchFormerConfig, {"patches.mask_block": 7, "augment.jitter": 0}),
        (FinetuneConfig, {"init_from": "runs/x", "model.head": "patchformer"}),
    ],
)
def test_a_config_is_read_back_from_json(kind, values):
    config = changed(kind, values)
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert type(again) is kind and flatten(again) == flatten(config)


def test_a_config_from_before_there_were_methods_is_selfies():
    values = to_dict(Config())
    del values["method"]
    assert flatten(from_dict(values)) == flatten(Config())


def test_unknown_methods_and_keys_of_the_other_method():
    with pytest.raises(UserError, match="method='mae': expected one of selfie, patchformer"):
        from_dict({"method": "mae"})
    with pytest.raises(UserError, match="unknown config key patches.mask_ratio"):
        from_dict({"method": "selfie", "patches": {"mask_ratio": 0.5}})
