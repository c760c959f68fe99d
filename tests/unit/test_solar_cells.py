"""The split of the solar cells in examples/solar_cells.py keeps modules together."""

import importlib.util
import os

import numpy as np
import pytest

from helpers import ROOT

PATH = os.path.join(ROOT, "examples", "solar_cells.py")
SPEC = importlib.util.spec_from_file_location("solar_cells", PATH)
solar_cells = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(solar_cells)


@pytest.mark.parametrize("seed", range(20))
def test_no_module_is_in_training_and_test(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(24, 73, 44)
    kinds = np.where(rng.random(44) < 0.3, "mono", "poly")
    modules = np.repeat(np.arange(44), sizes)
    splits = np.array(solar_cells.split_of(list(np.repeat(kinds, sizes))))
    assert len(splits) == len(modules)
    train, test = (set(modules[splits == name]) for name in ("train", "test"))
    assert train and test and not train & test


def test_the_last_quarter_of_a_stretch_is_the_test_split_and_short_ones_are_for_training():
    splits = solar_cells.split_of(["mono"] * 60 + ["poly"] * 300)
    assert splits == ["train"] * 60 + ["train"] * 153 + [""] * 72 + ["test"] * 75
