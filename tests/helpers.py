"""What several test files share: tiny runs, commands, and what runs leave behind."""

import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from selfie_tf import cli
from selfie_tf.benchmarks.replicas import free_ports
from selfie_tf.config import SelfieConfig, to_dict
from selfie_tf.methods import METHODS
from selfie_tf.storage.checkpoints import Checkpointer
from selfie_tf.storage.files import write_atomically
from selfie_tf.training.build import compile_model

import shallow

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.path.join(os.path.dirname(ROOT), "shared")

# An experiment of 30 cells that runs in a minute.
MINIATURE = os.path.join(ROOT, "tests", "data", "experiment.py")

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


STEPS = 24

# In float64, and not too fast: an untrained P amplifies rounding so much that two runs on one
# replica, their weights 1e-7 apart, differ by 0.06 after 16 steps in float32.
PARITY = [
    "--config.train.precision=float64",
    "--config.optimizer.learning_rate=0.001",
    "--config.model.norm_synchronized=True",
    "--config.model.dropout_rate=0.0",  # its masks differ by replica
    "--config.train.steps=16",
    "--config.train.checkpoint_every=4",
]
SELFIE_PARITY = [*PARITY, "--config.model.logit_scale=sqrt_dim"]


def call(command, *flags):
    """Runs a command in this process, at the cost of no start: (exit code, stdout, stderr).

    It leaves behind only what cannot be switched off again, op determinism.
    """
    out, err = io.StringIO(), io.StringIO()
    policy = keras.mixed_precision.global_policy()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main([command, *map(str, flags)])
    finally:
        keras.mixed_precision.set_global_policy(policy)
    return code, out.getvalue(), err.getvalue()


def succeeds(command, *flags):
    """Runs a command in this process to its good end: its stdout."""
    code, out, err = call(command, *flags)
    assert code == 0, err
    return out


def fails(command, *flags, code=1):
    """Runs a command in this process, checks how it fails, and returns the line that says why."""
    exit_code, _, err = call(command, *flags)
    return error_line(exit_code, err, code)


def error_line(exit_code, err, expected_code=1):
    """Checks that a command failed with one line, the last one on stderr, and returns it."""
    assert exit_code == expected_code, err
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and err.splitlines()[-1] == errors[0], err
    return errors[0]


class Killed(BaseException):
    """Ends a command in this process where a kill would."""


def cut_short(monkeypatch, step, command, *flags):
    """Runs a command up to where it would save the checkpoint of `step`, and ends it there."""
    save = Checkpointer.save

    def save_or_end(self, saved, notes):
        if saved == step:
            raise Killed
        save(self, saved, notes)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpointer, "save", save_or_end)
        call(command, *flags)


def start(*flags, env=None, command="bin/pretrain.py"):
    """Starts a command as a process, from another directory than the repository's."""
    script = [os.path.join(ROOT, command)]
    if shallow.is_shallow():
        script.insert(0, shallow.__file__)
    return subprocess.Popen(
        [sys.executable, *script, *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.path.expanduser("~"),
        env={**os.environ, **(env or {})},
    )


def run(*flags, env=None, command="bin/pretrain.py"):
    """Runs a command as a process to its end: (exit code, stdout, stderr)."""
    process = start(*flags, env=env, command=command)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def weights(workdir, step=STEPS):
    """{variable's path: value} of a run's checkpoint."""
    return tensors(os.path.join(workdir, "checkpoints", f"step-{step:08d}", "state"))


def tensors(state):
    """{variable's path: value} of the model and the optimizer in a TensorFlow checkpoint."""
    reader = tf.train.load_checkpoint(str(state))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith(("model/", "optimizer/")) and "metric" not in name
    }


def read_json(path):
    with open(path) as file:
        return json.load(file)


def write_json(path, value):
    write_atomically(str(path), json.dumps(value))


def save_run(path, config, model):
    """Leaves what a run leaves: its config and a checkpoint."""
    compile_model(config, model)
    os.makedirs(path)
    write_json(f"{path}/config.json", to_dict(config))
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    Checkpointer(f"{path}/checkpoints", checkpoint).save(1)


def result_of(workdir):
    return read_json(os.path.join(workdir, "result.json"))


def log_points(workdir):
    with open(os.path.join(workdir, "metrics.jsonl")) as file:
        return [json.loads(line) for line in file]


def losses(workdir):
    return {point["step"]: point["loss"] for point in log_points(workdir)}


def assert_same_logs(workdir, expected, *differing):
    """Log points and result.json are the same bits, but for times, resuming, and `differing`."""
    found, wanted = log_points(workdir), log_points(expected)
    for point in (*found, *wanted):
        assert point.pop("images_per_second") > 0
        assert point.pop("memory_mb") > 0
    assert found == wanted
    found, wanted = result_of(workdir), result_of(expected)
    for result in (found, wanted):
        for key in ("seconds", "resumed_at", *differing):
            del result[key]
    assert found == wanted


def assert_identical(workdir, expected, step=STEPS):
    found = weights(workdir, step)
    assert set(found) == set(expected) and len(found) > 40
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def copy_unfinished(workdir, copy, *steps):
    """Copies a run as it was before it had finished, and without the checkpoints of `steps`."""
    shutil.copytree(workdir, copy)
    os.remove(os.path.join(copy, "result.json"))
    for step in steps:
        shutil.rmtree(os.path.join(copy, "checkpoints", f"step-{step:08d}"))


def wait_for_log(workdir, step, process):
    """Waits until a run has logged `step` or a later one."""
    path = os.path.join(workdir, "metrics.jsonl")

    def reached():
        if not os.path.exists(path):
            return False
        with open(path) as file:  # its last line may be half written
            return any(int(s) >= step for s in re.findall(r'"step": (\d+),', file.read()))

    wait_for(reached, process, 300)


def wait_for(condition, process, seconds=120):
    deadline = time.time() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.01)


def start_workers(*flags, command="bin/pretrain.py", count=2, own=None):
    """Starts TF_CONFIG processes; `own` has a list of more flags for each."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}
    tasks = [{"type": "worker", "index": i} for i in range(count)]
    return [
        start(
            *flags,
            *(own[task["index"]] if own else ()),
            command=command,
            env={"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})},
        )
        for task in tasks
    ]


def finish_workers(*flags, **kwargs):
    """Runs TF_CONFIG processes to their end: the stdout of each."""
    processes, outputs = start_workers(*flags, **kwargs), []
    try:
        for process in processes:
            out, err = process.communicate(timeout=500)
            assert process.returncode == 0, err
            outputs.append(out)
    finally:
        end(processes)
    return outputs


def end(processes):
    for process in processes:
        process.kill()
        process.communicate()


def assert_close(workdir, expected):
    assert losses(workdir) == pytest.approx(losses(expected), abs=1e-5)
    found = weights(workdir, 16)
    for name, value in weights(expected, 16).items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def save_noise(folder, names, shape=(16, 16)):
    """Saves an image of noise, `shape` its height and width, under each of `names`."""
    rng = np.random.default_rng(20190606)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, [*shape, 3], dtype=np.uint8)).save(path)


def constructor_defaults(model_class):
    """{argument: default} of all that a model's constructor takes, but not what Keras adds."""
    parameters = inspect.signature(model_class.__init__).parameters
    own = {k: p.default for k, p in parameters.items() if k not in ("self", "kwargs")}
    network = {}
    if hasattr(model_class, "network_defaults"):
        network = dataclasses.asdict(model_class.network_defaults)
    assert not own.keys() & network.keys()
    return {**network, **own}


def make_tiny_config():
    """A config of Selfie that trains in seconds."""
    config = SelfieConfig()
    config.data.name = "builtin:shapes"
    config.data.image_size, config.patches.size = 16, 4
    config.model.width, config.model.num_heads, config.model.mlp_dim = 2, 2, 16
    config.model.attention_layers = 1
    config.train.batch_size, config.train.steps = 16, 24
    config.optimizer.warmup_steps = 4
    config.validate()
    return config


def training_batches(source, config, *args, **kwargs):
    """The batches of the config's method."""
    return METHODS[config.method].training_batches(source, config, *args, **kwargs)


def held_out_batches(source, config, *args, **kwargs):
    """The held-out batches of the config's method."""
    return METHODS[config.method].held_out_batches(source, config, *args, **kwargs)


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


def nt_xent_reference(z1, z2, temperature):
    """NT-Xent one pair of views at a time: losses, accuracies, and gradients of the mean loss."""
    count = len(z1)
    z = np.concatenate([z1, z2]).astype(np.float64)
    lengths = np.linalg.norm(z, axis=1)
    u = z / lengths[:, None]
    loss, accuracy, gradient = np.zeros(count), np.zeros(count), np.zeros_like(u)
    for i in range(2 * count):
        other = (i + count) % (2 * count)
        scores = {k: u[i] @ u[k] / temperature for k in range(2 * count) if k != i}
        total = sum(np.exp(score) for score in scores.values())
        loss[i % count] += (np.log(total) - scores[other]) / 2
        accuracy[i % count] += (max(scores, key=scores.get) == other) / 2
        for k, score in scores.items():
            pull = (np.exp(score) / total - (k == other)) / temperature / (2 * count)
            gradient[i] += pull * u[k]
            gradient[k] += pull * u[i]
    for i in range(2 * count):  # only what turns a vector changes its direction
        gradient[i] = (gradient[i] - (gradient[i] @ u[i]) * u[i]) / lengths[i]
    return loss, accuracy, gradient[:count], gradient[count:]


def make_projections(rng, count):
    """Two views' vectors `[count, 5]` of many lengths; every second image's are not alike."""
    z1, z2 = rng.normal(size=[2, count, 5])
    z2[1::2] = z1[1::2] + 0.01 * z2[1::2]
    lengths = rng.uniform(0.1, 9, [2, count, 1])
    return (lengths[0] * z1).astype(np.float32), (lengths[1] * z2).astype(np.float32)
