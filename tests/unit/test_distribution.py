"""What workers and TPUs say when they fail, with stand-ins for them."""

import json
import socket
import types
import zlib

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.distribution import strategy as distribution
from selfie_tf.distribution import tf_config
from selfie_tf.errors import UserError, first_line
from selfie_tf.training.run import Run


def test_a_worker_that_cannot_listen_says_so(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own = f"127.0.0.1:{taken.getsockname()[1]}"
        place = {"cluster": {"worker": [own, "a:1"]}, "task": {"type": "worker", "index": 0}}
        with pytest.raises(UserError, match=f"cannot listen at {own}.*in use.*still running"):
            tf_config.wait_for_workers(json.dumps(place))


def test_the_first_line_of_an_error_says_what_and_not_where():
    message = "{{function_node f_device_/job:worker/task:1}} Collective ops is aborted by: x\nmore"
    assert first_line(ValueError(message)) == "Collective ops is aborted by: x"
    message = """Graph execution error:

    Detected at node R defined at (most recent call last):
      File "a", line 1, in <module>

    Socket closed
    [[{{node R}}]]"""
    assert first_line(ValueError(message)) == "Socket closed"


def test_workers_with_other_images_stop(tiny_config, monkeypatch):
    here = types.SimpleNamespace(fingerprint="these")
    there = zlib.crc32(b"those")

    def gather(strategy, value):
        return [value, there if value == zlib.crc32(b"these") else value]

    monkeypatch.setattr(distribution, "gather", gather)
    run = Run(tiny_config, "runs/x", tf.distribute.get_strategy())
    run.source = here
    with pytest.raises(UserError, match="different images in data.name=builtin:shapes"):
        run._check_workers_agree()


def test_a_lost_tpu_is_one_line_that_says_what_to_do(tiny_config, monkeypatch):
    monkeypatch.setattr(distribution, "is_tpu", lambda strategy: True)
    error = tf.errors.UnavailableError(None, None, "Socket closed")
    line = Run(tiny_config, "runs/x", tf.distribute.get_strategy())._explain(error)
    assert line.startswith("the TPU was lost") and "Socket closed" in line
    assert "same command" in line


@pytest.mark.parametrize("kind", [tf.errors.DataLossError, tf.errors.NotFoundError])
def test_a_damaged_file_of_the_data_is_one_line_that_says_what_to_do(tiny_config, kind):
    error = kind(None, None, "{{node A}} corrupted record at 2148\n[[{{node B}}]]")
    line = Run(tiny_config, "runs/x", tf.distribute.get_strategy())._explain(error)
    assert "data.name=builtin:shapes (corrupted record at 2148)" in line
    assert "the same command resumes" in line


def test_values_of_replicas_are_read_and_written():
    """On one replica; runs on several are in test_training.py."""
    variables = [tf.Variable(value) for value in (0.1, 3.0, -2.0)]
    values = distribution.ReplicaValues(tf.distribute.get_strategy(), variables)
    np.testing.assert_array_equal(values.read(), np.float32([[0.1, 3.0, -2.0]]))
    values.write([[0.25, 7.0, 1.5]])
    assert [v.numpy() for v in variables] == [0.25, 7.0, 1.5]
    values.write([[1.0, 2.0, 3.0], [0.5, 8.0, -1.0]])  # saved on two replicas
    assert [v.numpy() for v in variables] == [1.5, 10.0, 2.0]
