"""Differences between recipes, with the noise of pretrainings, finetunings and test images."""

import collections
import dataclasses
import itertools

import numpy as np

_EXACT = 20  # up to this many pretrainings all sign flips are tried


@dataclasses.dataclass(frozen=True)
class Score:
    """The accuracy of one finetuning.

    Attributes:
      pretraining: Number of the pretraining. Recipes without one have it too, for pairs.
      seed: Of the finetuning.
      accuracy: In [0, 1].
      network: Name of the pretrained network; "" without one.
      correct: float64 `[N]`, whose mean is the accuracy: whether each test image is classified
        correctly, of balanced accuracy over its class's share of them; None if not known.
      classes: int `[N]`, the classes of the test images, of balanced accuracy; otherwise None.
      lost: Whether `correct` is not known although all finetunings share their images.
    """

    pretraining: int
    seed: int
    accuracy: float
    network: str = ""
    correct: np.ndarray | None = None
    classes: np.ndarray | None = None
    lost: bool = False


@dataclasses.dataclass(frozen=True)
class Difference:
    """A recipe's accuracy minus its baseline's, over pairs of finetunings.

    Attributes:
      mean: The mean difference, over pretrainings of the mean over their finetunings.
      half_width: Half the width of the 95 % interval; None with fewer than two pretrainings, or if
        the noise of the test images is not known.
      p: Of the sign-flip test over pretrainings, two-sided; None with fewer than two, whose p would
        be 1 whatever they are.
      pretrainings, pairs: How many there are.
    """

    mean: float
    half_width: float | None
    p: float | None
    pretrainings: int
    pairs: int


def mean_and_deviation(scores: list) -> tuple:
    """Averages the scores of a recipe.

    Returns:
      The mean over pretrainings of the mean over their finetunings; and the standard deviation
      (over n - 1) between pretrainings, or between finetunings where there is one pretraining. It
      is None for a single finetuning.
    """
    groups = _groups(scores, lambda score: (score.pretraining, score.network))
    means = [np.mean([score.accuracy for score in group]) for group in groups]
    spread = means if len(means) > 1 else [score.accuracy for score in scores]
    deviation = float(np.std(spread, ddof=1)) if len(spread) > 1 else None
    return float(np.mean(means)), deviation


def compare(scores: list, baseline: list) -> Difference | None:
    """Compares a recipe with its baseline, in pairs of the same pretraining number and seed.

    All finetunings of one pretraining share its luck, so a pretraining counts once: as the mean
    difference of its pairs. Its variance between pretrainings holds the noise of pretraining and,
    in part, that of finetuning. All pairs share the test images, whose noise it does not hold. So
    the variance of the mean over images is added. The interval is the mean, plus and minus the
    square root of this sum times Student's t for n - 1 degrees of freedom. (A percentile bootstrap
    over few pretrainings is too narrow.)

    Args:
      scores, baseline: `Score`s.

    Returns:
      None if there is no pair.
    """
    others = {(score.pretraining, score.seed): score for score in baseline}
    pairs = [(s, others.get((s.pretraining, s.seed))) for s in scores]
    pairs = [(a, b) for a, b in pairs if b is not None]
    if not pairs:
        return None
    groups = _groups(pairs, lambda pair: (pair[0].pretraining, pair[0].network, pair[1].network))
    means = np.array([np.mean([a.accuracy - b.accuracy for a, b in group]) for group in groups])
    return Difference(
        float(means.mean()),
        _half_width(means, groups),
        sign_flip_p(means) if len(means) > 1 else None,
        len(groups),
        len(pairs),
    )


def sign_flip_p(differences) -> float:
    """Computes the two-sided p-value of the sign-flip test, exact for up to 20 pretrainings.

    If there is no difference, each pretraining's difference is as likely to have the other sign.
    The p-value is the fraction of all choices of signs whose mean is at least as far from 0. With n
    pretrainings it is 2 / 2**n or more. Of more than 20 pretrainings, 100,000 choices are drawn.

    Args:
      differences: float `[n]`, one per pretraining.
    """
    differences = np.asarray(differences, np.float64)
    if len(differences) > _EXACT:
        signs = np.random.default_rng(0).choice((1, -1), (100_000, len(differences)))
        signs[0] = 1  # the choice that was found, so that p is not 0
    else:
        signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    means = np.abs((signs * differences).mean(axis=1))
    return float(np.mean(means >= abs(differences.mean()) - 1e-12))


def holm(p_values: list) -> list:
    """Adjusts p-values for their number (Holm 1979); in the order given."""
    order, adjusted, largest = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = float(largest)
    return adjusted


def _half_width(means, groups):
    from scipy.stats import t  # slow to import

    count, scores = len(means), [x for group in groups for pair in group for x in pair]
    if count < 2 or any(score.lost for score in scores):
        return None  # without the noise of the images it would be too narrow
    variance = np.var(means, ddof=1) / count
    if all(score.correct is not None for score in scores):
        per_image = np.mean(
            [np.mean([a.correct - b.correct for a, b in group], axis=0) for group in groups],
            axis=0,
        )  # [N]
        classes = groups[0][0][0].classes
        for c in () if classes is None else np.unique(classes):
            # Each class has as many images in any other draw of test images, too.
            per_image[classes == c] -= per_image[classes == c].mean()
        variance += np.var(per_image, ddof=1) / len(per_image)
    return float(t.ppf(0.975, count - 1) * np.sqrt(variance))


def _groups(items, key):
    groups = collections.defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())
