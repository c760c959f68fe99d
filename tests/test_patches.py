import numpy as np
import pytest
import tensorflow as tf

from selfie_tf import patches
from selfie_tf.config import Config


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
    config = Config()
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


def test_every_place_is_hidden_equally_often():
    def hidden_counts(seed):
        return tf.reduce_sum(tf.one_hot(patches.random_split(16, 12, [0, seed])[1], 16), 0)

    draws = 2000
    counts = tf.reduce_sum(tf.map_fn(hidden_counts, tf.range(draws), tf.float32), 0).numpy()
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
