"""The README is a door: short, and true of the code."""

import os
import re

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.config import FinetuneConfig, SelfieConfig, to_dict
from selfie_tf.storage.checkpoints import Checkpointer
from selfie_tf.storage.files import write_atomically
from selfie_tf.training.build import build_classifier, build_pretrainer, compile_model

from helpers import ROOT

with open(os.path.join(ROOT, "README.md")) as file:
    README = file.read()
with open(os.path.join(ROOT, "docs", "RESULTS.md")) as file:
    RESULTS = file.read()


def test_it_is_short():
    assert 120 <= len(README.splitlines()) <= 160


def test_its_numbers_are_those_of_the_results():
    numbers = set(re.findall(r"\d+\.\d(?: ± \d\.\d)? %", README))
    assert len(numbers) >= 8 and all(number in RESULTS for number in numbers)


def save_run(path, config, model):
    """Leaves what a run leaves: its config and a checkpoint."""
    compile_model(config, model)
    os.makedirs(path)
    write_json(os.path.join(path, "config.json"), to_dict(config))
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    Checkpointer(os.path.join(path, "checkpoints"), checkpoint).save(1)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The current directory, with the runs that the Python of README and guide loads."""
    monkeypatch.chdir(tmp_path)
    for kind, path in ((SelfieConfig, "runs/mine"), (FinetuneConfig, "runs/classifier")):
        config = kind()
        config.model.width, config.model.num_heads, config.model.mlp_dim = 2, 2, 16
        if kind is SelfieConfig:
            save_run(path, config, build_pretrainer(config))
        else:
            save_run(path, config, build_classifier(config, 3))
            write_json(os.path.join(path, "subset.json"), {"class_names": ["a", "b", "c"]})


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.S)


def test_its_python_runs(runs):
    (block,) = python_blocks(README)
    assert sum(bool(line.strip()) for line in block.splitlines()) <= 8
    values = {"images": np.zeros([5, 32, 32, 3], np.uint8)}
    exec(block, values)
    assert values["features"].shape == (5, 32)
    assert values["feature_maps"].shape == (5, 8, 8, 32)
    assert values["logits"].shape == (5, 3)
