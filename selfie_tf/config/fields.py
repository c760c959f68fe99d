"""Fields of a config: each with its default, its bounds or choices, and its words."""

import dataclasses
import math


def bounded(default: float, low: float, high: float = math.inf, help: str = ""):
    """A number from `low` to `high`; an int field if `default` is one."""
    return _field(default, help, low=low, high=high)


def choice(default: str, choices: tuple, help: str = ""):
    """One of `choices`."""
    return _field(default, help, choices=choices)


def text(default: str, help: str = ""):
    """A string."""
    return _field(default, help)


def switch(default: bool, help: str = ""):
    """True or False."""
    return _field(default, help)


def _field(default, help, low=None, high=None, choices=()):
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


class Section:
    """A part of a config that notes which of its values were assigned after construction."""

    def __post_init__(self):
        self.__dict__["_assigned"] = set()

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        self.__dict__.setdefault("_assigned", set()).add(name)
