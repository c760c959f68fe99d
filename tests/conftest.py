"""Fixtures of several test files."""

import fcntl
import hashlib
import os
import shutil

import numpy as np
import pytest

import selfie_tf  # noqa: F401  (before TensorFlow: chooses Keras 2)

from helpers import make_tiny_config, run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """flags -> a copy of the work directory of that bin/pretrain.py, run to its end.

    A run is made once, whatever number of test files and processes ask for it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the processes' own folders are in it

    def copy(flags):
        whole = root / f"run-{hashlib.sha256(repr(flags).encode()).hexdigest()[:16]}"
        with open(f"{whole}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (whole / "result.json").exists():
                code, _, err = run(*flags, f"--workdir={whole}")
                assert code == 0, err
        workdir = tmp_path_factory.mktemp("runs") / "finished"
        shutil.copytree(whole, workdir)
        return workdir

    return copy


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
