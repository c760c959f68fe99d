"""PatchFormer's input, and how it is evaluated on held-out images."""

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.config import PatchFormerConfig
from selfie_tf.data import make_source
from selfie_tf.data.augment import augment_patches
from selfie_tf.data.source import IndexedSource
from selfie_tf.methods import METHODS
from selfie_tf.methods.patchformer import nearest_visible, nearest_visible_baseline, target_pixels

from helpers import held_out_batches, training_batches

METHOD = METHODS["patchformer"]
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
    """The pixels are the same at all positions, and nothing else uses the seed of the noise."""
    config = make_config(**{**OFF, "brightness": 1.0})
    image = tf.fill([16, 16, 3], tf.constant(128, tf.uint8))
    seeds = [tf.constant([0, i], tf.int64) for i in range(4)]
    noisy = [
        METHOD.make_input(image, config, seed, training=True)["context_patches"].numpy()
        for seed in seeds
    ]
    assert len({x.tobytes() for x in noisy}) == 4
    direct = augment_patches(
        tf.fill([8, 4, 4, 3], tf.constant(128, tf.uint8)), config.augment, [0, 0]
    )
    assert (direct.numpy() != noisy[0]).any()


def test_each_switch_turns_its_noise_on(rng):
    """Of 16 images, as some noise is only on some of the patches."""
    images = tf.constant(rng.integers(0, 256, [16, 16, 16, 3]), tf.uint8)

    def visible(**augment):
        config = make_config(**augment)
        data = tf.data.Dataset.from_tensor_slices(images).enumerate()
        data = data.map(lambda i, x: METHOD.make_input(x, config, [tf.cast(0, i.dtype), i], True))
        return next(iter(data.batch(16)))["context_patches"].numpy()

    plain, on = visible(**OFF), PatchFormerConfig().augment
    for name in OFF:
        assert (visible(**{**OFF, name: getattr(on, name)}) != plain).any(), name


def test_held_out_images_have_no_noise_and_targets_are_the_images():
    config = make_config()
    source = make_source(config.data)
    (batch,) = held_out_batches(source, config, 4, 4, crop=False)
    for b in range(4):
        image = batch["original"][b].numpy()
        for t, position in enumerate(batch["target_positions"][b].numpy()):
            row, column = 4 * (position // 4), 4 * (position % 4)
            middle = image[row + 1 : row + 3, column + 1 : column + 3]
            expected = tf.image.rgb_to_grayscale(middle)[..., 0] // 64
            np.testing.assert_array_equal(batch["target_levels"][b, t], expected)


def nearest_by_search(shown, size, row, column):
    """The nearest of all visible pixels; of several, the one that row order meets first."""
    best, found = np.inf, None
    for i, j in np.ndindex(len(shown) * size, len(shown) * size):
        distance = (i - row) ** 2 + (j - column) ** 2
        if shown[i // size, j // size] and distance < best:
            best, found = distance, (i, j)
    return found


@pytest.mark.parametrize("visible", [1, 4, 11])
def test_the_nearest_visible_pixel_is_that_of_a_search(visible, rng):
    """Patches of 3 pixels, so that up to four visible pixels are equally near to one."""
    shown = (rng.permutation(16) < visible).reshape(4, 4)
    pixels = np.stack(np.mgrid[:12, :12], axis=-1)
    found = nearest_visible(shown, 3, pixels)
    for row, column in np.ndindex(12, 12):
        assert tuple(found[row, column]) == nearest_by_search(shown, 3, row, column)


@pytest.mark.parametrize("target", ["center_crop", "subsample"])
def test_copying_the_nearest_visible_pixel_matches_a_loop(target, rng):
    """On noise, whose levels differ from pixel to pixel."""
    config = make_config()
    config.data.image_size, config.patches.size = 24, 6
    config.patches.mask_ratio, config.patches.target, config.train.batch_size = 0.5, target, 2
    config.validate()
    kept = {"center_crop": (2, 3), "subsample": (0, 3)}[target]
    images = tf.constant(rng.integers(0, 256, [5, 24, 24, 3]), tf.uint8)
    source = IndexedSource(images, images)
    (batch,) = held_out_batches(source, config, 5, 5, crop=False)
    expected = []
    for image, truth, position in zip(
        batch["original"], batch["target_levels"].numpy(), batch["target_positions"].numpy()
    ):
        levels = tf.image.rgb_to_grayscale(image)[..., 0].numpy() // 64
        shown = np.array([k not in position for k in range(16)]).reshape(4, 4)
        right = []
        for t, k in enumerate(position):
            for i, j in np.ndindex(2, 2):
                row, column = 6 * (k // 4) + kept[i], 6 * (k % 4) + kept[j]
                assert levels[row, column] == truth[t, i, j]
                right.append(levels[nearest_by_search(shown, 6, row, column)] == truth[t, i, j])
        expected.append(np.mean(right))
    found = nearest_visible_baseline(config, batch, target_pixels(config))
    assert found.tolist() == expected and np.std(expected) > 0
    measured = METHOD.evaluate(config, source, lambda batch: tf.one_hot(batch["target_levels"], 4))
    assert measured["nearest_visible_accuracy"] == pytest.approx(np.mean(expected))


def test_held_out_metrics_match_a_loop():
    """With predictions that are right at every third position."""
    config = make_config()
    source = make_source(config.data)

    def logits(batch):
        right = (batch["target_positions"] % 3 == 0)[..., None, None]
        levels = tf.where(right, batch["target_levels"], (batch["target_levels"] + 1) % 4)
        return 3.0 * tf.one_hot(levels, 4)

    found = METHOD.evaluate(config, source, logits)
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
        for position in batch["target_positions"][b]:
            hit = position % 3 == 0
            right.append(hit)
            loss.append(np.log(np.exp(3.0) + 3) - 3.0 * hit)
    levels = batch["target_levels"].ravel().tolist()
    assert found["evaluated_images"] == 40
    assert found["pixel_accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    assert found["held_out_loss"] == pytest.approx(np.mean(loss), rel=1e-5)
    assert found["baseline_accuracy"] == max(levels.count(k) for k in range(4)) / len(levels)
    assert found["image_baseline_accuracy"] == pytest.approx(np.mean(by_image))
