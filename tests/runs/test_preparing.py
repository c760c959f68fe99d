"""The command prepare as processes that are killed, and training from what it made."""

import os
import signal

import pytest

from helpers import (
    TINY,
    assert_identical,
    error_line,
    losses,
    result_of,
    save_noise,
    start,
    succeeds,
    wait_for,
    weights,
)


@pytest.fixture
def folder(tmp_path):
    """400 JPEGs of two classes."""
    names = [f"{'cat' if i % 3 else 'dog'}/{i:03d}.jpg" for i in range(400)]
    save_noise(tmp_path / "images", names, (64, 80))
    return tmp_path / "images"


def flags(folder, output, *more):
    return [
        f"--images={folder}",
        "--name=mine",
        f"--output={output}",
        "--images_per_shard=10",
        *more,
    ]


def content_of(output):
    """{name: bytes} of all files of the dataset."""
    path = output / "mine" / "1.0.0"
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_prepare_killed_three_times_ends_with_the_files_of_another(folder, tmp_path):
    succeeds("prepare", *flags(folder, tmp_path / "whole", "--processes=1"))
    output = tmp_path / "out"
    notes, signals = output / "mine" / "1.0.0" / ".prepare", [9, 9, signal.SIGTERM]
    for count, signum in enumerate(signals, 1):
        process = start(*flags(folder, output, "--processes=2"), command="bin/prepare.py")
        # Each kill comes after more of the 40 files.
        wanted = 6 * count
        wait_for(lambda n=wanted: notes.exists() and len(os.listdir(notes)) >= n, process)
        process.send_signal(signum)
        _, err = process.communicate()
        if signum == signal.SIGTERM:
            assert error_line(process.returncode, err, 128 + signum) == "error: terminated"
        assert not (output / "mine" / "1.0.0" / "dataset_info.json").exists()
    out = succeeds("prepare", *flags(folder, output, "--processes=2"))
    assert "resuming: " in out and "360 train, 40 test images, 2 classes" in out
    assert content_of(output) == content_of(tmp_path / "whole")


def test_training_from_the_dataset_is_training_from_the_folder(folder, tmp_path):
    succeeds("prepare", *flags(folder, tmp_path / "out", "--processes=1"))
    for name, data in {"folder": f"folder:{folder}", "dataset": "tfds:mine"}.items():
        given = [f"--config.data.name={data}", f"--data_dir={tmp_path}/out"]
        succeeds("pretrain", *TINY, *given, f"--workdir={tmp_path}/{name}")
    assert losses(tmp_path / "dataset") == losses(tmp_path / "folder")
    assert_identical(tmp_path / "dataset", weights(tmp_path / "folder"))
    results = [result_of(tmp_path / name) for name in ("dataset", "folder")]
    accuracies = [result["held_out_patch_accuracy"] for result in results]
    assert accuracies[0] == accuracies[1]
