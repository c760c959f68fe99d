import json
import os
import signal
import sys
import time

import pytest

from selfie_tf.benchmarks import replicas
from selfie_tf.benchmarks.speed import benchmark
from selfie_tf.errors import UserError

from helpers import TINY, fails, run, start, wait_for


def test_benchmark_reports_consistent_figures(tiny_config, monkeypatch):
    monkeypatch.setattr("selfie_tf.benchmarks.speed._MATMUL_SIDE", 256)
    result = benchmark(tiny_config, "", seconds=0.05)
    for precision in ("float32", "mixed_bfloat16"):
        part = result[precision]
        step = part["step_images_per_second"]
        assert part["step_gflops"] == pytest.approx(step * result["gflop_per_image"])
        assert part["step_to_matmul"] == pytest.approx(part["step_gflops"] / part["matmul_gflops"])
        assert part["input_to_step"] == pytest.approx(result["input_images_per_second"] / step)
        assert part["step_and_input_images_per_second"] > 0


def test_the_command_prints_json_alone():
    flags = [*TINY, "--batch_size=4", "--seconds=0.01"]
    code, out, err = run(*flags, command="bin/benchmark.py")
    assert code == 0, err
    assert json.loads(out)["batch_size"] == 4


SMALL = [*TINY, "--batch_size=4", "--seconds=0.1"]


def test_what_distribution_costs(tmp_path):
    flags = [*SMALL, "--virtual_devices=2", "--workers=2"]
    code, out, err = run(*flags, command="bin/benchmark.py")
    assert code == 0, err
    found = json.loads(out)
    mean = sum(found["one_replica_images_per_second"]) / 2
    assert found["batch_size"] == 4 and mean > 0
    for (row,) in (found["virtual_devices"], found["workers"]):
        assert row["replicas"] == 2
        assert row["to_one_replica"] == pytest.approx(row["images_per_second"] / mean)


@pytest.mark.parametrize(
    "flag, expected",
    [
        ("--virtual_devices=1,3", ["3 replicas", "batch of 4", "--batch_size"]),
        ("--workers=0", ["0 replicas"]),
        ("--workers=two", ["--workers=two", "1,2,4"]),
        ("--seconds=0", ["--seconds=0"]),
    ],
)
def test_replicas_that_cannot_be(flag, expected):
    line = fails("benchmark", *SMALL, flag)
    assert all(part in line for part in expected)


def test_a_killed_process_of_several_is_called_that(monkeypatch, tmp_path, tiny_config):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho I0000 could not find cuda drivers >&2\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(UserError, match="a process ended with code -9: killed, perhaps"):
        replicas.scaling(tiny_config, 0.1, [], [2])


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="looks for children in /proc")
def test_sigterm_leaves_no_process_behind():
    process = start(*SMALL, "--workers=2", command="bin/benchmark.py")

    def children():
        """Those that measure; imports start others, for a moment."""
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            found = file.read().split()
        return [child for child in found if b"selfie_tf.benchmarks.replicas" in command_line(child)]

    def command_line(child):
        try:
            with open(f"/proc/{child}/cmdline", "rb") as file:
                return file.read()
        except OSError:
            return b""

    wait_for(children, process)
    time.sleep(1)  # the child is known to its parent by now, not only to /proc
    found = children()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and err.splitlines()[-1] == "error: terminated"
    assert not any(os.path.exists(f"/proc/{child}") for child in found)
