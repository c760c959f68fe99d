import contextlib
import io
import json
import os
import signal
import sys
import time

import pytest

from selfie_tf import cli
from selfie_tf.benchmarks import first_steps, replicas
from selfie_tf.errors import UserError

from helpers import (
    TINY,
    TINY_FINETUNE,
    TINY_PATCHFORMER,
    call,
    fails,
    run,
    save_noise,
    start,
    succeeds,
    wait_for,
)

FIRST_STEPS = {"startup_seconds": {"imports": 1.0, "sum": 1.0}, "peak_memory_mb": 300.0}


@pytest.fixture
def quick(monkeypatch):
    """Measures what takes seconds on something small, and starts no process."""
    monkeypatch.setattr("selfie_tf.benchmarks.speed._MATMUL_SIDE", 256)
    monkeypatch.setattr(first_steps, "measure", lambda *_: FIRST_STEPS)


@pytest.mark.parametrize(
    ("flags", "stages"),
    [
        (TINY, ["list", "read", "augment", "cut", "batch"]),
        (TINY_PATCHFORMER, ["list", "read", "augment", "cut", "batch"]),
        (TINY_FINETUNE, ["list", "read", "augment", "batch"]),
    ],
    ids=["selfie", "patchformer", "finetuning"],
)
def test_benchmark_reports_consistent_figures(flags, stages, quick):
    flags = [*flags, "--batch_size=4", "--seconds=0.05"]
    result = json.loads(succeeds("benchmark", *flags))
    rates = result["input_images_per_second_up_to"]
    assert list(rates) == stages and min(rates.values()) > 0
    assert rates["batch"] == result["input_images_per_second"]
    assert result["op_determinism"] is True and result["batch_size"] == 4
    assert "tensorflow_images_per_second" not in result
    for precision in ("float32", "mixed_bfloat16"):
        part = result[precision]
        step = part["step_images_per_second"]
        assert part["step_gflops"] == pytest.approx(step * result["gflop_per_image"])
        assert part["step_to_matmul"] == pytest.approx(part["step_gflops"] / part["matmul_gflops"])
        assert part["input_to_step"] == pytest.approx(result["input_images_per_second"] / step)
        assert part["step_and_input_images_per_second"] > 0
        assert part.items() >= FIRST_STEPS.items()


def test_a_folder_of_jpegs_beside_tensorflow_alone(quick, tmp_path):
    save_noise(tmp_path, [f"{i}.jpg" for i in range(20)])
    flags = [f"--config.data.name=folder:{tmp_path}", "--batch_size=4", "--seconds=0.01"]
    result = json.loads(succeeds("benchmark", *TINY, *flags))
    rates, alone = result["input_images_per_second_up_to"], result["tensorflow_images_per_second"]
    assert list(rates) == ["list", "read", "decode", "augment", "cut", "batch"]
    assert result["decode_to_tensorflow"] == rates["decode"] / alone["decode"]
    assert result["input_to_tensorflow"] == rates["batch"] / alone["decode_crop_resize"]


def test_the_command_prints_json_alone():
    flags = [*TINY, "--batch_size=4", "--seconds=0.01"]
    code, out, err = run(*flags, command="bin/benchmark.py")
    assert code == 0, err
    found = json.loads(out)
    assert found["batch_size"] == 4
    for precision in ("float32", "mixed_bfloat16"):
        parts = found[precision]["startup_seconds"]
        assert list(parts) == ["imports", "data", "model", "first_step", "sum"]
        assert min(parts.values()) > 0
        assert found[precision]["peak_memory_mb"] > 100


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_table_on_a_terminal_with_ratios(tmp_path, monkeypatch):
    old = {"batch_size": 8, "data": "other", "float32": {"peak_memory_mb": 150.0}}
    old["changes"] = "model.width=4"
    new = {"batch_size": 8, "float32": {"peak_memory_mb": 300.0}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    monkeypatch.setattr("selfie_tf.benchmarks.speed.benchmark", lambda *_: dict(new))
    tiny = ["--config=quickstart", "--config.model.width=8", "--config.train.seed=1"]
    flags = ["benchmark", *tiny, f"--compare={tmp_path}/old.json"]
    changes = "model.width=8 train.seed=1"
    new |= {"config": "quickstart", "data": "builtin:shapes", "changes": changes}
    with_ratios = {**new, "ratios": {"batch_size": 1.0, "float32.peak_memory_mb": 2.0}}
    code, out, err = call(*flags)
    assert code == 0 and json.loads(out) == with_ratios  # not a terminal
    assert f"{tmp_path}/old.json has measured data other, this run measures builtin:shapes" in err
    assert f"measured changes model.width=4, this run measures {changes}" in err
    assert "measured batch size 8, this run measures 64" in err
    assert "measured config" not in err  # which the older one does not have
    for more, table in ([], True), (["--json"], False):
        with contextlib.redirect_stdout(Terminal()) as out:
            assert cli.main([*flags, *more]) == 0
        if table:
            lines = out.getvalue().splitlines()
            assert "  peak memory mb  300 (2.00)" in lines and "old.json" in lines[-1]
        else:
            assert json.loads(out.getvalue()) == with_ratios


def test_a_profile(tmp_path):
    flags = [*TINY, "--batch_size=4", f"--profile={tmp_path}/trace"]
    for _ in range(2):  # a second one leaves the first alone
        found = json.loads(succeeds("benchmark", *flags))
        operations = found["operations"]
        assert sum(row["share"] for row in operations.values()) == pytest.approx(1)
        shares = [row["share"] for row in operations.values()]
        assert shares == sorted(shares, reverse=True)
        milliseconds = sum(row["milliseconds_per_step"] for row in operations.values())
        assert milliseconds == pytest.approx(1000 * found["operation_seconds_per_step"])
        assert any("MatMul" in kind for kind in operations)  # oneDNN has names of its own
    assert len(list((tmp_path / "trace").glob("**/*.xplane.pb"))) == 2


def test_a_profile_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert "expected a folder" in fails("benchmark", *TINY, f"--profile={tmp_path}/file")


def test_first_steps_that_fail(tmp_path, tiny_config):
    tiny_config.data.name = f"folder:{tmp_path}/nowhere"
    with pytest.raises(UserError, match="nowhere: no such folder"):
        first_steps.measure(tiny_config, "float32", "")


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
        ("--workers=0", ["--workers=0: expected numbers from 1"]),
        ("--workers=two", ["--workers=two", "1,2,4"]),
        ("--seconds=0", ["--seconds=0"]),
        ("--profile=x", ["--profile excludes"]),
    ],
)
def test_replicas_that_cannot_be(flag, expected):
    others = ["--workers=2"] if "profile" in flag else []
    line = fails("benchmark", *SMALL, *others, flag)
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
