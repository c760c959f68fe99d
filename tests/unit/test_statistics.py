"""Differences between recipes: pairs, levels of noise, tests."""

import itertools
import math

import numpy as np
import pytest

from selfie_tf.experiments.statistics import (
    Score,
    compare,
    holm,
    mean_and_deviation,
    sign_flip_p,
)


def scores(values, networks=True):
    """Scores of values `[pretrainings, seeds]`."""
    return [
        Score(p, 10 * p + f, value, f"n{p}" if networks else "")
        for p, row in enumerate(values)
        for f, value in enumerate(row)
    ]


def test_a_pretraining_counts_once():
    mean, deviation = mean_and_deviation(scores([[0.1, 0.2, 0.6], [0.5]]))
    assert mean == pytest.approx((0.3 + 0.5) / 2)
    assert deviation == pytest.approx(np.sqrt(2 * 0.1**2))
    mean, deviation = mean_and_deviation(scores([[0.1, 0.2, 0.6]]))
    assert (mean, deviation) == pytest.approx((0.3, np.std([0.1, 0.2, 0.6], ddof=1)))
    assert mean_and_deviation(scores([[0.4]])) == (0.4, None)


def test_two_networks_of_one_number_are_two_pretrainings():
    """A pretraining that was made again on another machine."""
    found = [Score(0, 0, 0.2, "a"), Score(0, 1, 0.4, "b")]
    assert mean_and_deviation(found)[1] == pytest.approx(np.std([0.2, 0.4], ddof=1))
    baseline = [Score(0, 0, 0.1), Score(0, 1, 0.1)]
    assert compare(found, baseline).pretrainings == 2


def test_pairs_have_the_same_number_and_seed():
    baseline = scores([[0.3, 0.1], [0.2, 0.2]], networks=False)
    better = scores([[0.35, 0.25], [0.21, 0.29]])
    found = compare(better[::-1][:3], baseline)  # the first finetuning is not there yet
    assert found.mean == pytest.approx(np.mean([0.15, np.mean([0.01, 0.09])]))
    assert (found.pretrainings, found.pairs) == (2, 3)
    differences = np.array([0.15, 0.05])
    half = 12.7062 * differences.std(ddof=1) / np.sqrt(2)  # t for one degree of freedom
    assert found.half_width == pytest.approx(half, rel=1e-4)
    assert compare(better, [Score(7, 0, 0.1)]) is None
    assert compare(better[:2], baseline).half_width is None


def test_test_images_are_a_source_of_noise_that_all_pairs_share():
    rng = np.random.default_rng(0)
    a, b = (rng.random([3, 2, 400]) < p for p in (0.7, 0.6))
    better, baseline = (
        [
            Score(p, f, correct[p, f].mean(), network, correct[p, f].astype(float))
            for p, f in itertools.product(range(3), range(2))
        ]
        for correct, network in ((a, "x"), (b, ""))
    )
    found = compare(better, baseline)
    difference = a.astype(float) - b
    means = difference.mean((1, 2))
    images = difference.mean((0, 1))
    variance = means.var(ddof=1) / 3 + images.var(ddof=1) / 400
    assert found.mean == pytest.approx(means.mean())
    assert found.half_width == pytest.approx(4.30265 * np.sqrt(variance), rel=1e-4)


def test_the_interval_holds_the_truth_95_times_in_100():
    """Two levels of noise, 4 pretrainings of 2 finetunings; a percentile bootstrap does not."""
    rng, held, bootstrapped = np.random.default_rng(1), [], []
    for _ in range(1000):
        true = 0.03
        network = rng.normal(0, 0.02, [4, 1])
        values = 0.4 + true + network + rng.normal(0, 0.01, [4, 2])
        base = 0.4 + rng.normal(0, 0.01, [4, 2])
        found = compare(scores(values), scores(base, networks=False))
        held.append(abs(found.mean - true) <= found.half_width)
        means = (values - base).mean(1)
        again = rng.choice(means, [400, 4]).mean(1)
        low, high = np.percentile(again, [2.5, 97.5])
        bootstrapped.append(low <= true <= high)
    assert 0.93 < np.mean(held) < 0.97
    assert np.mean(bootstrapped) < 0.85


def test_sign_flips_against_all_choices_written_out():
    values = [0.3, -0.1, 0.2]
    means = [abs(s * 0.3 + u * 0.1 + v * 0.2) for s in (1, -1) for u in (1, -1) for v in (1, -1)]
    expected = np.mean([mean >= 0.4 - 1e-9 for mean in means])
    assert sign_flip_p(values) == expected == 0.5
    assert sign_flip_p([0.1] * 8) == 2 / 2**8
    assert sign_flip_p([-0.1] * 5) == 2 / 2**5
    # Of more than 20, choices are drawn. All of one size, their signs are binomial.
    p = 2 * sum(math.comb(24, k) for k in range(16, 25)) / 2**24
    assert sign_flip_p([0.1] * 16 + [-0.1] * 8) == pytest.approx(p, abs=0.005)
    assert 0 < sign_flip_p([0.1] * 24) < 1e-4


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
