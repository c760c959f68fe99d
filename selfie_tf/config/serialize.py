"""Configs as plain values, and what is known of each key."""

import dataclasses
import difflib
import math
import typing

from selfie_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Key:
    """One value of a config.

    Attributes:
      name: The dotted key, such as "data.image_size".
      value: Its value in the config.
      type: int, float, str or bool.
      help: What it means, in one line.
      low, high: Bounds of a number; None for other types.
      choices: What a string may be; empty if anything.
    """

    name: str
    value: typing.Any
    type: type
    help: str
    low: float | None
    high: float | None
    choices: tuple


def keys(config) -> list:
    """Lists the `Key`s of a config, section by section."""
    found = []

    def walk(holder, prefix):
        types = typing.get_type_hints(type(holder))
        for field in dataclasses.fields(holder):
            value, kind = getattr(holder, field.name), types[field.name]
            if dataclasses.is_dataclass(kind):
                walk(value, f"{prefix}{field.name}.")
            else:
                found.append(Key(f"{prefix}{field.name}", value, kind, **field.metadata))

    walk(config, "")
    return found


def flatten(config) -> dict:
    """{"section.key": value} of a config, section by section."""
    return {key.name: key.value for key in keys(config)}


def to_dict(config) -> dict:
    """The config as nested plain values, as written to config.json."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: dict):
    """The inverse of `to_dict`.

    Args:
      kind: The config's class.
      values: Nested plain values; those that are missing keep their defaults.

    Returns:
      A `kind`, none of whose keys counts as explicitly given.

    Raises:
      UserError: On a section or key that does not exist, or a value that cannot work.
    """
    config = kind()
    for section, entries in values.items():
        holder = getattr(config, section, None)
        if isinstance(holder, str | bool):
            setattr(config, section, entries)
            continue
        if not dataclasses.is_dataclass(holder) or not isinstance(entries, dict):
            raise UserError(f"unknown config section {section!r}")
        for key, value in entries.items():
            if key not in {field.name for field in dataclasses.fields(holder)}:
                raise UserError(f"unknown config key {section}.{key}")
            setattr(holder, key, value)
    config.validate()
    config.set_explicit(())
    return config


def kind_of_run(values: dict) -> str:
    """The kind of run that a config.json is of: "finetuning", "selfie pretraining", ..."""
    if "init_from" in values and "method" not in values:
        return "finetuning"
    return f"{values.get('method', 'selfie')} pretraining"  # the first configs named no method


def check_fields(config) -> None:
    """Checks the type of every value, and its field's bounds or choices.

    An int that is given for a float becomes one.

    Raises:
      UserError: Naming the first key whose value cannot work.
    """
    for key in keys(config):
        name, value = key.name, key.value
        if key.type is float and type(value) is int:
            section, _, field = name.rpartition(".")
            # Not setattr, which would note that the user gave it.
            (getattr(config, section) if section else config).__dict__[field] = float(value)
        elif type(value) is not key.type:
            wanted, got = key.type.__name__, type(value).__name__
            raise UserError(f"{name}={value!r}: expected {wanted}, got {got}")
        if key.choices and value not in key.choices:
            raise UserError(f"{name}={value!r}: expected one of {', '.join(key.choices)}")
        if key.low is not None and not key.low <= value <= key.high:  # False for NaN, too
            at_least = key.high == math.inf
            bounds = f"at least {key.low}" if at_least else f"from {key.low} to {key.high}"
            raise UserError(f"{name}={value}: expected a number {bounds}")


# What people type for a key, by its last part.
_SYNONYMS = {
    "batch": "train.batch_size",
    "bs": "train.batch_size",
    "checkpoint": "init_from",
    "data_dir": "data.name",
    "dataset": "data.name",
    "dropout": "model.dropout_rate",
    "epochs": "train.steps",
    "folder": "data.name",
    "heads": "model.num_heads",
    "layers": "model.attention_layers",
    "lr": "optimizer.learning_rate",
    "mask": "patches.mask_ratio",
    "optimizer": "optimizer.name",
    "patch_size": "patches.size",
    "path": "data.name",
    "pretrained": "init_from",
    "resolution": "data.image_size",
    "size": "data.image_size",
    "split": "data.test_split",
    "warmup": "optimizer.warmup_steps",
    "wd": "optimizer.weight_decay",
    "weights": "init_from",
}


def assign(config, key: str, value) -> None:
    """Sets one value of a config by its dotted key.

    Raises:
      UserError: If the config has no such key.
    """
    if key not in flatten(config):
        raise UserError(f"unknown config key {key}")
    section, _, name = key.rpartition(".")
    setattr(getattr(config, section) if section else config, name, value)


def suggest(key: str, config) -> str | None:
    """The key of `config` that `key`, which it does not have, was probably meant to be."""
    known = [k.name for k in keys(config)]
    last = key.rpartition(".")[2]
    same_last = [name for name in known if name.rpartition(".")[2] == last]
    if len(same_last) == 1:
        return same_last[0]
    if _SYNONYMS.get(last) in known:
        return _SYNONYMS[last]
    close = difflib.get_close_matches(key, known, 1, 0.6)
    if close:
        return close[0]
    by_last = {name.rpartition(".")[2]: name for name in known}
    close = difflib.get_close_matches(last, by_last, 1, 0.6)
    return by_last[close[0]] if close else None
