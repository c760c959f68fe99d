import colorsys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from selfie_tf.data import augment

# In the paper's order: the step's name, its attribute of the config, a setting, "off".
STEPS = [
    ("jitter", "jitter", 2, 0),
    ("adjust_brightness", "brightness", 32 / 255, 0),
    ("adjust_hue", "hue", 0.2, 0),
    ("adjust_saturation", "saturation", 0.5, 0),
    ("adjust_contrast", "contrast", 0.5, 0),
    ("flip", "flip_rate", 0.2, 0),
    ("reduce_bit_depth", "min_bits", 2, 8),
    ("blend_grayscale", "grayscale_rate", 0.2, 0),
]
NAMES = [name for name, *_ in STEPS]
each_step = pytest.mark.parametrize("name, attribute, setting, off", STEPS, ids=NAMES)


def settings(**changed):
    return SimpleNamespace(**{a: on for _, a, on, _ in STEPS} | changed)


def all_off(**changed):
    return SimpleNamespace(**{a: off for _, a, _, off in STEPS} | changed)


def random_patches(rng, count=24, size=6):
    return rng.integers(0, 256, [count, size, size, 3], dtype=np.uint8)


def in_pipeline(function, patches, setting, seed):
    """The result in tf.data, its shape known before it runs."""
    dataset = tf.data.Dataset.from_tensors((patches, tf.constant(seed, tf.int64)))
    dataset = dataset.map(lambda x, seed: function(x, setting, seed))
    assert dataset.element_spec.shape == patches.shape
    return next(iter(dataset)).numpy()


def assert_uniform(values, low, high):
    """Numbers of U(low, high), one a patch (Kolmogorov-Smirnov, p = 3e-6)."""
    values = np.sort(np.asarray(values, np.float64))
    margin = 1e-4 * (high - low)  # they are recovered from float32 pixels
    assert low - margin <= values[0] and values[-1] <= high + margin
    expected = low + (high - low) * (np.arange(len(values)) + 0.5) / len(values)
    assert np.abs(values - expected).max() < 2.6 / len(values) ** 0.5 * (high - low)


def assert_count(count, draws, rate):
    """Binomial, five standard deviations."""
    assert abs(count - draws * rate) < 5 * (draws * rate * (1 - rate)) ** 0.5


@each_step
def test_a_step_is_a_function_of_its_seed_eagerly_and_in_a_pipeline(
    rng, name, attribute, setting, off
):
    step, patches = getattr(augment, name), random_patches(rng)
    eager = step(tf.constant(patches), setting, [3, 4])
    assert eager.dtype == tf.float32 and eager.shape == patches.shape
    assert eager.numpy().min() >= 0 and eager.numpy().max() <= 255
    np.testing.assert_array_equal(in_pipeline(step, patches, setting, [3, 4]), eager)
    np.testing.assert_array_equal(step(patches.astype(np.float32), setting, [3, 4]), eager)
    for other in ([3, 5], [4, 4], [4, 3]):
        assert not np.array_equal(step(tf.constant(patches), setting, other), eager)


@each_step
def test_a_step_that_is_off_changes_nothing(rng, name, attribute, setting, off):
    step, patches = getattr(augment, name), random_patches(rng)
    fractions = rng.uniform(0, 255, patches.shape).astype(np.float32)
    for x in (patches, fractions):
        found = step(tf.constant(x), off, [3, 4])
        assert found.dtype == tf.float32
        np.testing.assert_array_equal(found, x)
        np.testing.assert_array_equal(in_pipeline(step, x, off, [3, 4]), x)


def cut_and_scale(patch, row, column, pixels):
    """Bilinear, pixel centres at halves, edges repeated: one number at a time."""
    size = len(patch)
    side = size - pixels
    square = patch[row : row + side, column : column + side].astype(np.float64)
    result = np.zeros(patch.shape)
    for i in range(size):
        for j in range(size):
            y, x = ((k + 0.5) * side / size - 0.5 for k in (i, j))
            top, left = int(np.floor(y)), int(np.floor(x))
            for r, height in ((top, top + 1 - y), (top + 1, y - top)):
                for c, width in ((left, left + 1 - x), (left + 1, x - left)):
                    source = square[min(max(r, 0), side - 1), min(max(c, 0), side - 1)]
                    result[i, j] += height * width * source
    return result


@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_jitter_cuts_every_square_and_scales_it(rng, pixels):
    patches = random_patches(rng, count=300, size=5)
    found = augment.jitter(tf.constant(patches), pixels, [1, 2]).numpy()
    places = (pixels + 1) ** 2
    counts = np.zeros([pixels + 1, pixels + 1], int)
    for before, after in zip(patches, found):
        errors = [
            np.abs(cut_and_scale(before, *divmod(place, pixels + 1), pixels) - after).max()
            for place in range(places)
        ]
        best = int(np.argmin(errors))
        assert errors[best] < 1e-3
        counts[divmod(best, pixels + 1)] += 1
    for count in counts.flat:
        assert_count(count, 300, 1 / places)


@pytest.mark.parametrize("pixels", [4, -1])
def test_jitter_leaves_at_least_a_pixel(pixels):
    with pytest.raises(ValueError, match=f"pixels is {pixels}; patches of 4x4 need 0 to 3"):
        augment.jitter(tf.zeros([2, 4, 4, 3], tf.uint8), pixels, [1, 2])


# The colour steps draw the same whatever the patches are. So what a seed draws is read off patches
# on which that is easy, then the step on random patches is compared with TensorFlow's own op, patch
# by patch.


def test_brightness_adds_one_number_to_a_patch(rng):
    grey = augment.adjust_brightness(tf.fill([400, 2, 2, 3], 127.0), 0.3, [5, 6])
    deltas = grey.numpy()[:, 0, 0, 0] - 127
    assert_uniform(deltas, -0.3 * 255, 0.3 * 255)
    patches = random_patches(rng, 400)
    found = augment.adjust_brightness(tf.constant(patches), 0.3, [5, 6])
    expected = np.clip(patches + deltas[:, None, None, None], 0, 255)
    assert (expected == 0).any() and (expected == 255).any()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_contrast_is_that_of_tensorflow(rng):
    # Means of (100, 120, 90), whose red is 10 away from it.
    halves = np.full([400, 2, 2, 3], [110, 120, 90], np.float32)
    halves[:, 0, :, 0] = 90
    factors = (augment.adjust_contrast(tf.constant(halves), 0.8, [5, 6])[:, 1, 1, 0] - 100) / 10
    assert_uniform(factors, 0.2, 1.8)
    patches = random_patches(rng, 400).astype(np.float32)
    found = augment.adjust_contrast(tf.constant(patches), 0.8, [5, 6])
    for before, factor, after in zip(patches, factors, found):
        expected = np.clip(tf.image.adjust_contrast(before, factor), 0, 255)
        np.testing.assert_allclose(after, expected, atol=2e-3)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_saturation_is_that_of_tensorflow(rng, strength):
    pale = np.full([400, 2, 2, 3], [160, 180, 200], np.float32)  # saturation 0.2
    seen = augment.adjust_saturation(tf.constant(pale), strength, [5, 6]).numpy()
    factors = (1 - seen.min((1, 2, 3)) / seen.max((1, 2, 3))) / 0.2
    assert_uniform(factors, 1 - strength, 1 + strength)
    patches = random_patches(rng, 400).astype(np.float32)
    found = augment.adjust_saturation(tf.constant(patches), strength, [5, 6])
    for before, factor, after in zip(patches, factors, found):
        expected = 255 * tf.image.adjust_saturation(before / 255, factor)
        np.testing.assert_allclose(after, expected, atol=0.02)


def test_saturation_does_not_turn_into_that_of_the_opposite_colour():
    colour = tf.constant(np.full([400, 2, 2, 3], [160, 180, 200], np.float32))
    red, green, blue = tf.unstack(augment.adjust_saturation(colour, 2.0, [5, 6]), axis=-1)
    grey = np.asarray(red == blue)
    assert_count(grey[:, 0, 0].sum(), 400, 0.25)  # factors below 0, of U(-1, 3)
    assert (np.asarray(red <= green) & np.asarray(green <= blue)).all()


@pytest.mark.parametrize("max_delta", [0.2, 0.5])
def test_hue_is_that_of_tensorflow(rng, max_delta):
    brown = np.full([400, 2, 2, 3], [200, 100, 50], np.float32)
    seen = augment.adjust_hue(tf.constant(brown), max_delta, [5, 6]).numpy()[:, 0, 0]
    hue = colorsys.rgb_to_hsv(200, 100, 50)[0]
    deltas = np.array([(colorsys.rgb_to_hsv(*c)[0] - hue + 0.5) % 1 - 0.5 for c in seen])
    assert_uniform(deltas, -max_delta, max_delta)
    patches = random_patches(rng, 400).astype(np.float32)
    found = augment.adjust_hue(tf.constant(patches), max_delta, [5, 6])
    for before, delta, after in zip(patches, deltas.astype(np.float32), found):
        expected = 255 * tf.image.adjust_hue(before / 255, delta)
        np.testing.assert_allclose(after, expected, atol=0.02)


@pytest.mark.parametrize("rate", [0.2, 0.7, 1.0])
def test_flip_mirrors_a_part_of_the_patches(rng, rate):
    patches = random_patches(rng, 2000, size=4)
    found = augment.flip(tf.constant(patches), rate, [1, 2]).numpy()
    mirrored = (found == patches[:, :, ::-1]).all((1, 2, 3))
    same = (found == patches).all((1, 2, 3))
    assert (mirrored ^ same).all()
    if rate == 1:
        assert mirrored.all()
    else:
        assert_count(mirrored.sum(), 2000, rate)


@pytest.mark.parametrize("min_bits", [1, 2, 7])
def test_every_bit_depth_of_every_value(rng, min_bits):
    draws = 400
    values = np.stack([rng.permutation(256) for _ in range(3 * draws)]).astype(np.uint8)
    patches = values.reshape(draws, 3, 16, 16).transpose(0, 2, 3, 1)
    found = augment.reduce_bit_depth(tf.constant(patches), min_bits, [1, 2]).numpy()
    depths = []
    for before, after in zip(patches, found):
        depth = len(np.unique(after)).bit_length() - 1
        # Pillow leaves the upper bits where they are.
        level = np.asarray(ImageOps.posterize(Image.fromarray(before), depth)) >> 8 - depth
        np.testing.assert_allclose(after, level.astype(int) * 255 / (2**depth - 1), rtol=1e-6)
        assert after.min() == 0 and after.max() == 255
        if depth == 8:
            np.testing.assert_array_equal(after, before)
        depths.append(depth)
    assert set(depths) == set(range(min_bits, 9))
    for depth in range(min_bits, 9):
        assert_count(depths.count(depth), draws, 1 / (9 - min_bits))


def test_bit_depth_rounds_before_it_takes_the_upper_bits(rng):
    patches = random_patches(rng).astype(np.float32)
    for shift in (-0.4, 0.4):
        moved = augment.reduce_bit_depth(tf.constant(patches + np.float32(shift)), 2, [1, 2])
        np.testing.assert_array_equal(moved, augment.reduce_bit_depth(patches, 2, [1, 2]))


@pytest.mark.parametrize("rate", [0.2, 0.7, 1.0])
def test_grayscale_is_blended_into_a_part_of_the_patches(rng, rate):
    patches = random_patches(rng, 2000, size=2).astype(np.float32)
    found = augment.blend_grayscale(tf.constant(patches), rate, [1, 2]).numpy()
    parts = []
    for before, after in zip(patches, found):
        if np.array_equal(before, after):
            continue
        towards_grey = before @ np.array([[0.2989], [0.5870], [0.1140]]) - before
        most = np.unravel_index(np.abs(towards_grey).argmax(), before.shape)
        parts.append((after - before)[most] / towards_grey[most])
        np.testing.assert_allclose(after, before + parts[-1] * towards_grey, atol=1e-3)
    if rate == 1:
        assert len(parts) == 2000
    else:
        assert_count(len(parts), 2000, rate)
    assert_uniform(parts, 0, 1)


@pytest.fixture
def calls(monkeypatch):
    """Every step that `augment_patches` runs: (name, setting, seed), the steps still running."""
    made = []

    def recorded(name, step):
        def run(patches, setting, seed):
            made.append((name, setting, tuple(int(s) for s in seed)))
            return step(patches, setting, seed)

        return run

    for name in NAMES:
        monkeypatch.setattr(augment, name, recorded(name, getattr(augment, name)))
    return made


def test_the_steps_follow_the_paper(rng, calls):
    patches = random_patches(rng)
    found = augment.augment_patches(tf.constant(patches), settings(), [1, 2])
    assert [(name, setting) for name, setting, _ in calls] == [s[::2] for s in STEPS]
    x = patches
    for name, setting, seed in list(calls):
        x = getattr(augment, name)(x, setting, seed)
    assert found.dtype == tf.uint8
    np.testing.assert_array_equal(found, np.rint(np.clip(x, 0, 255)))
    assert (np.asarray(x) % 1 > 0.5).any()  # else truncating would do
    assert not np.array_equal(found, patches)


def test_what_a_step_draws_does_not_depend_on_the_others(rng, calls):
    patches = tf.constant(random_patches(rng))
    augment.augment_patches(patches, settings(), [1, 2])
    everything = calls.copy()
    for name, attribute, _, off in STEPS:
        calls.clear()
        augment.augment_patches(patches, settings(**{attribute: off}), [1, 2])
        assert calls == [call for call in everything if call[0] != name]


def test_no_two_steps_or_images_share_their_draws(rng, calls):
    patches = tf.constant(random_patches(rng, count=2))
    for position in range(20):
        augment.augment_patches(patches, settings(), tf.constant([1, position], tf.int64))
    seeds = [seed for *_, seed in calls]
    assert len(seeds) == len(set(seeds)) == 20 * len(STEPS)


def test_augment_patches_is_a_function_of_its_seed_eagerly_and_in_a_pipeline(rng):
    patches = random_patches(rng, count=12, size=8)
    eager = augment.augment_patches(tf.constant(patches), settings(), [3, 4])
    assert eager.dtype == tf.uint8 and eager.shape == patches.shape
    found = in_pipeline(augment.augment_patches, patches, settings(), [3, 4])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, eager)
    for other in ([3, 5], [4, 4], [4, 3]):
        different = augment.augment_patches(tf.constant(patches), settings(), other).numpy()
        assert (different != found).any((1, 2, 3)).all()  # every patch


def test_with_all_steps_off_nothing_is_drawn_or_changed(rng):
    patches = random_patches(rng)
    np.testing.assert_array_equal(augment.augment_patches(patches, all_off(), [3, 4]), patches)
    found = in_pipeline(augment.augment_patches, patches, all_off(), [3, 4])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, patches)

    @tf.function
    def traced(x):
        return augment.augment_patches(x, all_off(), tf.constant([3, 4], tf.int64))

    operations = traced.get_concrete_function(tf.constant(patches)).graph.get_operations()
    assert operations
    assert not [o.type for o in operations if "Random" in o.type]
