import json
import os
import signal
import sys
import time

import pytest

from selfie_tf.benchmarks import replicas
from selfie_tf.benchmarks.speed import benchmark, gflop_per_image
from selfie_tf.config import PatchFormerConfig, SelfieConfig
from selfie_tf.errors import UserError
from selfie_tf.models.flops import decoder_flop, patch_network_flop

from helpers import TINY, run, start, wait_for


def test_patch_network_flop_written_out():
    """Width 1, small stem, a 4x4 patch: maps of 4x4, 2x2, 1x1."""
    stem = 9 * 3 * 1 * 16
    # 1x1 in, 3x3, 1x1 out, per unit; the first with the projection.
    group1 = (1 * 1 + 9 * 1 + 1 * 4 + 1 * 4) * 16 + 2 * (4 * 1 + 9 * 1 + 1 * 4) * 16
    group2 = 4 * 2 * 16 + (9 * 4 + 2 * 8 + 4 * 8) * 4 + 3 * (8 * 2 + 9 * 4 + 2 * 8) * 4
    group3 = 8 * 4 * 4 + (9 * 16 + 4 * 16 + 8 * 16) * 1 + 5 * (16 * 4 + 9 * 16 + 4 * 16) * 1
    assert patch_network_flop(1, "small", 4) == 2 * (stem + group1 + group2 + group3)


def test_imagenet_stem_divides_the_side_by_four_first():
    stem = 2 * 49 * 3 * 16 * 16**2
    rest = patch_network_flop(16, "small", 8) - 2 * 9 * 3 * 16 * 8**2
    assert patch_network_flop(16, "imagenet", 32) == stem + rest


def test_gflop_of_the_papers_runs():
    config = SelfieConfig()
    assert gflop_per_image(config) == pytest.approx(7.5, abs=0.1)
    config.model.pooling = "mean"
    mean = gflop_per_image(config)
    config.model.pooling = "attention"
    per_block = 2 * 13 * (4 * 1024**2 + 2 * 13 * 1024 + 2 * 1024 * 640)
    assert gflop_per_image(config) - mean == pytest.approx(3 * 3 * per_block / 1e9)


def test_patchformer_flop_written_out():
    """One visible patch of 4x4, three hidden, width 1 (D = 16), 2x2 pixels decoded."""
    config = PatchFormerConfig()
    config.data.image_size, config.patches.size, config.patches.target_size = 8, 4, 2
    config.patches.mask_block, config.patches.mask_ratio = 1, 0.75
    config.model.width, config.model.mlp_dim, config.model.attention_layers = 1, 5, 3
    block = 2 * (4 * 16**2 + 2 * 16 + 2 * 16 * 5)  # one vector over itself
    pooling = 2 * (2 * 3 * 16**2 + 2 * 1 * 16**2 + 2 * 3 * 1 * 16 + 2 * 3 * 16 * 5)
    unit = 2 * (16 * 2 + 9 * 2 * 2 + 2 * 8 + 16 * 8) * 4  # on 2x2, 2 filters, 8 channels out
    decoder = 3 * (unit + 2 * 8 * 4 * 4)
    expected = patch_network_flop(1, "small", 4) + 3 * block + pooling + decoder
    assert gflop_per_image(config) == pytest.approx(3 * expected / 1e9)
    config.model.query = "pooled"
    expected -= pooling - block
    assert gflop_per_image(config) == pytest.approx(3 * expected / 1e9)


def test_decoder_flop_of_the_paper():
    two = 2 * (1024 * 128 + 9 * 128**2 + 128 * 512 + 1024 * 512) * 4
    four = 2 * (512 * 64 + 9 * 64**2 + 64 * 256 + 512 * 256) * 16
    eight = 2 * (256 * 32 + 9 * 32**2 + 32 * 128 + 256 * 128) * 64
    assert decoder_flop(1024, 8, 4) == two + four + eight + 2 * 128 * 4 * 64
    assert gflop_per_image(PatchFormerConfig()) == pytest.approx(200.9, abs=0.1)


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
    code, _, err = run(*SMALL, flag, command="bin/benchmark.py")
    assert code == 1 and "Traceback" not in err
    assert all(part in err.splitlines()[-1] for part in expected), err


def test_a_killed_process_of_several_is_called_that(monkeypatch, tmp_path, tiny_config):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho I0000 could not find cuda drivers >&2\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(UserError, match="1 replicas a process ended with code -9: killed, perhaps"):
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
