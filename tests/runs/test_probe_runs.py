"""Runs that probe their features: the same bits as without, kills, several replicas."""

import numpy as np
import pytest

from selfie_tf.storage.files import read_points

from helpers import (
    SELFIE_PARITY,
    TINY,
    assert_identical,
    assert_same_logs,
    cut_short,
    fails,
    log_points,
    result_of,
    run,
    save_noise,
    succeeds,
    weights,
)

# Neither a multiple of a log point nor of a checkpoint; the last one is at the end.
PROBED = [*TINY, "--config.train.probe_every=5", "--config.data.probe_images=40"]
MIXED = "--config.train.precision=mixed_bfloat16"


@pytest.fixture(scope="module")
def probed(shared):
    return shared(PROBED)


def probes(workdir):
    return read_points(str(workdir), "probes.jsonl")


def assert_trained_alike(workdir, expected):
    for step in (12, 18, 24):
        assert_identical(workdir, weights(expected, step), step)
    found, wanted = log_points(workdir), log_points(expected)
    for point in (*found, *wanted):
        del point["images_per_second"], point["memory_mb"]
    assert found == wanted


def test_a_probe_changes_no_bit(probed, shared):
    """Neither in the checkpoints nor in the log points, which show the batches."""
    assert_trained_alike(probed, shared(TINY))
    assert not probes(shared(TINY)) and "probe" not in result_of(shared(TINY))


def test_a_probe_changes_no_bit_in_mixed_precision(shared):
    assert_trained_alike(shared([*PROBED, MIXED]), shared([*TINY, MIXED]))


def test_a_run_leaves_its_probes(probed):
    points = probes(probed)
    assert [point["step"] for point in points] == [0, 5, 10, 15, 20, 24]
    found = result_of(probed)["probe"]
    assert found["at_step_0"] == points[0] and found["last"] == points[-1]
    assert (found["training_images"], found["test_images"], found["classes"]) == (20, 20, 10)
    out = (probed / "stdout.txt").read_text()
    assert out.count("probe at step ") == 6 and out.count("(untrained ") == 10


def test_a_killed_run_has_the_same_probes(probed, tmp_path, monkeypatch):
    """Killed before the first checkpoint, in between, and after the last probe."""
    flags = [*PROBED, f"--workdir={tmp_path}"]
    cut_short(monkeypatch, 6, "pretrain", *flags)
    assert [point["step"] for point in probes(tmp_path)] == [0, 5]
    cut_short(monkeypatch, 18, "pretrain", *flags)
    cut_short(monkeypatch, 24, "pretrain", *flags)
    out = succeeds("pretrain", *flags)
    assert "resuming at step 18 " in out and "probe at step 0:" not in out
    assert probes(tmp_path) == probes(probed)
    assert_same_logs(tmp_path, probed)
    assert_identical(tmp_path, weights(probed))


def test_a_mistake_is_named_before_the_run_begins(tmp_path):
    flags = [*PROBED, f"--workdir={tmp_path}/run"]
    images = tmp_path / "images"
    save_noise(images, [f"a/{i}.png" for i in range(20)])
    line = fails("pretrain", *flags, f"--config.data.probe=folder:{images}")
    assert "all images are of one class" in line and "data.probe=folder:" in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_other_images_to_probe_with_are_noticed(probed, tmp_path, monkeypatch):
    images = tmp_path / "images"
    save_noise(images, [f"{name}/{i}.png" for name in "ab" for i in range(20)])
    flags = [*PROBED, f"--config.data.probe=folder:{images}", f"--workdir={tmp_path}/run"]
    cut_short(monkeypatch, 6, "pretrain", *flags)
    assert [point["step"] for point in probes(tmp_path / "run")] == [0, 5]
    (images / "a" / "0.png").rename(images / "b" / "new.png")
    line = fails("pretrain", *flags)
    assert f"data.probe=folder:{images} holds other images than" in line


def test_replicas_train_as_without_a_probe(tmp_path):
    """Their moving statistics are averaged at a probe, as when a checkpoint is saved."""
    flags = [*SELFIE_PARITY, "--virtual_devices=2", "--config.model.norm_synchronized=False"]
    plain, again = tmp_path / "plain", tmp_path / "probed"
    for workdir, start in ((plain, TINY), (again, PROBED)):
        code, _, err = run(*start, *flags, f"--workdir={workdir}")
        assert code == 0, err
    expected = weights(plain, 16)
    for name, value in weights(again, 16).items():
        if "moving_" in name:
            np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert [point["step"] for point in probes(again)] == [0, 5, 10, 15, 16]
