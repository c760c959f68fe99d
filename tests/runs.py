"""What tests of whole runs share."""

import json
import os
import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import start

from selfie_tf.scaling import free_ports

STEPS = 24

# In float64, and not too fast: an untrained P amplifies rounding so much that two runs on one
# replica, their weights 1e-7 apart, differ by 0.06 after 16 steps in float32.
PARITY = [
    "--config.train.precision=float64",
    "--config.optimizer.learning_rate=0.001",
    "--config.model.norm_synchronized=True",
    "--config.model.dropout_rate=0.0",  # its masks differ by replica
    "--config.train.steps=16",
]
SELFIE_PARITY = [*PARITY, "--config.model.logit_scale=sqrt_dim"]


def weights(workdir, step=STEPS):
    """{variable's path: value} of a checkpoint."""
    path = os.path.join(workdir, "checkpoints", f"step-{step:08d}", "state")
    reader = tf.train.load_checkpoint(path)
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith(("model/", "optimizer/")) and "metric" not in name
    }


def log_points(workdir):
    with open(os.path.join(workdir, "metrics.jsonl")) as file:
        return [json.loads(line) for line in file]


def losses(workdir):
    return {point["step"]: point["loss"] for point in log_points(workdir)}


def assert_identical(workdir, expected, step=STEPS):
    found = weights(workdir, step)
    assert set(found) == set(expected) and len(found) > 100
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


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
