import importlib.util
import math

import numpy as np
import pytest
import tensorflow as tf

from selfie_tf import optimizers
from selfie_tf.config import OptimizerConfig
from selfie_tf.errors import UserError
from selfie_tf.optimizers import make_optimizer, warmup_cosine
from selfie_tf.training.loop import last_metrics

HAS_ADDONS = importlib.util.find_spec("tensorflow_addons") is not None
needs_addons = pytest.mark.skipif(
    not HAS_ADDONS, reason="no TensorFlow Addons: `make test-addons-lane` runs this"
)


@pytest.mark.parametrize("warmup", [0, 100])
def test_warmup_is_linear_and_the_rest_half_a_cosine(warmup):
    schedule = warmup_cosine(0.4, 1000, warmup)
    for step in (0, 1, 50, 99, 100, 101, 550, 999, 1000):
        if step < warmup:
            expected = 0.4 * step / warmup
        else:
            expected = 0.2 * (1 + math.cos(math.pi * (step - warmup) / (1000 - warmup)))
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5, atol=1e-7)


def test_sgd_is_nesterov():
    config = make_optimizer("sgd", 0.1, momentum=0.8).get_config()
    assert config["nesterov"] and config["momentum"] == 0.8 and not config["weight_decay"]
    with pytest.raises(ValueError, match="'adma' is unknown"):
        make_optimizer("adma", 0.1)


def test_adamw_decays_kernels_only():
    """With no gradient nothing else moves; `kernel` counts as the last part of a name only."""
    names = ["a/query/kernel", "kernel", "a/query/bias", "embedding", "kernel_norm/gamma", "u0"]
    names += ["kernel/embedding", "a/kernels", "a/subkernel", "a/bias/replica_1"]
    kernels = ["a/query/kernel", "kernel", "b/kernel/replica_1", "b/kernel/replica_12"]
    names += kernels[2:]  # as the copies of replicas are called
    variables = [tf.Variable([1.0, -2.0], name=name) for name in names]
    optimizer = make_optimizer("adamw", 0.1, weight_decay=0.5, beta_1=0.8, epsilon=1e-3)
    config = optimizer.get_config()
    assert (config["beta_1"], config["beta_2"]) == (0.8, 0.999) and config["epsilon"] == 1e-3
    for _ in range(2):
        optimizer.apply_gradients([(tf.zeros([2]), v) for v in variables])
    for variable, name in zip(variables, names, strict=True):
        factor = 0.95**2 if name in kernels else 1.0
        np.testing.assert_allclose(variable, [factor, -2 * factor], rtol=1e-6, err_msg=name)


@needs_addons
def test_lamb_matches_its_equations(rng):
    """You et al. 2019, algorithm 2; kernels alone decay and have a step length of their own."""
    values = {"a/kernel": rng.normal(size=[3, 2]), "a/bias": rng.normal(size=[2])}
    variables = [tf.Variable(value, name=name) for name, value in values.items()]
    schedule = warmup_cosine(0.2, 10, 5)
    optimizer = make_optimizer(
        "lamb", schedule, weight_decay=0.3, beta_1=0.8, beta_2=0.95, epsilon=1e-3
    )
    optimizers.build(optimizer, variables)
    assert len(optimizer.weights) == 5  # the step, and two moments of each
    moments = {name: (0.0, 0.0) for name in values}
    for step in range(4):
        gradients = {name: rng.normal(size=value.shape) for name, value in values.items()}
        optimizers.apply_gradients(optimizer, [*map(tf.constant, gradients.values())], variables)
        rate = float(schedule(step))
        assert optimizers.current_learning_rate(optimizer) == pytest.approx(rate)
        for name, g in gradients.items():
            m, v = moments[name]
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
            moments[name] = m, v
            update = m / (1 - 0.8 ** (step + 1))
            update /= np.sqrt(v / (1 - 0.95 ** (step + 1))) + 1e-3
            if name == "a/kernel":
                update += 0.3 * values[name]
                update *= np.linalg.norm(values[name]) / np.linalg.norm(update)
            values[name] = values[name] - rate * update
    for variable, value in zip(variables, values.values(), strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-5)


def slowed_steps(optimizer, values, gradients, factor, frozen_steps):
    """Steps with the first of two variables slowed: yields the values and gradients of each."""
    variables = [tf.Variable(value, name="kernel") for value in values]
    optimizers.build(optimizer, variables)
    for both in gradients:
        applied = optimizers.apply_gradients_slowed(
            optimizer, [*map(tf.constant, both)], variables, variables[:1], factor, frozen_steps
        )
        yield [v.numpy() for v in variables], [g.numpy() for g in applied]


@pytest.mark.parametrize("factor, frozen_steps", [(0.5, 0), (0.0, 0), (1.0, 2), (0.3, 2)])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_slowed_sgd_written_out(momentum, factor, frozen_steps, rng):
    """With Nesterov momentum; the velocity begins at 0 after the frozen steps."""
    schedule = warmup_cosine(0.2, 10, 3)
    values, velocity = [rng.normal(size=[3, 2]) for _ in "ab"], [0.0, 0.0]
    gradients = rng.normal(size=[6, 2, 3, 2])
    optimizer = make_optimizer("sgd", schedule, momentum=momentum)
    steps = slowed_steps(optimizer, values, gradients, factor, frozen_steps)
    for step, (found, applied) in enumerate(steps):
        rate = float(schedule(step))
        for i, scale in enumerate((factor, 1.0)):
            g = gradients[step, i] * (i == 1 or step >= frozen_steps)
            velocity[i] = momentum * velocity[i] - rate * g
            values[i] = values[i] + scale * (momentum * velocity[i] - rate * g)
            np.testing.assert_allclose(found[i], values[i], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(applied[i], g)


@pytest.mark.parametrize("factor, frozen_steps", [(0.5, 0), (0.0, 0), (1.0, 3), (0.3, 3)])
def test_slowed_adamw_written_out(factor, frozen_steps, rng):
    """Its moments begin at 0 after the frozen steps, and so does the correction for that."""
    schedule = warmup_cosine(0.2, 10, 3)
    values, moments = [rng.normal(size=[3, 2]) for _ in "ab"], [(0.0, 0.0)] * 2
    gradients = rng.normal(size=[8, 2, 3, 2])
    optimizer = make_optimizer("adamw", schedule, weight_decay=0.3, beta_1=0.8, beta_2=0.95)
    steps = slowed_steps(optimizer, values, gradients, factor, frozen_steps)
    for step, (found, _) in enumerate(steps):
        rate = float(schedule(step))
        for i, scale in enumerate((factor, 1.0)):
            own = step + 1 - (0 if i else frozen_steps)
            if own < 1:
                np.testing.assert_array_equal(found[i], values[i])
                continue
            g, (m, v) = gradients[step, i], moments[i]
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
            moments[i] = m, v
            late, plain = (np.sqrt(1 - 0.95**n) / (1 - 0.8**n) for n in (own, step + 1))
            update = plain * m / (np.sqrt(v) + 1e-6) + 0.3 * values[i]
            values[i] = values[i] - scale * late / plain * rate * update
            np.testing.assert_allclose(found[i], values[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", pytest.param("lamb", marks=needs_addons)])
def test_what_is_slowed_moves_by_the_fraction_and_the_rest_as_ever(name, rng):
    """Against the plain step: a fraction of the first update, none of the frozen ones."""
    values = [rng.normal(size=[3, 2]).astype(np.float32) for _ in "ab"]
    gradients = rng.normal(size=[3, 2, 3, 2]).astype(np.float32)

    def steps(factor, frozen_steps):
        optimizer = make_optimizer(name, 0.1, weight_decay=0.3)
        return [v for v, _ in slowed_steps(optimizer, values, gradients, factor, frozen_steps)]

    plain, half, frozen = steps(1.0, 0), steps(0.5, 0), steps(1.0, 2)
    np.testing.assert_allclose(half[0][0], (values[0] + plain[0][0]) / 2, rtol=1e-5)
    for step in range(3):
        np.testing.assert_array_equal(half[step][1], plain[step][1])
        np.testing.assert_array_equal(frozen[step][1], plain[step][1])
        assert (frozen[step][0] != values[0]).all() == (step == 2)
    assert (plain[0][0] != values[0]).all()


@pytest.mark.skipif(HAS_ADDONS, reason="TensorFlow Addons is installed")
def test_lamb_without_addons_says_how_to_get_it():
    with pytest.raises(UserError, match="requirements/addons.txt"):
        make_optimizer("lamb", 0.1)


@pytest.mark.parametrize("name", ["sgd", "adamw", pytest.param("lamb", marks=needs_addons)])
def test_the_learning_rate_is_that_of_the_latest_step(name):
    schedule = warmup_cosine(0.4, 10, 4)
    optimizer = make_optimizer(name, schedule)
    variable = tf.Variable([1.0])
    optimizers.build(optimizer, [variable])
    for step in range(3):
        optimizers.apply_gradients(optimizer, [tf.constant([1.0])], [variable])
        assert optimizers.current_learning_rate(optimizer) == pytest.approx(0.1 * step)


@pytest.mark.parametrize("name, expected", [("sgd", 0.3), ("adamw", 0.0)])
def test_weights_decay_once(name, expected):
    """In the loss, or by the optimizer."""
    config = OptimizerConfig(name=name, weight_decay=0.3)
    assert config.decay_in_loss == expected
    in_optimizer = make_optimizer(name, 0.1, weight_decay=0.3).weight_decay
    assert (in_optimizer or 0.0) == 0.3 - expected


def test_last_metrics_weigh_log_points_by_their_steps():
    points = [
        {"step": 40, "window": 40, "loss": 9.0, "patch_accuracy": 0.0},
        {"step": 80, "window": 40, "loss": 2.0, "patch_accuracy": 0.5},
        {"step": 90, "window": 10, "loss": 1.0, "patch_accuracy": 1.0},
    ]
    result = last_metrics(points, ("loss", "patch_accuracy"), 90, 50)
    assert result == {"loss": 1.8, "patch_accuracy": 0.6, "averaged_steps": 50}
