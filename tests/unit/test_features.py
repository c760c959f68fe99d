"""What frozen features tell, against NumPy loops."""

import math

import numpy as np
import pytest

from selfie_tf.training.features import effective_rank, nearest_others, spread


def rank_reference(features):
    """exp(entropy) of the singular values, by way of the covariance's eigenvalues."""
    centred = [row - sum(features) / len(features) for row in features]
    gram = np.array([[a @ b for b in centred] for a in centred])
    values = [math.sqrt(v) for v in np.linalg.eigvalsh(gram) if v > 1e-9]
    entropy = 0.0
    for value in values:
        share = value / sum(values)
        entropy -= share * math.log(share)
    return math.exp(entropy)


def test_the_nearest_others_are_those_of_a_loop(rng):
    x = rng.normal(size=[9, 4])
    x[5] = 3 * x[0]  # only directions count
    found = nearest_others(x, 3, 8)
    assert found.shape == (3, 8) and found[0, 0] == 5
    for i, row in enumerate(found):
        cosines = [x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for j in row]
        assert sorted(row) == [j for j in range(9) if j != i]
        assert max(np.diff(cosines)) < 1e-12


def test_effective_rank_is_that_of_roy_and_vetterli(rng):
    features = rng.normal(3, 1, [30, 7]) * rng.uniform(0.1, 5, 7)
    assert effective_rank(features) == pytest.approx(rank_reference(features))
    assert 1 < effective_rank(features) < 7
    assert effective_rank(5 * features - 100) == pytest.approx(effective_rank(features))


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_effective_rank_counts_directions_of_equal_weight(directions):
    corners = np.zeros([2 * directions, 8])
    for i in range(directions):
        corners[2 * i, i], corners[2 * i + 1, i] = 1, -1
    assert effective_rank(corners + 4) == pytest.approx(directions)


def test_what_float32_rounds_off_is_no_direction(rng):
    line = rng.normal(size=[50, 1]) * rng.normal(size=[1, 20]) + 30
    assert effective_rank(line.astype(np.float32)) == pytest.approx(1, abs=1e-3)
    constant = np.tile(rng.normal(size=[1, 20]), [50, 1])
    rounded = constant * (1 + 1e-8 * rng.normal(size=[50, 20]))
    for features in (constant, rounded, np.zeros([50, 20])):
        assert effective_rank(features) == 0


def test_spread_is_the_deviation_of_directions(rng):
    features = rng.normal(1, 1, [40, 6]) * rng.uniform(0.1, 10, [40, 1])
    units = [row / math.sqrt(sum(x * x for x in row)) for row in features]
    deviations = []
    for j in range(6):
        column = [row[j] for row in units]
        mean = sum(column) / 40
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in column) / 40))
    assert spread(features) == pytest.approx(sum(deviations) / 6 * math.sqrt(6))


def test_spread_runs_from_collapsed_to_isotropic(rng):
    axes = np.concatenate([np.eye(5), -np.eye(5)])
    assert spread(axes * rng.uniform(1, 9, [10, 1])) == pytest.approx(1)
    one_direction = np.ones([10, 5]) * rng.uniform(1, 9, [10, 1])
    assert spread(one_direction) == pytest.approx(0, abs=1e-7)
    assert spread(np.zeros([10, 5])) == 0
