"""Several TF_CONFIG processes on this machine: one run, lost workers and all."""

import json
import os
import shutil
import signal
import socket
import types
import zlib

import pytest
import tensorflow as tf

from selfie_tf.benchmarks.replicas import free_ports
from selfie_tf.distribution import strategy as distribution
from selfie_tf.distribution import tf_config
from selfie_tf.errors import UserError, first_line
from selfie_tf.training.run import Run

from helpers import (
    PARITY,
    SELFIE_PARITY,
    TINY,
    TINY_PATCHFORMER,
    assert_close,
    end,
    finish_workers,
    log_points,
    start,
    start_workers,
    wait_for,
)

# Saved every four steps, and logged, so that a run can be killed where one wants it.
EVERY = "--config.train.checkpoint_every=4"
FLAGS = {
    "selfie": [*TINY, *SELFIE_PARITY, EVERY],
    "patchformer": [*TINY_PATCHFORMER, *PARITY, EVERY],
}


def wait_for_log(workdir, step, process):
    path = workdir / "metrics.jsonl"
    wait_for(lambda: path.exists() and f'"step": {step},' in path.read_text(), process, 300)


@pytest.fixture(scope="module")
def one_replica(finished):
    """{method: work directory of the same run in one process}."""
    return {method: finished(flags) for method, flags in FLAGS.items()}


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("method, count, victim", [("patchformer", 2, 0), ("selfie", 4, 2)])
def test_workers_killed_one_and_all_end_as_one_replica(
    method, count, victim, one_replica, tmp_path
):
    def start_all():
        return start_workers(*FLAGS[method], f"--workdir={tmp_path}", count=count)

    processes = start_all()
    try:
        wait_for_log(tmp_path, 8, processes[0])  # so the checkpoint of step 4 is whole
        processes[victim].kill()
        for i, process in enumerate(processes):
            _, err = process.communicate(timeout=120)
            if i != victim:
                assert process.returncode == 1 and "Traceback" not in err, err
                line = err.splitlines()[-1]
                assert "another worker was lost" in line and "same command" in line
    finally:
        end(processes)
    assert not (tmp_path / "result.json").exists()

    processes = start_all()
    try:
        wait_for_log(tmp_path, 12, processes[0])
    finally:
        end(processes)

    for out in finish_workers(*FLAGS[method], f"--workdir={tmp_path}", count=count):
        assert f"{count} replica(s)" in out and "resuming at step" in out
    assert_close(tmp_path, one_replica[method])
    # Written by the chief alone.
    assert [point["step"] for point in log_points(tmp_path)] == [4, 8, 12, 16]
    kept = sorted(os.listdir(tmp_path / "checkpoints"))
    assert kept == ["step-00000008", "step-00000012", "step-00000016"]
    found, expected = (
        json.loads((path / "result.json").read_text()) for path in (tmp_path, one_replica[method])
    )
    assert found["held_out_loss"] == pytest.approx(expected["held_out_loss"], abs=1e-5)
    assert found["resumed_at"] >= 8


@pytest.mark.parametrize(
    "own, expected",
    [
        ([["--config.train.steps=8"], []], "different configs"),
        ([["--workdir={tmp}/one"], ["--workdir={tmp}/two"]], "different steps [12, 0]"),
    ],
)
def test_workers_that_differ_stop(own, expected, one_replica, tmp_path):
    shutil.copytree(one_replica["selfie"], tmp_path / "one")
    (tmp_path / "one" / "result.json").unlink()
    shutil.rmtree(tmp_path / "one" / "checkpoints" / "step-00000016")
    own = [[flag.format(tmp=tmp_path) for flag in flags] for flags in own]
    processes = start_workers(*FLAGS["selfie"], f"--workdir={tmp_path}/shared", own=own)
    try:
        for process in processes:
            _, err = process.communicate(timeout=200)
            assert process.returncode == 1 and "Traceback" not in err
            assert expected in err.splitlines()[-1], err
    finally:
        end(processes)


def read_until(text, process):
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"no {text!r}: {process.stderr.read()}")


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_worker_alone_names_whom_it_waits_for_and_can_be_ended(signum, code, tmp_path):
    there, absent = (f"127.0.0.1:{port}" for port in free_ports(2))
    place = {"cluster": {"worker": [there, absent]}, "task": {"type": "worker", "index": 0}}
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored, at least
    try:
        process = start(*TINY, f"--workdir={tmp_path}", env={"TF_CONFIG": json.dumps(place)})
    finally:
        signal.signal(signal.SIGINT, previous)
    try:
        assert absent in read_until("waiting for", process)
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code and "Traceback" not in err
    finally:
        end([process])


def test_a_worker_that_cannot_listen_says_so(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own = f"127.0.0.1:{taken.getsockname()[1]}"
        place = {"cluster": {"worker": [own, "a:1"]}, "task": {"type": "worker", "index": 0}}
        with pytest.raises(UserError, match=f"cannot listen at {own}.*in use.*still running"):
            tf_config.wait_for_workers(json.dumps(place))


def test_sigterm_while_a_worker_starts_ends_it(tmp_path):
    """TensorFlow has a handler of its own then, that only notes it."""
    first, second = start_workers(*TINY, f"--workdir={tmp_path}")
    try:
        read_until("trainable weights", second)
        second.terminate()
        second.communicate(timeout=60)
        assert second.returncode in (-15, 143)  # 143: it trains already
        _, err = first.communicate(timeout=120)
        assert first.returncode == 1 and "another worker was lost" in err.splitlines()[-1]
    finally:
        end([first, second])


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
