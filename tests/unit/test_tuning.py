"""The search before the final runs: scores, the chosen setting, the printed grid."""

import pytest

from selfie_tf.config import FinetuneConfig
from selfie_tf.experiments import tuning
from selfie_tf.experiments.plan import Experiment, Recipe, Task, Tuning

SLOW, FAST = "optimizer.learning_rate=0.01", "optimizer.learning_rate=0.1"


@pytest.fixture
def experiment():
    grid = {"optimizer.learning_rate": (0.01, 0.1)}
    tasks = {"1%": Task(FinetuneConfig(), 1, 1)}
    return Experiment({"scratch": Recipe()}, tasks, tuning=Tuning(grid, draws=2))


def row(setting, draw, top1):
    """A row of the search; it diverged if it has no accuracy."""
    found = {"cell": f"scratch/0/tune/1%/{setting}/{draw}", "kind": "tune", "recipe": "scratch"}
    found |= {"task": "1%", "seed": draw, "setting": setting, "network": ""}
    return found | (
        {"status": "diverged"} if top1 is None else {"status": "finished", "top1": top1}
    )


def test_the_best_mean_over_draws_is_chosen_and_the_whole_grid_shown(experiment):
    rows = [row(FAST, 0, 0.6), row(FAST, 1, 0.3), row(SLOW, 0, 0.4), row(SLOW, 1, 0.52)]
    assert tuning.best_setting(experiment, rows, "scratch", "1%") == (
        ("optimizer.learning_rate", 0.01),
    )
    assert tuning.to_markdown(experiment, rows).splitlines() == [
        "| task | recipe | setting | validation accuracy | draws | chosen |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| 1% | scratch | {SLOW} | 46.0 ± 8.5 | 2 | yes |",
        f"| 1% | scratch | {FAST} | 45.0 ± 21.2 | 2 |  |",
    ]


def test_a_run_that_diverged_counts_as_zero(experiment):
    rows = [row(SLOW, 0, None), row(SLOW, 1, 0.8), row(FAST, 0, 0.41), row(FAST, 1, 0.41)]
    chosen = tuning.best_setting(experiment, rows, "scratch", "1%")
    assert chosen == (("optimizer.learning_rate", 0.1),)


def test_of_equal_settings_the_first_is_chosen(experiment):
    rows = [row(setting, draw, 0.5) for setting in (FAST, SLOW) for draw in (0, 1)]
    chosen = tuning.best_setting(experiment, rows, "scratch", "1%")
    assert chosen == (("optimizer.learning_rate", 0.01),)


def test_nothing_is_chosen_while_draws_are_missing(experiment):
    rows = [row(SLOW, 0, 0.4), row(FAST, 0, 0.6), row(FAST, 1, 0.3)]
    assert tuning.best_setting(experiment, rows, "scratch", "1%") is None
    text = tuning.to_markdown(experiment, rows)
    assert f"| 1% | scratch | {SLOW} | 40.0 | 1 |  |" in text and "yes" not in text


def test_no_grid_without_tuning(experiment):
    assert tuning.to_markdown(experiment, []) == ""
    experiment.tuning = None
    assert tuning.to_markdown(experiment, [row(SLOW, 0, 0.4)]) == ""
