"""Tests of the built-in images."""

import numpy as np
import pytest

from selfie_tf.data import synthetic

LABELS = [2, 0, 4, 9, 3, 8, 1, 7, 5, 6]
MEANS = [132.770, 135.789, 137.894]
ROWS = [85.292, 121.115, 142.177, 84.510]


@pytest.fixture(scope="module")
def drawn():
    return synthetic.draw_shapes(np.arange(600), 32)


def test_shapes_and_dtypes(drawn):
    images, labels = drawn
    assert images.shape == (600, 32, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (600,) and labels.dtype == np.int64
    assert len(np.unique(images, axis=0)) == 600
    images, labels = synthetic.draw_shapes(np.arange(0), 17)
    assert images.shape == (0, 17, 17, 3) and labels.shape == (0,)


def test_subsets_in_any_order_give_the_same_images(drawn):
    images, labels = drawn
    chosen = np.random.default_rng(0).permutation(600)[:333]
    again, labels_again = synthetic.draw_shapes(chosen, 32)
    np.testing.assert_array_equal(again, images[chosen])
    np.testing.assert_array_equal(labels_again, labels[chosen])
    alone, label_alone = synthetic.draw_shapes(chosen[:1].astype(np.int32), 32)
    np.testing.assert_array_equal(alone, images[chosen[:1]])
    assert label_alone == labels[chosen[0]]


def test_seeds_differ(drawn):
    images, labels = synthetic.draw_shapes(np.arange(600), 32, seed=1)
    assert 0.05 < np.mean(labels == drawn[1]) < 0.15
    assert np.all(np.any(images != drawn[0], axis=(1, 2, 3)))


def test_every_ten_hold_each_class_once(drawn):
    blocks = drawn[1].reshape(60, 10)
    np.testing.assert_array_equal(np.sort(blocks, 1), np.tile(np.arange(10), (60, 1)))
    assert len(np.unique(blocks, axis=0)) == 60  # Shuffled, so an index does not tell its class.
    assert synthetic.NUM_TRAIN % 10 == 0 and synthetic.NUM_TEST % 10 == 0


def test_random_numbers_are_uniform_and_independent():
    keys = synthetic._mix(np.arange(4000, dtype=np.uint64))
    values = np.concatenate([synthetic._uniform(keys, stream, 8) for stream in (0, 1)], 1)
    assert values.min() >= 0 and values.max() < 1
    np.testing.assert_allclose(values.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(values.std(0), 12**-0.5, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(values.T), np.eye(16), atol=0.08)


def test_mix_is_splitmix64():
    # First outputs of the reference implementation, seeds 0 and 1234567.
    seeds = np.array([0, 1234567], np.uint64)
    expected = np.array([0xE220A8397B1DCDAF, 6457827717110365317], np.uint64)
    np.testing.assert_array_equal(synthetic._mix(seeds), expected)


@pytest.mark.parametrize("name", sorted(synthetic._POLYGONS))
def test_polygon_distance_matches_a_loop(name):
    outline = np.asarray(synthetic._POLYGONS[name], float)
    label = synthetic.CLASS_NAMES.index(name)
    for px, py in np.random.default_rng(1).uniform(-1.3, 1.3, (60, 2)):
        # Distance to densely sampled edges; inside if the outline winds around the point.
        following = np.roll(outline, -1, 0)
        t = np.linspace(0, 1, 2001)[:, None, None]
        samples = outline + t * (following - outline) - [px, py]
        distance = np.sqrt((samples**2).sum(-1)).min()
        a, b = outline - [px, py], following - [px, py]
        cross = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
        winding = np.arctan2(cross, (a * b).sum(1)).sum() / (2 * np.pi)
        expected = -distance if abs(winding) > 0.5 else distance
        got = synthetic.signed_distance(label, np.array([px]), np.array([py]))[0]
        assert got == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("name", "x", "y", "expected"),
    [
        ("disc", 0.0, 0.0, -0.92),
        ("disc", 0.0, -1.42, 0.5),
        ("ring", 0.0, 0.0, 0.56),
        ("ring", 0.75, 0.0, -0.19),
        ("crescent", -0.6, 0.0, -0.32),
        ("crescent", 0.46, 0.0, 0.74),
        ("half-disc", 0.0, 0.0, -0.45),
        ("half-disc", 0.2, -0.85, 0.4),
        ("heart", 0.0, -1.95, 1.0),  # Below the tip.
        ("heart", -0.25 / 0.6, 0.3, -(2**0.5) / 4 / 0.6),  # The centre of the left lobe.
    ],
)
def test_distance_of_curved_outlines(name, x, y, expected):
    got = synthetic.signed_distance(synthetic.CLASS_NAMES.index(name), np.array([x]), np.array([y]))
    assert got[0] == pytest.approx(expected, abs=1e-6)


def test_masks_of_different_classes_differ_at_any_rotation():
    """Also mirrored and rotated as far as they are drawn, no two classes overlap well."""
    grid = np.linspace(-1.2, 1.2, 48)
    masks = []  # [10, 2 * 5 * 5, 48 * 48]
    for label in range(10):
        of_class = []
        for angle in np.linspace(-0.35, 0.35, 5):
            for flip in (-1, 1):
                for stretch in np.linspace(0.85, 1.15, 5):
                    x, y = grid[None, :] * flip, grid[:, None]
                    u = (np.cos(angle) * x + np.sin(angle) * y) / stretch
                    v = np.cos(angle) * y - np.sin(angle) * x
                    of_class.append(synthetic.signed_distance(label, u, v).ravel() < 0)
        masks.append(np.array(of_class, np.float32))
    for label, mask in enumerate(masks):
        assert 0.1 < mask.mean() < 0.6, synthetic.CLASS_NAMES[label]
        for other in masks[:label]:
            both = mask @ other.T
            either = mask.sum(1)[:, None] + other.sum(1)[None, :] - both
            assert np.max(both / either) < 0.9


def test_every_size_shows_the_same_scene(drawn):
    images = drawn[0][:100].astype(float)
    for size in (64, 128):
        large, labels = synthetic.draw_shapes(np.arange(100), size)
        np.testing.assert_array_equal(labels, drawn[1][:100])
        factor = size // 32
        small = large.reshape(100, 32, factor, 32, factor, 3).mean((2, 4))
        assert np.abs(small - images).mean() < 1.5
        # Not as near to another image.
        assert np.abs(small - np.roll(images, 1, 0)).mean() > 30
    for size in (16, 33, 256):
        assert synthetic.draw_shapes(np.arange(3), size)[0].shape == (3, size, size, 3)


def test_places_differ(drawn):
    """Sky and ground differ, and the lit side is the same above and below the horizon."""
    images = drawn[0].astype(float)
    rows = images[:, [0, 1, 16, 17, 30, 31]].mean((2, 3)).reshape(600, 3, 2).mean(2)  # [600, 3]
    assert np.mean(rows[:, 0] > rows[:, 2]) > 0.6
    sky, ground = images[:, :4].mean((1, 3)), images[:, 28:].mean((1, 3))  # [600, 32]
    lit = [part[:, 24:].mean(1) > part[:, :8].mean(1) for part in (sky, ground)]
    assert np.mean(lit[0] == lit[1]) > 0.85
    assert 0.4 < np.mean(lit[0]) < 0.6


def test_statistics_are_those_of_the_published_images(drawn):
    """Stored means, so that a change of the drawing, which changes all results, is noticed."""
    images, labels = drawn
    np.testing.assert_array_equal(labels[:10], LABELS)
    # Libraries differ in the last bit of sin and exp, which may change a rounding, no more.
    np.testing.assert_allclose(images.mean((0, 1, 2)), MEANS, atol=0.01)
    np.testing.assert_allclose(images[7].mean((1, 2))[::8], ROWS, atol=0.1)


@pytest.mark.parametrize("indices", [np.zeros((2, 2), int), np.array([0.0, 1.0]), np.array([-1])])
def test_rejects_bad_indices(indices):
    with pytest.raises(ValueError, match="vector of integers >= 0"):
        synthetic.draw_shapes(indices, 32)


@pytest.mark.parametrize("image_size", [15, 257])
def test_rejects_bad_sizes(image_size):
    with pytest.raises(ValueError, match="image_size must be from 16 to 256, got"):
        synthetic.draw_shapes(np.arange(3), image_size)
