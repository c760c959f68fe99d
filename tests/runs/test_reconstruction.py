"""PatchFormer's pipeline, its held-out figures, and whole runs of it."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_export import STRANGER, run_script

from selfie_tf import reconstruction
from selfie_tf.config import PatchFormerConfig
from selfie_tf.data import make_source, synthetic
from selfie_tf.data.augment import augment_patches
from selfie_tf.methods import METHODS
from selfie_tf.training.load import load_finetuned

from helpers import (
    STEPS,
    TINY_FINETUNE_PATCHFORMER,
    TINY_PATCHFORMER,
    assert_identical,
    held_out_batches,
    log_points,
    run,
    start,
    training_batches,
    wait_for,
    weights,
)

OFF = {
    "jitter": 0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "flip_rate": 0.0,
    "min_bits": 8,
    "grayscale_rate": 0.0,
}


def make_config(**augment):
    config = PatchFormerConfig()
    config.data.name, config.data.image_size, config.data.crop = "builtin:shapes", 16, "center"
    config.data.eval_images = 40
    config.patches.size, config.patches.target_size = 4, 2
    config.train.batch_size = 16
    for name, value in augment.items():
        assert hasattr(config.augment, name)
        setattr(config.augment, name, value)
    config.validate()
    return config


def first_batch(config):
    return next(iter(training_batches(make_source(config.data), config)))


def test_noise_is_on_visible_patches_only():
    plain, noisy = first_batch(make_config(**OFF)), first_batch(make_config())
    for name in ("context_positions", "target_positions", "target_levels"):
        np.testing.assert_array_equal(noisy[name], plain[name], err_msg=name)
    same = np.all(noisy["context_patches"] == plain["context_patches"], axis=(2, 3, 4))
    assert same.mean() < 0.05


def test_noise_differs_by_image_and_epoch_and_is_not_the_masks():
    """Of the same pixels at other positions, and with a seed that nothing else uses."""
    config = make_config(**{**OFF, "brightness": 1.0})
    image = tf.fill([16, 16, 3], tf.constant(128, tf.uint8))
    seeds = [tf.constant([0, i], tf.int64) for i in range(4)]
    noisy = [
        METHODS["patchformer"]
        .make_input(image, config, seed, training=True)["context_patches"]
        .numpy()
        for seed in seeds
    ]
    assert len({x.tobytes() for x in noisy}) == 4
    direct = augment_patches(
        tf.fill([8, 4, 4, 3], tf.constant(128, tf.uint8)), config.augment, [0, 0]
    )
    assert (direct.numpy() != noisy[0]).any()


def test_each_switch_turns_its_noise_on():
    plain = first_batch(make_config(**OFF))["context_patches"].numpy()
    on = PatchFormerConfig().augment
    for name in OFF:
        noisy = first_batch(make_config(**{**OFF, name: getattr(on, name)}))
        assert (noisy["context_patches"].numpy() != plain).any(), name


def test_held_out_images_have_no_noise_and_targets_are_the_images():
    config = make_config()
    source = make_source(config.data)
    (batch,) = held_out_batches(source, config, 4, 4, crop=False)
    for b in range(4):
        image = batch["original"][b].numpy()
        for t, place in enumerate(batch["target_positions"][b].numpy()):
            row, column = 4 * (place // 4), 4 * (place % 4)
            middle = image[row + 1 : row + 3, column + 1 : column + 3]
            expected = tf.image.rgb_to_grayscale(middle)[..., 0] // 64
            np.testing.assert_array_equal(batch["target_levels"][b, t], expected)


def test_held_out_figures_match_a_loop():
    """With answers that are right where a hash of the place says so."""
    config = make_config()
    source = make_source(config.data)

    def logits(batch):
        right = (batch["target_positions"] % 3 == 0)[..., None, None]
        answers = tf.where(right, batch["target_levels"], (batch["target_levels"] + 1) % 4)
        return 3.0 * tf.one_hot(answers, 4)

    found = reconstruction.evaluate(config, source, logits)
    (batch,) = held_out_batches(source, config, 40, 40, crop=False)
    batch = {name: tensor.numpy() for name, tensor in batch.items()}
    right, loss, by_image = [], [], []
    for b in range(40):
        visible = [
            int(level)
            for patch in batch["context_patches"][b]
            for level in (tf.image.rgb_to_grayscale(patch)[..., 0].numpy() // 64).ravel()
        ]
        guess = max(range(4), key=visible.count)
        by_image.append(np.mean(batch["target_levels"][b] == guess))
        for place in batch["target_positions"][b]:
            hit = place % 3 == 0
            right.append(hit)
            loss.append(np.log(np.exp(3.0) + 3) - 3.0 * hit)
    levels = batch["target_levels"].ravel().tolist()
    assert found["evaluated_images"] == 40
    assert found["pixel_accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    assert found["held_out_loss"] == pytest.approx(np.mean(loss), rel=1e-5)
    assert found["baseline_accuracy"] == max(levels.count(k) for k in range(4)) / len(levels)
    assert found["image_baseline_accuracy"] == pytest.approx(np.mean(by_image))


# Runs


@pytest.fixture(scope="module")
def pretrained(finished):
    return finished(TINY_PATCHFORMER)


def finetune(workdir, *flags):
    flags = [*TINY_FINETUNE_PATCHFORMER, *flags, f"--workdir={workdir}"]
    code, out, err = run(*flags, command="bin/finetune.py")
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def finetuned(pretrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finetuned"
    out = finetune(workdir, f"--config.init_from={pretrained}")
    assert "transformer/block1 (16), attention_pooling/query (1)" in out
    assert "left fresh: residual (15), head (2)" in out
    return workdir


def test_a_run_leaves_figures_and_pictures(pretrained):
    result = json.loads((pretrained / "result.json").read_text())
    for key in ("pixel_accuracy", "baseline_accuracy", "image_baseline_accuracy"):
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


def test_finetuning_killed_and_resumed_leaves_out_the_same_patches(finetuned, pretrained, tmp_path):
    flags = [*TINY_FINETUNE_PATCHFORMER, f"--config.init_from={pretrained}"]
    flags += ["--config.train.log_every=1", f"--workdir={tmp_path}"]
    process = start(*flags, command="bin/finetune.py")
    lines = tmp_path / "metrics.jsonl"
    wait_for(lambda: lines.exists() and lines.read_text().count("\n") >= 15, process)
    process.kill()
    process.communicate()
    out = finetune(tmp_path, f"--config.init_from={pretrained}", "--config.train.log_every=1")
    assert "resuming at step" in out
    expected = weights(finetuned)
    (calls,) = [v for name, v in expected.items() if "patch_dropout/calls" in name]
    assert calls == STEPS
    assert_identical(tmp_path, expected)


def test_an_exported_classifier_answers_and_trains_as_its_run(finetuned, tmp_path):
    export = tmp_path / "export"
    code, _, err = run(f"--workdir={finetuned}", f"--output={export}", command="bin/export.py")
    assert code == 0, err
    images = synthetic.draw_shapes(np.arange(5000, 5012), 16)[0]
    answers = run_script(STRANGER, export, images, tmp_path)
    expected = load_finetuned(str(finetuned))(images, training=False).numpy()
    # Other fusions round differently, which layer norms amplify; logits differ by 0.1 and more.
    for key in ("logits", "float32_logits", "called"):
        np.testing.assert_allclose(answers[key], expected, atol=5e-4)
    moved = set(answers["moved"].tolist())
    assert any("patch_dropout/calls" in name for name in moved)
    assert any("moving_mean" in name for name in moved)


def test_both_are_evaluated(pretrained, finetuned, tmp_path):
    flags = [f"--output={tmp_path}", "--train_images=200"]
    code, out, err = run(f"--workdir={pretrained}", *flags, command="bin/evaluate.py")
    assert code == 0, err
    assert "pixel accuracy on 32 held-out images" in out and "untrained" in out
    found = json.loads((tmp_path / "evaluation.json").read_text())
    result = json.loads((pretrained / "result.json").read_text())
    for key in ("pixel_accuracy", "baseline_accuracy", "held_out_loss"):
        assert found[key] == pytest.approx(result[key], abs=1e-5)
    assert 0 <= found["probes"]["pretrained"]["linear_probe_top1"] <= 1
    code, _, err = run(f"--workdir={finetuned}", f"--output={tmp_path}", command="bin/evaluate.py")
    assert code == 0, err
    found = json.loads((tmp_path / "evaluation.json").read_text())
    result = json.loads((finetuned / "result.json").read_text())
    assert found["test_top1"] == pytest.approx(result["test_top1"], abs=2e-3)


def test_the_parts_of_the_224_run_work_together(tmp_path, rng):
    """14x14 grid, 116 hidden, class folders, random resized crops, bfloat16."""
    for i in range(12):
        folder = tmp_path / "images" / f"class{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, [250, 300, 3], dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    code, _, err = run(
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
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["evaluated_images"] == 1 and 0 < result["baseline_accuracy"] <= 1
    found = weights(tmp_path / "run", 2)
    shapes_found = {v.shape for name, v in found.items() if "_embedding" in name}
    assert shapes_found == {(14, 32)}
