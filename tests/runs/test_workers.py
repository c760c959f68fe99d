"""Several TF_CONFIG processes on this machine: one run, lost workers and all."""

import json
import os
import signal

import pytest

from selfie_tf.benchmarks.replicas import free_ports
from selfie_tf.distribution import strategy as distribution
from selfie_tf.training.progress import ProgressLog

from helpers import (
    PARITY,
    SELFIE_PARITY,
    TINY,
    TINY_PATCHFORMER,
    assert_close,
    copy_unfinished,
    end,
    fails,
    finish_workers,
    log_points,
    result_of,
    start,
    start_workers,
    wait_for_log,
)

# Saved every four steps, and logged, so that a run can be killed where one wants it.
FLAGS = {
    "selfie": [*TINY, *SELFIE_PARITY],
    "patchformer": [*TINY_PATCHFORMER, *PARITY],
}


@pytest.fixture(scope="module")
def one_replica(shared):
    """{method: work directory of the same run in one process}."""
    return {method: shared(flags) for method, flags in FLAGS.items()}


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
    found, expected = result_of(tmp_path), result_of(one_replica[method])
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
    copy_unfinished(one_replica["selfie"], tmp_path / "one", 16)
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


def test_a_signal_to_a_worker_ends_it_at_once_and_saves_nothing(tmp_path, monkeypatch):
    """It cannot save alone: reading the variables takes all workers."""
    advance = ProgressLog.advance

    def signal_at_step_5(self, step):
        advance(self, step)
        if step == 5:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ProgressLog, "advance", signal_at_step_5)
    monkeypatch.setattr(distribution, "num_workers", lambda strategy: 2)
    line = fails("pretrain", *TINY, f"--workdir={tmp_path}", code=143)
    assert "stopped at step 6; no checkpoint yet" in line
    assert os.listdir(tmp_path / "checkpoints") == []
    assert [point["step"] for point in log_points(tmp_path)] == [4]
