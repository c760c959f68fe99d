"""Runs of finetuning, from pretrained weights and from nothing."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from selfie_tf.data import synthetic
from selfie_tf.errors import Interrupted
from selfie_tf.training.load import load_finetuned, load_pretrained
from selfie_tf.training.loop import Trainer

from helpers import (
    PARITY,
    STEPS,
    TINY,
    TINY_FINETUNE,
    assert_close,
    assert_identical,
    assert_same_logs,
    copy_unfinished,
    cut_short,
    fails,
    finish_workers,
    log_points,
    result_of,
    run,
    succeeds,
    weights,
)


def finish(workdir, *flags):
    return succeeds("finetune", *TINY_FINETUNE, *flags, f"--workdir={workdir}")


def predictions_of(workdir):
    with np.load(workdir / "predictions.npz") as file:
        return file["labels"], file["predictions"]


def evaluations_of(workdir):
    return [json.loads(line) for line in (workdir / "evaluations.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pretrained(shared):
    return shared(TINY)


@pytest.fixture(scope="module")
def whole(pretrained, shared):
    """An uninterrupted run."""
    return shared([*TINY_FINETUNE, f"--config.init_from={pretrained}"], "finetune")


def test_a_run_says_what_it_loads_and_how_it_ends(whole, pretrained):
    out = (whole / "stdout.txt").read_text()
    assert f"step {STEPS}/{STEPS}" in out and "finished: test loss" in out
    for part in (
        f"loaded from {pretrained} (builtin:shapes, step 24 of 24): backbone/stem (1), "
        "backbone/group1",
        "randomly initialised: backbone/group4",
        "head (2)",
        "not used: patch_network/final_norm (4)",
    ):
        assert part in out


def test_a_run_leaves_what_the_readme_says(whole, pretrained):
    result = result_of(whole)
    assert 0 <= result["test_top1"] <= 1 and result["test_loss"] > 0 and result["train_loss"] > 0
    assert "test_top5" not in result  # ten classes
    assert result["test_images"] == 1000 and result["classes"] == 10 and result["steps"] == STEPS
    assert result["initialisation"]["from"] == str(pretrained)
    assert result["initialisation"]["step"] == 24
    assert result["subset"]["label_fraction"] == 0.05
    assert result["subset"]["labelled_images"] == result["subset"]["trained_on"] == 250
    assert [p["step"] for p in log_points(whole)] == [4, 8, 12, 16, 20, 24]
    evaluations = evaluations_of(whole)
    assert [e["step"] for e in evaluations] == [12, 24]
    assert evaluations[-1]["test_top1"] == result["test_top1"]
    assert (whole / "figures" / "curves.png").exists()
    subset = json.loads((whole / "subset.json").read_text())
    labels = synthetic.draw_shapes(np.array([int(i) for i in subset["ids"]]), 16)[1]
    assert np.bincount(labels).tolist() == [25] * 10
    steps = sorted(p.name for p in (whole / "checkpoints").iterdir())
    assert steps == ["step-00000012", "step-00000018", "step-00000024"]


def test_tensorboard_holds_training_and_evaluation(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "tensorboard"), {"tensors": 0})
    events.Reload()
    assert {"loss", "top1", "learning_rate", "test_top1"} <= set(events.Tags()["tensors"])
    assert [e.step for e in events.Tensors("test_top1")] == [12, 24]


def test_the_reported_accuracy_is_that_of_the_saved_model(whole):
    """By Keras's own evaluation of what was saved, over images drawn here."""
    model = load_finetuned(str(whole))
    images, labels = synthetic.draw_shapes(np.arange(5000, 6000), 16)
    logits = model.predict(images, verbose=0)
    result = result_of(whole)
    assert result["test_top1"] == pytest.approx((logits.argmax(-1) == labels).mean(), abs=2e-3)
    chosen = logits[np.arange(1000), labels].astype(np.float64)
    log_sums = np.log(np.exp(logits.astype(np.float64)).sum(-1))
    assert result["test_loss"] == pytest.approx(np.mean(log_sums - chosen), rel=1e-3)


def test_the_predictions_are_those_of_the_saved_model(whole):
    images, expected = synthetic.draw_shapes(np.arange(5000, 6000), 16)
    labels, predictions = predictions_of(whole)
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == predictions.dtype == np.int64
    assert np.mean(labels == predictions) == pytest.approx(result_of(whole)["test_top1"])
    logits = load_finetuned(str(whole)).predict(images, verbose=0).astype(np.float64)
    again = logits.argmax(-1)
    assert len(set(again)) > 1 and np.mean(again == predictions) >= 0.998  # near ties
    with np.load(whole / "predictions.npz") as file:
        assert file["ids"].tolist() == [str(i) for i in range(5000, 6000)]
        sure = file["probabilities"]
    highest = np.exp(logits.max(-1)) / np.exp(logits).sum(-1)
    np.testing.assert_allclose(sure, highest, rtol=1e-3)
    assert sure.dtype == np.float32 and np.std(sure) > 1e-3


def test_predictions_of_a_run_that_ended_after_its_last_checkpoint(whole, pretrained, tmp_path):
    copy_unfinished(whole, tmp_path / "run")
    (tmp_path / "run" / "predictions.npz").unlink()
    finish(tmp_path / "run", f"--config.init_from={pretrained}")
    found, expected = predictions_of(tmp_path / "run"), predictions_of(whole)
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def untrained(pretrained, tmp_path_factory):
    """Runs with a learning rate of 0, so that their first weights are still there at the end."""
    root = tmp_path_factory.mktemp("untrained")
    values = ["--config.optimizer.learning_rate=0", "--config.train.steps=5"]
    values += ["--config.model.head=resnet36_attention", f"--config.init_from={pretrained}"]
    finish(root / "pretrained", *values)
    out = finish(root / "scratch", *values, "--config.from_scratch=True")
    assert "all weights are random (the supervised baseline)" in out
    return root


def test_training_starts_from_the_pretrained_weights(untrained, pretrained):
    mine, theirs = load_finetuned(str(untrained / "pretrained")), load_pretrained(str(pretrained))
    for part, other in (
        (mine.backbone, theirs.patch_network),
        (mine.positions, theirs.positions),
        (mine.attention_pooling, theirs.attention_pooling),
    ):
        for variable, expected in zip(part.trainable_weights, other.trainable_weights, strict=True):
            np.testing.assert_array_equal(variable, expected, err_msg=variable.name)


def test_the_baseline_has_the_same_random_head_and_sees_the_same_images(untrained, whole):
    both = [load_finetuned(str(untrained / name)) for name in ("pretrained", "scratch")]
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(*(getattr(model.head, name) for model in both))
    kernels = [model.backbone.stem.conv.kernel.numpy() for model in both]
    assert (kernels[0] != kernels[1]).all()
    assert result_of(untrained / "scratch")["initialisation"]["from"] == ""
    subsets = [(path / "subset.json").read_text() for path in (untrained / "scratch", whole)]
    assert subsets[0] == subsets[1]


def test_cut_short_and_resumed_the_bits_are_the_same(whole, pretrained, tmp_path, monkeypatch):
    """After the evaluation of a step and before its checkpoint, so that both are made again.

    A checkpoint makes the pretrained weights superfluous, and the record of them.
    """
    copy, workdir = tmp_path / "pretrained", tmp_path / "run"
    shutil.copytree(pretrained, copy)
    flags = [*TINY_FINETUNE, f"--config.init_from={copy}", f"--workdir={workdir}"]
    cut_short(monkeypatch, 12, "finetune", *flags)
    assert [e["step"] for e in evaluations_of(workdir)] == [12]
    copy.rename(tmp_path / "gone")
    (workdir / "initialisation.json").unlink()
    assert "resuming at step 6 " in succeeds("finetune", *flags)
    assert_identical(workdir, weights(whole))
    assert [e["step"] for e in evaluations_of(workdir)] == [12, 24]
    assert_same_logs(workdir, whole, "initialisation")
    assert result_of(workdir)["initialisation"]["from"] == str(copy)


FROZEN = ["--config.train.frozen_steps=13", "--config.optimizer.backbone_factor=0.3"]
ALL_CHECKPOINTS = "--config.train.keep_checkpoints=4"


@pytest.fixture(scope="module")
def frozen(pretrained, shared):
    """Frozen at its checkpoints of steps 6 and 12, and no more at 18 and 24."""
    flags = [*TINY_FINETUNE, *FROZEN, ALL_CHECKPOINTS, f"--config.init_from={pretrained}"]
    return shared(flags, "finetune")


def unchanged(workdir, first, last):
    """The model's weights that are the same in two checkpoints."""
    before, after = weights(workdir, first), weights(workdir, last)
    same = {name for name in before if np.array_equal(before[name], after[name])}
    return {name for name in same if name.startswith("model/")}


def test_frozen_layers_keep_the_pretrained_weights_and_are_trained_later(frozen, pretrained):
    same = unchanged(frozen, 6, 12)
    assert any("/stem/" in name for name in same) and not any("moving_" in name for name in same)
    name = "model/backbone/stem/conv/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    stem = load_pretrained(str(pretrained)).patch_network.stem.conv.kernel
    np.testing.assert_array_equal(weights(frozen, 12)[name], stem)
    assert not any("/kernel/" in name for name in unchanged(frozen, 12, 18))


def test_the_baseline_has_the_same_frozen_layers(frozen, pretrained, tmp_path):
    flags = [*FROZEN, ALL_CHECKPOINTS, f"--config.init_from={pretrained}"]
    finish(tmp_path, *flags, "--config.from_scratch=True")
    assert unchanged(tmp_path, 6, 12) == unchanged(frozen, 6, 12)


def test_frozen_steps_are_counted_from_the_first_start(frozen, pretrained, tmp_path, monkeypatch):
    flags = [*TINY_FINETUNE, *FROZEN, ALL_CHECKPOINTS, f"--config.init_from={pretrained}"]
    flags.append(f"--workdir={tmp_path}")
    cut_short(monkeypatch, 12, "finetune", *flags)
    assert "resuming at step 6 " in succeeds("finetune", *flags)
    assert_identical(tmp_path, weights(frozen))


def test_a_nan_loss_stops_the_run(tmp_path):
    flags = [*TINY_FINETUNE, "--config.optimizer.learning_rate=1e6", f"--workdir={tmp_path}"]
    line = fails("finetune", *flags, "--config.train.log_every=1")
    assert line.startswith("error: the loss or its gradient became NaN")


PARITY_HERE = [*PARITY, "--config.model.head=resnet36_attention"]


@pytest.fixture(scope="module")
def one_replica(shared):
    return shared([*TINY_FINETUNE, *PARITY_HERE], "finetune")


def assert_same_run(workdir, expected):
    """The test images do not fill the last batch, and yet each counts once."""
    assert_close(workdir, expected)
    results = [result_of(path) for path in (workdir, expected)]
    assert results[0]["test_top1"] == results[1]["test_top1"]
    assert results[0]["test_loss"] == pytest.approx(results[1]["test_loss"], abs=1e-4)
    found, wanted = predictions_of(workdir), predictions_of(expected)
    np.testing.assert_array_equal(found[0], wanted[0])
    assert np.mean(found[1] == wanted[1]) >= 0.998  # near ties


def test_two_virtual_replicas_train_and_evaluate_as_one(one_replica, tmp_path):
    flags = [*TINY_FINETUNE, *PARITY_HERE, "--virtual_devices=2", f"--workdir={tmp_path}"]
    code, out, err = run(*flags, command="bin/finetune.py")
    assert code == 0, err
    assert "2 replica(s)" in out
    assert_same_run(tmp_path, one_replica)


def test_two_virtual_replicas_slow_the_backbone_as_one(shared, tmp_path):
    flags = [*TINY_FINETUNE, *PARITY_HERE, *FROZEN, "--config.optimizer.name=adamw"]
    expected = shared(flags, "finetune")
    flags += ["--virtual_devices=2", f"--workdir={tmp_path}"]
    code, _, err = run(*flags, command="bin/finetune.py")
    assert code == 0, err
    assert_same_run(tmp_path, expected)


def test_two_workers_train_and_evaluate_as_one(one_replica, tmp_path):
    flags = [*TINY_FINETUNE, *PARITY_HERE, f"--workdir={tmp_path}"]
    for out in finish_workers(*flags, command="bin/finetune.py"):
        assert "2 replica(s)" in out
    assert_same_run(tmp_path, one_replica)


def test_workers_with_statistics_of_their_own_report_what_they_save(tmp_path):
    """A checkpoint holds their mean. Replicas of one process: see test_training."""
    two, again = tmp_path / "two", tmp_path / "again"
    finish_workers(*TINY_FINETUNE, f"--workdir={two}", command="bin/finetune.py")
    copy_unfinished(two, again)
    finish(again)
    found, expected = result_of(again), result_of(two)
    assert found["resumed_at"] == STEPS
    assert found["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-5)


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    """22 classes of one colour each."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(3)
    for label in range(22):
        for split, count in (("train", 6), ("test", 2)):
            folder = root / split / f"class{label:02d}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, [18, 20, 3]) + [8 * label, 190 - 8 * label, 60]
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def test_class_folders_a_validation_part_and_top_5(class_folders, tmp_path):
    data = [
        f"--config.data.name=folder:{class_folders}",
        "--config.data.test_split=test",
        "--config.data.label_fraction=1",
    ]
    finish(tmp_path / "tune", *data, "--config.data.validation_fraction=0.34")
    result = result_of(tmp_path / "tune")
    assert result["subset"]["trained_on"] == 88 and result["validation_images"] == 44
    assert "test_top1" not in result
    assert result["validation_top1"] <= result["validation_top5"] <= 1
    subset = json.loads((tmp_path / "tune" / "subset.json").read_text())
    assert len(subset["ids"]) == 132 and len(subset["validation_ids"]) == 44
    assert subset["validation_ids"][0].startswith("train/class00/")

    few = [data[0], "--config.data.label_fraction=1", "--config.data.labels_per_class=2"]
    finish(tmp_path / "few", *few, "--config.train.steps=6")
    given = f"--config.data.subset_file={tmp_path}/few/subset.json"
    finish(tmp_path / "again", *data, given, "--config.train.steps=6")
    subsets = [json.loads((tmp_path / x / "subset.json").read_text()) for x in ("few", "again")]
    assert subsets[0] == subsets[1] and subsets[0]["images"] == 44
    assert_identical(tmp_path / "again", weights(tmp_path / "few", 6), 6)
    assert result_of(tmp_path / "again")["test_images"] == 44


def test_another_subset_in_the_file_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "subset.json"
    ids = [str(i) for i in range(200)]  # each ten from 10k on hold each class once
    path.write_text(json.dumps({"ids": ids}))
    flags = [*TINY_FINETUNE, "--config.data.label_fraction=1", f"--workdir={tmp_path}/run"]
    flags.append(f"--config.data.subset_file={path}")

    def stop(*_):
        raise Interrupted(signal.SIGTERM, "stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", stop)
        fails("finetune", *flags, code=143)
    path.write_text(json.dumps({"ids": ids[:100]}))
    assert "another subset" in fails("finetune", *flags)


def test_the_parts_of_the_224_run_work_together(class_folders, tmp_path):
    """ImageNet stem, factorized positions, random resized crops, bfloat16, patch by patch."""
    succeeds(
        "finetune",
        "--config=configs/finetune_imagenet224.py",
        f"--config.data.name=folder:{class_folders}",
        "--config.data.test_split=test",
        "--config.model.head=resnet36_attention",
        "--config.model.patch_by_patch=True",
        "--config.model.width=2",
        "--config.model.num_heads=2",
        "--config.model.mlp_dim=8",
        "--config.model.attention_layers=1",
        "--config.optimizer.warmup_steps=1",
        "--config.optimizer.backbone_factor=0.5",
        "--config.train.frozen_steps=1",
        "--config.train.batch_size=4",
        "--config.train.steps=2",
        "--config.train.precision=mixed_bfloat16",
        f"--workdir={tmp_path}",
    )
    assert np.isfinite(result_of(tmp_path)["test_loss"])
    assert os.path.exists(tmp_path / "figures" / "curves.png")
