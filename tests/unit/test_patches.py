import numpy as np
import pytest
import tensorflow as tf

from selfie_tf import patches
from selfie_tf.config import PatchFormerConfig, SelfieConfig


def test_patchify_matches_a_loop_and_unpatchify_undoes_it(rng):
    images = rng.integers(0, 256, [2, 12, 20, 3], dtype=np.uint8)  # not square
    cut = patches.patchify(tf.constant(images), 4).numpy()
    assert cut.shape == (2, 15, 4, 4, 3)
    for n in range(15):
        row, column = n // 5, n % 5
        expected = images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        np.testing.assert_array_equal(cut[:, n], expected)
    np.testing.assert_array_equal(patches.unpatchify(tf.constant(cut), 3), images)


def test_indivisible_sizes_are_refused():
    with pytest.raises(ValueError, match="10x8"):
        patches.patchify(tf.zeros([10, 8, 3]), 4)
    with pytest.raises(ValueError, match="5 patches"):
        patches.unpatchify(tf.zeros([5, 4, 4, 3]), 2)


@pytest.mark.parametrize(
    "image, patch, fraction, context, targets",
    [(32, 8, 0.75, 12, 4), (32, 8, 0.5, 8, 8), (224, 32, 0.75, 37, 12)],
)
def test_split_sizes(image, patch, fraction, context, targets):
    config = SelfieConfig()
    config.data.image_size, config.patches.size = image, patch
    config.patches.context_fraction = fraction
    assert (config.num_context, config.num_targets) == (context, targets)
    seen, hidden = patches.random_split(config.num_patches, config.num_context, [1, 2])
    assert seen.shape == (context,) and hidden.shape == (targets,)


def test_a_split_holds_every_patch_once_and_differs_by_seed():
    splits = []
    for seed in range(20):
        seen, hidden = patches.random_split(16, 12, [0, seed])
        assert sorted([*seen.numpy(), *hidden.numpy()]) == list(range(16))
        splits.append(tuple(sorted(hidden.numpy())))
    assert len(set(splits)) > 15


def hidden_counts(num_patches, draws, draw):
    """How often each position was hidden in `draws` draws."""
    hidden = tf.data.Dataset.range(draws).map(lambda seed: draw([0, seed])).batch(draws)
    return np.bincount(next(iter(hidden)).numpy().ravel(), minlength=num_patches)


def test_every_position_is_hidden_equally_often():
    draws = 2000
    counts = hidden_counts(16, draws, lambda seed: patches.random_split(16, 12, seed)[1])
    # Binomial(2000, 1/4): standard deviation 19.4.
    assert np.abs(counts - draws / 4).max() < 5 * 19.4


def test_split_image_puts_each_patch_beside_its_position(rng):
    image = rng.integers(0, 256, [16, 16, 3], dtype=np.uint8)
    cut = patches.patchify(tf.constant(image), 4).numpy()

    def check(result):
        for kind, count in (("context", 12), ("target", 4)):
            positions = result[f"{kind}_positions"].numpy()
            assert positions.shape == (count,) and positions.dtype == np.int32
            found = result[f"{kind}_patches"].numpy()
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, cut[positions])

    eager = patches.split_image(tf.constant(image), 4, 12, [3, 4])
    check(eager)
    dataset = tf.data.Dataset.from_tensors(image).map(
        lambda x: patches.split_image(x, 4, 12, [3, 4])
    )
    assert dataset.element_spec["target_patches"].shape == (4, 4, 4, 3)
    in_pipeline = next(iter(dataset))
    check(in_pipeline)
    np.testing.assert_array_equal(in_pipeline["target_positions"], eager["target_positions"])


# PatchFormer


@pytest.mark.parametrize(
    "image, patch, block, ratio, cells, targets",
    [
        (224, 16, 2, 0.6, 29, 116),  # of 49 and 196: the paper's run
        (32, 4, 2, 0.6, 10, 40),
        (32, 4, 1, 0.6, 38, 38),
        (32, 4, 4, 0.6, 2, 32),
    ],
)
def test_masks_are_blocks_of_a_coarse_mask(image, patch, block, ratio, cells, targets):
    """Against a coarse mask upsampled by NumPy."""
    config = PatchFormerConfig()
    config.data.image_size, config.patches.size, config.patches.target_size = image, patch, 4
    config.patches.mask_block, config.patches.mask_ratio = block, ratio
    config.validate()
    grid = image // patch
    assert config.num_hidden_cells == cells
    assert (config.num_targets, config.num_context) == (targets, grid**2 - targets)
    masks = []
    for seed in range(20):
        seen, hidden = patches.random_block_split(grid, block, cells, [0, seed])
        assert seen.shape == (grid**2 - targets,) and hidden.shape == (targets,)
        assert seen.dtype == hidden.dtype == tf.int32
        mask = np.zeros(grid**2, int)
        mask[hidden.numpy()] = 1
        mask = mask.reshape(grid, grid)
        coarse = mask[::block, ::block]
        assert coarse.sum() == cells
        upsampled = np.kron(coarse, np.ones([block, block], int))
        np.testing.assert_array_equal(mask, upsampled)
        np.testing.assert_array_equal(hidden, np.flatnonzero(upsampled))
        np.testing.assert_array_equal(seen, np.flatnonzero(1 - upsampled))
        masks.append(tuple(hidden.numpy()))
    assert len(set(masks)) > 3  # of 6 possible ones where they are fewest


def test_every_cell_is_hidden_equally_often():
    draws = 2000
    counts = hidden_counts(64, draws, lambda seed: patches.random_block_split(8, 2, 6, seed)[1])
    # Binomial(2000, 6/16): standard deviation 21.7.
    assert np.abs(counts - draws * 6 / 16).max() < 5 * 21.7


def test_a_block_must_divide_the_grid():
    with pytest.raises(ValueError, match="7x7 patches cannot be masked in blocks of 2"):
        patches.random_block_split(7, 2, 3, [0, 1])


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_levels_of_all_greys(bits):
    greys = np.arange(256, dtype=np.uint8)
    levels = patches.gray_levels(tf.constant(np.stack([greys] * 3, -1)), bits)
    assert levels.dtype == tf.int32
    np.testing.assert_array_equal(levels, [int(g) * 2**bits // 256 for g in range(256)])


def test_levels_of_colours_are_of_rec_601_luma(rng):
    pixels = rng.integers(0, 256, [4000, 3], dtype=np.uint8)
    luma = pixels.astype(np.float64) @ [0.2989, 0.587, 0.114]
    # TensorFlow makes a byte of the luma; colours that near a threshold may fall either way.
    clear = np.abs(luma - 64 * np.round(luma / 64)) > 1
    found = patches.gray_levels(tf.constant(pixels), 2).numpy()
    np.testing.assert_array_equal(found[clear], (luma[clear] // 64).astype(int))
    assert clear.mean() > 0.9 and set(found) == {0, 1, 2, 3}


@pytest.mark.parametrize("size, side, first", [(8, 16, 4), (4, 7, 1), (4, 4, 0)])
def test_the_centre_crop_matches_a_loop(size, side, first, rng):
    x = rng.integers(0, 256, [3, side, side, 2])
    found = patches.shrink(tf.constant(x), size, "center_crop").numpy()
    assert found.shape == (3, size, size, 2)
    for i, row, column in np.ndindex(3, size, size):
        expected = x[i, first + row, first + column]
        np.testing.assert_array_equal(found[i, row, column], expected)


@pytest.mark.parametrize("size, side", [(8, 16), (2, 6), (4, 4)])
def test_subsampling_matches_a_loop(size, side, rng):
    x = rng.integers(0, 256, [3, side, side, 2])
    found = patches.shrink(tf.constant(x), size, "subsample").numpy()
    assert found.shape == (3, size, size, 2)
    step = side // size
    for i, row, column in np.ndindex(3, size, size):
        expected = x[i, step * row, step * column]
        np.testing.assert_array_equal(found[i, row, column], expected)


@pytest.mark.parametrize("size, how", [(5, "subsample"), (17, "center_crop"), (8, "average")])
def test_sizes_that_cannot_be_left(size, how):
    with pytest.raises(ValueError, match=f"16x16 cannot be shrunk to {size}x{size} by '{how}'"):
        patches.shrink(tf.zeros([1, 16, 16, 3]), size, how)


@pytest.mark.parametrize("target", ["center_crop", "subsample"])
def test_mask_image_puts_each_patch_and_target_beside_its_position(target, rng):
    image = rng.integers(0, 256, [32, 32, 3], dtype=np.uint8)
    arguments = (8, 2, 1, 4, target, 2, [3, 4])

    def check(result):
        seen, hidden = result["context_positions"].numpy(), result["target_positions"].numpy()
        assert sorted([*seen, *hidden]) == list(range(16)) and len(hidden) == 4
        for patch, position in zip(result["context_patches"].numpy(), seen, strict=True):
            row, column = 8 * (position // 4), 8 * (position % 4)
            np.testing.assert_array_equal(patch, image[row : row + 8, column : column + 8])
        for levels, position in zip(result["target_levels"].numpy(), hidden, strict=True):
            row, column = 8 * (position // 4), 8 * (position % 4)
            patch = image[row : row + 8, column : column + 8]
            left = patch[2:6, 2:6] if target == "center_crop" else patch[::2, ::2]
            expected = patches.gray_levels(tf.constant(left), 2)
            np.testing.assert_array_equal(levels, expected)

    eager = patches.mask_image(tf.constant(image), *arguments)
    check(eager)
    dataset = tf.data.Dataset.from_tensors(image).map(lambda x: patches.mask_image(x, *arguments))
    assert dataset.element_spec["target_levels"].shape == (4, 4, 4)
    in_pipeline = next(iter(dataset))
    check(in_pipeline)
    np.testing.assert_array_equal(in_pipeline["target_positions"], eager["target_positions"])
