"""Mistakes that only a process of its own shows; see tests/unit/test_cli.py for all others."""

import numpy as np
import pytest
from PIL import Image

from helpers import TINY, error_line, run, start

pytestmark = pytest.mark.full_depth


def fails(*flags, env=None, command="bin/pretrain.py", code=1):
    """Runs the command, checks how it fails, and returns the line that says why."""
    exit_code, _, err = run(*flags, env=env, command=command)
    return error_line(exit_code, err, code)


@pytest.mark.parametrize(
    "command, flags, expected",
    [
        ("pretrain", ["--config", "configs/quickstart.py", "--config.train.steps=0"], "steps=0"),
        ("finetune", ["--config.train.stepz=0"], "did you mean --config.train.steps?"),
        ("evaluate", ["--workdr=x"], "did you mean --workdir?"),
        ("inspect_data", [], "give the images once"),
        ("prepare", ["--images=x"], "--name is missing"),
        ("predict", ["--workdir=x"], "--images or --data_name"),
        ("embed", ["--workdir=x", "--images=y"], "--output is missing"),
        ("suggest_labels", ["--output=x.csv"], "--workdir is missing"),
        ("export", ["--workdir=x"], "--output is missing"),
        ("compare", [], "--runs="),
        ("report", [], "--workdir or --runs"),
        ("benchmark", ["--seconds=0"], "--seconds=0"),
        ("check_tpu", ["--config=nothing"], "--config=nothing"),
    ],
)
def test_scripts_in_bin_run_the_commands_from_anywhere(command, flags, expected):
    given = [f"--workdir={command}", *flags] if command in ("pretrain", "finetune") else flags
    assert expected in fails(*given, command=f"bin/{command}.py")


def test_a_batch_that_virtual_devices_cannot_share(tmp_path):
    line = fails("--config=quickstart", f"--workdir={tmp_path}", "--virtual_devices=3")
    for part in ("batch_size=64", "3 replicas", "batch_size=66"):
        assert part in line


def test_a_workdir_in_use(tmp_path):
    first = start(*TINY, f"--workdir={tmp_path}")
    try:
        while not (tmp_path / "config.json").exists():  # written under the lock
            assert first.poll() is None
        line = fails(*TINY, f"--workdir={tmp_path}")
        assert str(tmp_path) in line and f"process {first.pid}" in line
    finally:
        first.kill()
        first.communicate()


def test_an_unknown_tpu_is_an_error_within_seconds(tmp_path):
    line = fails(*TINY, f"--workdir={tmp_path}", "--tpu=node-1")
    assert "--tpu=node-1" in line and "leave --tpu out" in line


def test_corrupt_images_over_the_budget(tmp_path):
    """Found while training."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        Image.fromarray(np.full([16, 16, 3], i, np.uint8)).save(folder / f"{i}.png")
        if i % 2:
            (folder / f"{i}.png").write_bytes(b"nothing")
    line = fails(*TINY, f"--config.data.name=folder:{folder}", f"--workdir={tmp_path}/run")
    assert str(folder) in line and "corrupt_budget" in line
