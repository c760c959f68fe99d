"""Configs that cannot work are refused; those of a run are read back."""

import copy
import json
import math
import pickle

import pytest

from selfie_tf.config import (
    NETWORK_KEYS,
    FinetuneConfig,
    PatchFormerConfig,
    SelfieConfig,
    flatten,
    from_dict,
    keys,
    suggest,
    to_dict,
)
from selfie_tf.errors import UserError
from selfie_tf.methods import read_config
from selfie_tf.training.build import build_classifier, build_pretrainer, compile_model


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
        ({"data.image_size": 8, "patches.size": 1}, ["patches.size=1", "from 2 to 4"]),
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
        ({"method": "selfie"}, ["method='selfie'", "for patchformer", "--config"]),
        ({"method": "mae"}, ["method='mae'", "for patchformer"]),
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
        ({"model.jigsaw_weight": 0.0}, ["jigsaw_weight=0", "instance_weight=0", "no loss"]),
        (
            {"model.instance_weight": 1.0, "train.batch_size": 1},
            ["train.batch_size=1", "model.instance_weight", "at least 2"],
        ),
        ({"views.jitter": 32}, ["views.jitter=32", "from 0 to 31"]),
        ({"views.size": 8, "views.jitter": 8}, ["views.jitter=8", "from 0 to 7"]),
        ({"model.negatives": "none"}, ["model.negatives='none'", "replica, all"]),
        ({"model.temperature": 0.0}, ["model.temperature=0.0"]),
    ],
)
def test_selfie_configs_that_cannot_work(values, expected):
    with pytest.raises(UserError) as error:
        changed(SelfieConfig, values).validate()
    for part in expected:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_an_instance_loss_alone_can_work():
    changed(SelfieConfig, {"model.jigsaw_weight": 0.0, "model.instance_weight": 1.0}).validate()


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"patches.mask_ratio": 0.1}, ["mask_ratio=0.1", "model.head=patchformer"]),
        (
            {"model.head": "patchformer", "patches.mask_ratio": 0.95},
            ["mask_ratio=0.95", "from 0 to 0.9"],
        ),
        ({"model.head": "patchformer", "model.num_heads": 3}, ["num_heads=3", "1024"]),
        (
            {"model.head": "patchformer", "patches.size": 16, "patches.mask_ratio": 0.9},
            ["mask_ratio=0.9 leaves out 4 of 4 patches"],
        ),
        (
            {"model.head": "patchformer", "patches.mask_ratio": 0.01},
            ["mask_ratio=0.01 leaves out 0 of 16 patches"],
        ),
        ({"model.head": "patchformer", "model.patch_by_patch": True}, ["patch_by_patch=True"]),
        (
            {"model.head": "patchformer", "train.batch_size": 7},
            ["train.batch_size=7: expected at least 8", "head=patchformer", "head=resnet50"],
        ),
        ({"model.label_smoothing": -0.1}, ["label_smoothing=-0.1"]),
        ({"train.frozen_steps": 200, "train.steps": 200}, ["frozen_steps=200", "steps=200"]),
    ],
)
def test_finetuning_configs_that_cannot_work(values, expected):
    with pytest.raises(UserError) as error:
        changed(FinetuneConfig, values).validate()
    for part in expected:
        assert part in str(error.value)


@pytest.mark.parametrize("head, size", [("patchformer", 8), ("resnet50", 1)])
def test_small_batches_that_work(head, size):
    changed(FinetuneConfig, {"model.head": head, "train.batch_size": size}).validate()


@pytest.mark.parametrize(
    "kind, values",
    [
        (SelfieConfig, {"model.pooling": "mean"}),
        (PatchFormerConfig, {"patches.mask_block": 7, "augment.jitter": 0}),
        (FinetuneConfig, {"init_from": "runs/x", "model.head": "patchformer"}),
    ],
)
def test_a_config_is_read_back_from_json(kind, values):
    config = changed(kind, values)
    again = read_config(json.loads(json.dumps(to_dict(config))))
    assert type(again) is kind and flatten(again) == flatten(config)


def test_a_config_from_before_there_were_methods_is_selfies():
    values = to_dict(SelfieConfig())
    del values["method"], values["init_from"]
    assert flatten(read_config(values)) == flatten(SelfieConfig())


def test_unknown_methods_and_keys_of_the_other_method():
    with pytest.raises(UserError, match="method='mae': expected one of selfie, patchformer"):
        read_config({"method": "mae"})
    with pytest.raises(UserError, match="expected one of selfie, patchformer"):
        read_config({"method": ["selfie"]})
    with pytest.raises(UserError, match="unknown config key patches.mask_ratio"):
        read_config({"method": "selfie", "patches": {"mask_ratio": 0.5}})


# What the models' constructors call otherwise than the config, or have from elsewhere.
NETWORK = {
    "data.image_size": 16,
    "patches.size": 4,
    "model.width": 2,
    "model.stem": "imagenet",
    "model.attention_layers": 2,
    "model.num_heads": 4,
    "model.mlp_dim": 6,
    "model.dropout_rate": 0.25,
    "model.norm_momentum": 0.8,
    "model.norm_synchronized": True,
    "optimizer.weight_decay": 0.03,
    "train.seed": 7,
}
SELFIE = {
    "model.position": "factorized",
    "model.pooling": "max",
    "model.logit_scale": "sqrt_dim",
    "model.jigsaw_weight": 0.5,
    "model.instance_weight": 2.0,
    "model.temperature": 0.3,
    "model.projection_dim": 7,
    "model.negatives": "all",
}
SELFIE_QUERY = {**SELFIE, "model.query": "per_location"}  # which excludes another pooling
del SELFIE_QUERY["model.pooling"]
PATCHFORMER = {
    "optimizer.name": "sgd",
    "model.position": "learned",
    "model.query": "pooled",
    "model.label_smoothing": 0.3,
    "patches.target_size": 2,
    "patches.target_bits": 3,
}
CLASSIFIER = {
    "model.head": "resnet36_attention",
    "model.patch_by_patch": True,
    "model.position": "factorized",
    "model.label_smoothing": 0.3,
    "optimizer.backbone_factor": 0.4,
    "train.frozen_steps": 9,
}
PATCHFORMER_CLASSIFIER = {
    "model.head": "patchformer",
    "model.label_smoothing": 0.3,
    "patches.mask_ratio": 0.4,
    "optimizer.backbone_factor": 0.4,
    "train.frozen_steps": 9,
}


@pytest.mark.parametrize(
    "kind, values, extra",
    [
        (SelfieConfig, SELFIE, {"query": "pooled"}),
        (SelfieConfig, SELFIE_QUERY, {"pooling": "attention"}),
        (PatchFormerConfig, PATCHFORMER, {"num_levels": 8}),
        (FinetuneConfig, CLASSIFIER, {"num_classes": 6}),
        (FinetuneConfig, PATCHFORMER_CLASSIFIER, {"num_classes": 6}),
    ],
)
def test_every_value_of_the_config_reaches_the_model(kind, values, extra):
    values = {**NETWORK, **values}
    default = flatten(kind())
    assert all(default[key] != value for key, value in values.items() if "position" not in key)
    config = changed(kind, values)
    config.validate()
    model = build_classifier(config, 6) if kind is FinetuneConfig else build_pretrainer(config)
    found = model.get_config()
    expected = {key.rpartition(".")[2]: value for key, value in values.items()}
    expected |= {"grid": 4, **extra}
    for name in ("size", "name", "target_bits"):  # are the grid, the optimizer's, the levels
        expected.pop(name, None)
    if kind is not FinetuneConfig:
        del expected["image_size"]
    if values.get("model.head") == "patchformer":
        del expected["head"]
    assert {name: found[name] for name in expected} == expected
    passed = {*expected, "position", "image_size"} & set(found)
    own = set(found) - {"name", "trainable", "dtype"}
    assert own <= passed, own - passed


def test_every_value_of_the_config_reaches_the_optimizer():
    values = {
        "optimizer.learning_rate": 0.3,
        "optimizer.weight_decay": 0.02,
        "optimizer.beta_1": 0.7,
        "optimizer.beta_2": 0.8,
        "optimizer.epsilon": 0.01,
        "optimizer.warmup_steps": 5,
        "train.steps": 20,
        "data.image_size": 16,
        "patches.size": 4,
        "patches.target_size": 2,
        "model.width": 1,
        "model.mlp_dim": 2,
    }
    config = changed(PatchFormerConfig, values)
    config.validate()
    model = build_pretrainer(config)
    compile_model(config, model, 1)
    found = model.optimizer.get_config()
    for name in ("weight_decay", "beta_1", "beta_2", "epsilon"):
        assert found[name] == values[f"optimizer.{name}"], name
    schedule = model.optimizer._learning_rate
    assert float(schedule(5)) == pytest.approx(0.3) and float(schedule(20)) == 0.0


KINDS = [SelfieConfig, PatchFormerConfig, FinetuneConfig]


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_says_what_it_is_and_every_number_its_bounds(kind):
    found = keys(kind())
    assert [key.name for key in found] == list(flatten(kind()))
    for key in found:
        assert key.help.endswith((".", "off.")) and "\n" not in key.help, key.name
        if key.type in (int, float):
            assert key.low <= key.value <= key.high, key.name
        if key.choices:
            assert key.value in key.choices, key.name


BAD = [
    (kind, key, bad)
    for kind in KINDS
    for key in keys(kind())
    for bad in (
        *([key.low - 1] if key.low is not None else []),
        *([key.high + 1] if key.high not in (None, math.inf) else []),
        *(["nothing of the kind"] if key.choices else []),
        *([None] if key.type in (str, bool) else []),
    )
]


@pytest.mark.parametrize("kind, key, bad", BAD, ids=lambda x: getattr(x, "name", None))
def test_a_value_outside_its_bounds_is_refused_by_name(kind, key, bad):
    config = changed(kind, {key.name: key.type(bad) if key.type is float else bad})
    with pytest.raises(UserError, match=f"^{key.name}="):
        config.validate()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_assigned_after_construction_is_explicit(kind):
    config = kind()
    config.validate()  # turns ints into floats, which nobody gave
    assert config.explicit_keys() == set()
    config.model.width = config.model.width  # though it is the default
    config.init_from = "runs/x"
    config.optimizer.learning_rate = 1
    config.validate()
    given = {"model.width", "init_from", "optimizer.learning_rate"}
    assert config.explicit_keys() == given and config.optimizer.learning_rate == 1.0
    for same in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert same == config and same.explicit_keys() == given
    config.set_explicit({"train.steps"})
    assert config.explicit_keys() == {"train.steps"} and config.model.width == 64


def test_values_of_a_file_are_not_explicit():
    config = from_dict(FinetuneConfig, {"init_from": "x", "model": {"width": 8}})
    assert config.model.width == 8 and config.explicit_keys() == set()


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_has_the_same_keys_in_all_kinds(kind):
    assert set(NETWORK_KEYS) <= set(flatten(kind()))


def test_from_scratch_needs_a_network():
    with pytest.raises(UserError, match="from_scratch=True takes the network of init_from"):
        changed(FinetuneConfig, {"from_scratch": True}).validate()


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("lr", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("train.lr", "optimizer.learning_rate"),
        ("epochs", "train.steps"),
        ("batch", "train.batch_size"),
        ("path", "data.name"),
        ("dataset", "data.name"),
        ("train.stepz", "train.steps"),
        ("trian.steps", "train.steps"),
        ("image_size", "data.image_size"),
        ("model.wdith", "model.width"),
        ("xyzzy", None),
    ],
)
def test_what_people_type_is_understood(typed, meant):
    assert suggest(typed, SelfieConfig()) == meant
