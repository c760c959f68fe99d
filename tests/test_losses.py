import numpy as np
import pytest
import tensorflow as tf

from selfie_tf import losses


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
