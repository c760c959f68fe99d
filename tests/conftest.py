"""Fixtures of several test files."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import selfie_tf  # noqa: F401  (before TensorFlow: chooses Keras 2)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.path.join(os.path.dirname(ROOT), "shared")

# A Selfie that trains in seconds. No dropout is switched off: its state must be resumed too.
TINY = [
    "--config=configs/quickstart.py",
    "--config.data.image_size=16",
    "--config.patches.size=4",
    "--config.model.width=2",
    "--config.model.num_heads=2",
    "--config.model.mlp_dim=16",
    "--config.model.attention_layers=1",
    "--config.data.eval_images=32",
    "--config.optimizer.warmup_steps=4",
    "--config.train.batch_size=16",
    "--config.train.steps=24",
    "--config.train.checkpoint_every=6",
    "--config.train.log_every=4",
    "--config.train.picture_every=12",
]

# PatchFormer: 8 patches of 4 pixels seen, 8 hidden, of which the middle 2x2 pixels are decoded.
TINY_PATCHFORMER = [
    "--config=configs/patchformer_cifar10.py",
    *TINY[1:],
    "--config.data.name=builtin:shapes",
    "--config.patches.target_size=2",
    "--config.optimizer.learning_rate=0.001",
]

TINY_FINETUNE = [
    "--config=configs/finetune_quickstart.py",
    *(flag for flag in TINY[1:] if "eval_images" not in flag and "picture_every" not in flag),
    "--config.train.eval_every=12",
]

TINY_FINETUNE_PATCHFORMER = [
    "--config=configs/finetune_patchformer_cifar10.py",
    *TINY_FINETUNE[1:],
    "--config.data.name=builtin:shapes",
    "--config.data.label_fraction=0.05",
    "--config.optimizer.learning_rate=0.001",
]


def start(*flags, env=None, command="bin/pretrain.py"):
    """Starts a command from another directory than the repository's."""
    return subprocess.Popen(
        [sys.executable, os.path.join(ROOT, command), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.path.expanduser("~"),
        env={**os.environ, **(env or {})},
    )


def run(*flags, env=None, command="bin/pretrain.py"):
    """Runs a command to its end: (exit code, stdout, stderr)."""
    process = start(*flags, env=env, command=command)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


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
    from selfie_tf.config import Config

    config = Config()
    config.data.name = "builtin:shapes"
    config.data.image_size, config.patches.size = 16, 4
    config.model.width, config.model.num_heads, config.model.mlp_dim = 2, 2, 16
    config.model.attention_layers = 1
    config.train.batch_size, config.train.steps = 16, 24
    config.optimizer.warmup_steps = 4
    config.validate()
    return config


def make_batch(rng, batch=2, grid=4, context=12, size=4):
    """A random model input as NumPy arrays, every image with a split of its own."""
    order = np.stack([rng.permutation(grid * grid) for _ in range(batch)]).astype(np.int32)
    patches = rng.integers(0, 256, [batch, grid * grid, size, size, 3], dtype=np.uint8)
    return {
        "context_patches": patches[:, :context],
        "context_positions": order[:, :context],
        "target_patches": patches[:, context:],
        "target_positions": order[:, context:],
    }
