import numpy as np
import pytest
import tensorflow as tf

from selfie_tf import losses

from helpers import make_projections, nt_xent_reference


def reference(logits):
    """Loss and gradient, image by image and place by place."""
    batch, count, _ = logits.shape
    loss, gradient = np.zeros(batch), np.zeros_like(logits, np.float64)
    for b in range(batch):
        for t in range(count):
            row = logits[b, t].astype(np.float64)
            exps = np.exp(row - row.max())
            probabilities = exps / exps.sum()
            loss[b] -= np.log(probabilities[t]) / count
            gradient[b, t] = probabilities / count
            gradient[b, t, t] -= 1 / count
    return loss, gradient


@pytest.mark.parametrize("count", [4, 12])
def test_loss_and_gradient_match_a_loop(rng, count):
    logits = rng.normal(0, 3, [5, count, count]).astype(np.float32)
    x = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = losses.patch_classification_loss(x)
    expected_loss, expected_gradient = reference(logits)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, x), expected_gradient, atol=1e-6)


def test_loss_is_finite_for_logits_of_hundreds():
    logits = tf.constant([[[0.0, 900.0], [-900.0, 0.0]]])
    np.testing.assert_allclose(losses.patch_classification_loss(logits), [450.0])


def test_accuracy_compares_rows_with_their_own_number():
    logits = np.zeros([2, 3, 3], np.float32)
    for b, choices in enumerate([(0, 2, 2), (1, 0, 0)]):  # places 0 and 2 right; none right
        for t, j in enumerate(choices):
            logits[b, t, j] = 1.0
    np.testing.assert_allclose(losses.patch_accuracy(logits), [2 / 3, 0.0])


def test_l2_counts_kernels_only(rng):
    values = {name: rng.normal(size=[2, 3]).astype(np.float32) for name in "abcd"}
    variables = [
        tf.Variable(values["a"], name="block1/query/kernel"),
        tf.Variable(values["b"], name="block1/query/bias"),
        tf.Variable(values["c"], name="positions/embedding"),
        tf.Variable(values["d"], name="kernel_norm/gamma"),
    ]
    expected = 0.5 * (values["a"] ** 2).sum()
    np.testing.assert_allclose(losses.l2_penalty(variables), expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.01, 0.3])
def test_classification_loss_and_gradient_match_a_loop(smoothing, rng):
    logits, labels = rng.normal(0, 3, [5, 7]).astype(np.float32), np.array([3, 0, 6, -1, 2])
    x = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = losses.classification_loss(x, tf.constant(labels), smoothing)
    expected, gradient = np.zeros(5), np.zeros([5, 7])
    for b, label in enumerate(labels):
        if label < 0:
            continue  # no label, no loss
        exps = np.exp(logits[b].astype(np.float64) - logits[b].max())
        for k in range(7):
            truth = smoothing / 7 + (1 - smoothing) * (k == label)
            expected[b] -= truth * np.log(exps[k] / exps.sum())
            gradient[b, k] = exps[k] / exps.sum() - truth
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, x), gradient, atol=1e-6)


@pytest.mark.parametrize("k, expected", [(1, [1, 0, 0, 0, 0]), (2, [1, 1, 0, 0, 1])])
def test_top_k(k, expected):
    logits = np.array(
        [[0, 3, 1], [2, 3, 1], [2, 3, 1], [2, 3, 1], [5, 5, 5]], np.float32
    )  # equal logits are no hit for all
    hits = losses.top_k(tf.constant(logits), tf.constant([1, 0, 2, -1, 1]), k)
    assert hits.numpy().tolist() == expected


def test_the_loss_of_pixels_is_that_of_each(rng):
    logits = rng.normal(size=[2, 3, 2, 2, 4]).astype(np.float32)
    levels = rng.integers(0, 4, [2, 3, 2, 2]).astype(np.int32)
    found = losses.classification_loss(tf.constant(logits), tf.constant(levels), 0.1)
    flat = losses.classification_loss(
        tf.constant(logits.reshape(-1, 4)), tf.constant(levels.ravel()), 0.1
    )
    assert found.shape == (2, 3, 2, 2)
    np.testing.assert_allclose(tf.reshape(found, [-1]), flat, rtol=1e-6)


def test_pixel_accuracy_is_of_each_image(rng):
    levels = rng.integers(0, 4, [2, 3, 2, 2]).astype(np.int32)
    answers = levels.copy()
    answers[0, 1, 0, 1] = (levels[0, 1, 0, 1] + 1) % 4
    answers[1, :2] = (levels[1, :2] + 2) % 4
    logits = np.eye(4, dtype=np.float32)[answers]
    found = losses.pixel_accuracy(tf.constant(logits), tf.constant(levels))
    np.testing.assert_allclose(found, [11 / 12, 4 / 12])


@pytest.mark.parametrize("count, temperature", [(1, 0.2), (2, 1.0), (7, 0.2)])
def test_nt_xent_and_its_gradient_match_a_loop(count, temperature, rng):
    views = make_projections(rng, count)
    expected = nt_xent_reference(*views, temperature)
    z1, z2 = map(tf.constant, views)
    with tf.GradientTape() as tape:
        tape.watch([z1, z2])
        loss, accuracy = losses.nt_xent(z1, z2, temperature)
        mean = tf.reduce_mean(loss)
    found = [loss, accuracy, *tape.gradient(mean, [z1, z2])]
    assert count < 3 or 0 < expected[1].mean() < 1
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == tf.float32 and value.shape == wanted.shape
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)


def test_nt_xent_of_vectors_that_are_zero_or_the_same_is_finite():
    """Nothing is chosen, and no gradient is NaN."""
    for z in (tf.zeros([3, 4]), tf.ones([3, 4])):
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss, _ = losses.nt_xent(z, z, 0.1)
        np.testing.assert_allclose(loss, [np.log(5)] * 3, rtol=1e-6)
        assert np.isfinite(tape.gradient(loss, z)).all()


def test_nt_xent_of_a_batch_of_unknown_size(rng):
    z1, z2 = make_projections(rng, 6)
    function = tf.function(
        lambda a, b: losses.nt_xent(a, b, 0.5), input_signature=[tf.TensorSpec([None, 5])] * 2
    )
    np.testing.assert_allclose(function(z1, z2)[0], losses.nt_xent(z1, z2, 0.5)[0], rtol=1e-6)
