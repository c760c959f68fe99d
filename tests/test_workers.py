"""Four TF_CONFIG processes on this machine: one run, lost workers and all."""

import json
import os
import random
import time

import pytest
from conftest import TINY, run
from runs import SELFIE_PARITY, assert_close, log_points, start_workers, wait_for

# Saved every four steps, and logged, so that a run can be killed where one wants it.
FLAGS = [*TINY, *SELFIE_PARITY, "--config.train.checkpoint_every=4"]
COUNT = 4


def start_all(workdir):
    return start_workers(*FLAGS, f"--workdir={workdir}", count=COUNT)


def wait_for_log(workdir, step, process):
    path = workdir / "metrics.jsonl"
    wait_for(lambda: path.exists() and f'"step": {step},' in path.read_text(), process, 300)


def end(processes):
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def one_replica(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "one"
    code, _, err = run(*FLAGS, f"--workdir={workdir}")
    assert code == 0, err
    return workdir


@pytest.mark.timeout(1500)
def test_four_workers_killed_one_and_all_end_as_one_replica(one_replica, tmp_path):
    victim = random.Random(time.time_ns()).randrange(COUNT)
    processes = start_all(tmp_path)
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

    processes = start_all(tmp_path)
    try:
        wait_for_log(tmp_path, 12, processes[0])
    finally:
        end(processes)

    processes = start_all(tmp_path)
    for process in processes:
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        assert "4 replica(s)" in out and "resuming at step" in out
    assert_close(tmp_path, one_replica)
    # Written by the chief alone.
    assert [point["step"] for point in log_points(tmp_path)] == [4, 8, 12, 16]
    assert sorted(os.listdir(tmp_path / "checkpoints"))[-1] == "step-00000016"
    found, expected = (
        json.loads((path / "result.json").read_text()) for path in (tmp_path, one_replica)
    )
    assert found["held_out_loss"] == pytest.approx(expected["held_out_loss"], abs=1e-5)
    assert found["resumed_at"] >= 8
