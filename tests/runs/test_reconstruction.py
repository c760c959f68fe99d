"""Runs of PatchFormer: pretraining, finetuning, evaluation."""

import numpy as np
import pytest
from PIL import Image

from helpers import (
    STEPS,
    TINY_FINETUNE_PATCHFORMER,
    TINY_PATCHFORMER,
    assert_identical,
    assert_same_logs,
    cut_short,
    log_points,
    read_json,
    result_of,
    save_noise,
    succeeds,
    weights,
)


@pytest.fixture(scope="module")
def pretrained(shared):
    return shared(TINY_PATCHFORMER)


@pytest.fixture(scope="module")
def finetuned(pretrained, shared):
    return shared([*TINY_FINETUNE_PATCHFORMER, f"--config.init_from={pretrained}"], "finetune")


def test_a_run_leaves_metrics_and_pictures(pretrained):
    result = result_of(pretrained)
    names = ("baseline", "image_baseline", "nearest_visible", "pixel")
    for key in (f"{name}_accuracy" for name in names):
        assert 0 < result[key] < 1, key
    assert result["evaluated_images"] == 32
    points = log_points(pretrained)
    mean = np.mean([p["pixel_accuracy"] for p in points])
    assert result["train_pixel_accuracy"] == pytest.approx(mean)
    pictures = {p.name for p in (pretrained / "figures").glob("*.png")}
    assert pictures == {
        "reconstruction.png",
        "curves.png",
        "reconstruction_00000000.png",
        "reconstruction_00000012.png",
        "reconstruction_00000024.png",
    }
    with Image.open(pretrained / "figures" / "reconstruction.png") as picture:
        assert picture.width > 900 and picture.height > 900

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(pretrained / "tensorboard"), {"tensors": 0})
    events.Reload()
    assert [e.step for e in events.Tensors("reconstruction")] == [0, 12, 24]


def test_finetuning_says_what_it_loads(finetuned):
    out = (finetuned / "stdout.txt").read_text()
    assert "transformer/block1 (16), attention_pooling/query (1)" in out
    assert "randomly initialised: residual (15), head (2)" in out


def test_finetuning_cut_short_and_resumed_leaves_out_the_same_patches(
    finetuned, pretrained, tmp_path, monkeypatch
):
    flags = [*TINY_FINETUNE_PATCHFORMER, f"--config.init_from={pretrained}"]
    flags.append(f"--workdir={tmp_path}")
    cut_short(monkeypatch, 24, "finetune", *flags)
    assert "resuming at step 18 " in succeeds("finetune", *flags)
    expected = weights(finetuned)
    (calls,) = [v for name, v in expected.items() if "patch_dropout/calls" in name]
    assert calls == STEPS
    assert_identical(tmp_path, expected)
    assert_same_logs(tmp_path, finetuned)


def test_both_are_evaluated(pretrained, finetuned, tmp_path):
    flags = [f"--output={tmp_path}", "--train_images=200"]
    out = succeeds("evaluate", f"--workdir={pretrained}", *flags)
    assert "pixel accuracy on 32 held-out images" in out and "untrained" in out
    found, result = read_json(tmp_path / "evaluation.json"), result_of(pretrained)
    for key in ("pixel_accuracy", "baseline_accuracy", "held_out_loss"):
        assert found[key] == pytest.approx(result[key], abs=1e-5)
    assert 0 <= found["probes"]["pretrained"]["linear_probe_top1"] <= 1
    succeeds("evaluate", f"--workdir={finetuned}", f"--output={tmp_path}")
    found, result = read_json(tmp_path / "evaluation.json"), result_of(finetuned)
    assert found["test_top1"] == pytest.approx(result["test_top1"], abs=2e-3)


def test_the_parts_of_the_224_run_work_together(tmp_path):
    """14x14 grid, 116 hidden, class folders, random resized crops, bfloat16."""
    names = [f"class{i % 3}/{i}.jpg" for i in range(12)]
    save_noise(tmp_path / "images", names, shape=(250, 300))
    succeeds(
        "pretrain",
        "--config=configs/patchformer_imagenet224.py",
        f"--config.data.name=folder:{tmp_path}/images",
        "--config.model.width=2",
        "--config.model.num_heads=2",
        "--config.model.mlp_dim=8",
        "--config.model.attention_layers=2",
        "--config.train.batch_size=2",
        "--config.train.steps=2",
        "--config.train.precision=mixed_bfloat16",
        "--config.optimizer.warmup_steps=1",
        f"--workdir={tmp_path}/run",
    )
    result = result_of(tmp_path / "run")
    assert result["evaluated_images"] == 1 and 0 < result["baseline_accuracy"] <= 1
    found = weights(tmp_path / "run", 2)
    shapes_found = {v.shape for name, v in found.items() if "_embedding" in name}
    assert shapes_found == {(14, 32)}
