"""Fixtures of several test files."""

import fcntl
import hashlib
import os
import shutil

import numpy as np
import pytest

import selfie_tf  # noqa: F401  (before TensorFlow: chooses Keras 2)
from selfie_tf.evaluation import embed
from selfie_tf.training.load import LoadedRun

import shallow
from helpers import make_tiny_config, succeeds


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """flags -> the work directory of that run, which tests read and never change.

    A run is made once, whatever number of test files and processes ask for it. `stdout.txt` in the
    folder holds what the command printed.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the processes' own folders are in it

    def run_once(flags, command="pretrain"):
        name = hashlib.sha256(repr([command, *flags, shallow.is_shallow()]).encode()).hexdigest()[
            :16
        ]
        workdir = root / f"run-{name}"
        with open(f"{workdir}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (workdir / "stdout.txt").exists():
                out = succeeds(command, *flags, f"--workdir={workdir}")
                (workdir / "stdout.txt").write_text(out)
        return workdir

    return run_once


@pytest.fixture(scope="session")
def finished(shared, tmp_path_factory):
    """flags -> a copy of the work directory of that run, for tests that change it."""

    def copy(flags, command="pretrain"):
        workdir = tmp_path_factory.mktemp("runs") / "finished"
        shutil.copytree(shared(flags, command), workdir)
        return workdir

    return copy


@pytest.fixture(scope="module", autouse=True)
def depth_of_the_module(request):
    """P is shallow, also in processes, but in tests and modules with the mark `full_depth`."""
    set_depth(request.node)


@pytest.fixture(autouse=True)
def depth(request):
    set_depth(request.node)


def set_depth(node):
    shallow.set_depth(shallow.FULL if node.get_closest_marker("full_depth") else shallow.SHALLOW)


@pytest.fixture(autouse=True)
def seeded_weights():
    """Initial weights are the same in every run of the tests, and in any order of them."""
    import tf_keras as keras

    keras.utils.set_random_seed(1)


@pytest.fixture
def rng():
    return np.random.default_rng(20190606)


@pytest.fixture
def tiny_config():
    return make_tiny_config()


@pytest.fixture
def means(monkeypatch, tiny_config):
    """Stands in for a pretrained network, whose features are the means of the channels."""
    import tensorflow as tf  # after selfie_tf

    class Model:
        @staticmethod
        def image_features(images, training):
            assert training is False
            return tf.reduce_mean(tf.cast(images, tf.float64), [1, 2])

    run = LoadedRun(Model, tiny_config, (), 7, "made up", "", "abc")
    monkeypatch.setattr(embed, "is_finetuning", lambda path: False)
    monkeypatch.setattr(embed, "load_pretraining_run", lambda path: run)
