"""What each method measures on held-out images, with a stand-in for the network."""

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf.config import PatchFormerConfig, SelfieConfig
from selfie_tf.data.source import IndexedSource
from selfie_tf.methods import METHODS
from selfie_tf.methods.selfie import margin_baseline


@pytest.fixture
def source(rng):
    """Images without a black pixel."""
    images = tf.constant(rng.integers(1, 256, [40, 16, 16, 3]).astype(np.uint8))
    return IndexedSource(images, images)


def small(kind):
    config = kind()
    config.data.image_size, config.patches.size, config.data.eval_images = 16, 4, 30
    config.train.batch_size = 8
    return config


def has_margin(batch):
    patches = np.concatenate([batch["context_patches"], batch["target_patches"]], axis=1)
    return (patches == 0).all(-1).any((1, 2, 3))  # [B]


def test_selfie_tells_cropped_from_uncropped_images(source):
    """The stand-in is right on images with a black margin, and picks one patch for all others."""
    config = small(SelfieConfig)
    config.data.crop, config.patches.pad = "pad", 4
    margins = []

    def predict(batch):
        seen = has_margin(batch)
        margins.append(seen)
        right, constant = 9 * np.eye(4), 9 * np.eye(4)[[0] * 4]
        return tf.constant(np.where(seen[:, None, None], right, constant), tf.float32)

    result = METHODS["selfie"].evaluate(config, source, predict)
    shifted = np.concatenate(margins)[:30].mean()  # all but the crops that happen not to move
    assert shifted > 0.8
    assert result["held_out_patch_accuracy"] == pytest.approx(shifted + (1 - shifted) / 4)
    assert result["held_out_patch_accuracy_uncropped"] == 0.25
    wrong = np.log(np.exp(9) + 3) - np.array([9, 0, 0, 0])
    assert result["held_out_loss"] == pytest.approx(
        shifted * np.log(1 + 3 * np.exp(-9)) + (1 - shifted) * wrong.mean(), rel=1e-3
    )
    assert (result["chance"], result["evaluated_images"]) == (0.25, 30)


def test_the_margin_alone_tells_where_patches_belong(rng, source):
    """Against an observer that compares margins pixel by pixel, on random crops and choices."""
    config = small(SelfieConfig)
    config.data.crop, config.patches.pad, config.patches.context_fraction = "pad", 3, 0.6875
    image, right = np.pad(np.ones([16, 16], bool), 3), []
    for _ in range(20_000):
        y, x = rng.integers(0, 7, 2)
        crop = image[y : y + 16, x : x + 16].reshape(4, 4, 4, 4).swapaxes(1, 2).reshape(16, 16)
        hidden = crop[rng.choice(16, 5, replace=False)]
        fits = (hidden[:, None] == hidden[None]).all(-1)  # [T, T]
        right.append((1 / fits.sum(1)).mean())
    baseline = margin_baseline(config)
    assert baseline == pytest.approx(np.mean(right), abs=4 * np.std(right) / np.sqrt(20_000))

    def predict(batch):
        return tf.zeros([len(batch["target_positions"]), 5, 5])

    for mode, there in (("zeros", True), ("mean", True), ("reflect", False), ("enlarge", False)):
        config.data.pad_mode = mode
        result = METHODS["selfie"].evaluate(config, source, predict)
        assert result.get("margin_baseline") == (baseline if there else None)
        assert ("from the margin alone" in METHODS["selfie"].describe(result)) == there


def test_a_margin_wider_than_a_patch_hides_whole_patches():
    """2x2 patches of 1 pixel with 2 of padding: at most offsets, some are margin and nothing else.

    An offset of 0 or 4 in either direction shows the margin alone, so all patches are alike. At 1
    or 3 one row (or column) is margin; at 2 none is.
    """
    config = small(SelfieConfig)
    config.data.image_size, config.patches.size, config.patches.pad = 2, 1, 2
    config.patches.context_fraction = 0.5
    same = 1 / 2  # two hidden patches that look alike
    one_differs = (3 * 1 + 3 * same) / 6  # three margins and one patch of the image
    half = (4 * 1 + 2 * same) / 6  # two and two
    expected = (16 * same + 4 * one_differs + 4 * half + 1 * same) / 25
    assert margin_baseline(config) == pytest.approx(expected)


def test_patchformer_measures_uncropped_images_beside_two_blank_guesses(source):
    config = small(PatchFormerConfig)
    config.data.crop, config.patches.target_size = "pad", 2
    levels, visible = [], []

    def predict(batch):
        levels.append(batch["target_levels"].numpy())
        visible.append(batch["context_patches"].numpy())
        return tf.one_hot(np.full(levels[-1].shape, 2), 4) * 5.0  # always level 2

    result = METHODS["patchformer"].evaluate(config, source, predict)
    assert not any((patches == 0).all(-1).any() for patches in visible)  # no margin
    hidden = np.concatenate(levels)
    assert result["pixel_accuracy"] == pytest.approx((hidden == 2).mean())
    assert result["baseline_accuracy"] == max((hidden == k).mean() for k in range(4))
    grey = np.concatenate(visible) @ np.array([0.2989, 0.587, 0.114])
    guesses = []
    for image, truth in zip(np.round(grey).astype(int) // 64, hidden):
        guesses.append((truth == np.bincount(image.ravel()).argmax()).mean())
    assert result["image_baseline_accuracy"] == pytest.approx(np.mean(guesses), abs=0.02)
    assert result["evaluated_images"] == 30
