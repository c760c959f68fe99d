"""What the search before the final runs has found, and the setting it chooses."""

import numpy as np

from selfie_tf.experiments.plan import Experiment, setting_name
from selfie_tf.experiments.rows import metric_of
from selfie_tf.experiments.tables import markdown_table, percent


def tuning_scores(experiment: Experiment, rows: list, recipe: str, task: str) -> dict:
    """Lists accuracies on validation images for every setting of the grid.

    Args:
      experiment: A plan with tuning.
      rows: See `rows.read_table`; more may be missing.
      recipe, task: Names.

    Returns:
      {name of a setting: accuracies in [0, 1], one per finished draw}, in the order of the grid. A
      run that diverged counts as an accuracy of 0.
    """
    metric = experiment.tasks[task].metric
    found = {setting_name(setting): {} for setting in experiment.tuning.settings()}
    for row in rows:
        if (row["kind"], row["recipe"], row.get("task")) == ("tune", recipe, task):
            score = metric_of(row, metric) if row["status"] == "finished" else 0.0
            if row["setting"] in found:
                found[row["setting"]][row["seed"]] = score
    return {name: list(draws.values()) for name, draws in found.items()}


def best_setting(experiment: Experiment, rows: list, recipe: str, task: str) -> tuple | None:
    """Chooses the setting with the best mean accuracy, of equal ones the first of the grid.

    Args:
      experiment, rows, recipe, task: As for `tuning_scores`.

    Returns:
      (key, value) pairs; None if draws are missing.
    """
    scores = list(tuning_scores(experiment, rows, recipe, task).values())
    if any(len(draws) < experiment.tuning.draws for draws in scores):
        return None
    return experiment.tuning.settings()[int(np.argmax([np.mean(draws) for draws in scores]))]


def to_markdown(experiment: Experiment, rows: list) -> str:
    """The whole grid as a Markdown table, in per cent of validation images; "" without tuning."""
    if experiment.tuning is None:
        return ""
    table = []
    for task in experiment.tasks:
        for recipe in experiment.recipes:
            if not experiment.takes(recipe, task):
                continue
            best = best_setting(experiment, rows, recipe, task)
            for name, draws in tuning_scores(experiment, rows, recipe, task).items():
                if draws:
                    deviation = np.std(draws, ddof=1) if len(draws) > 1 else None
                    chosen = "yes" if best is not None and name == setting_name(best) else ""
                    score = percent(np.mean(draws), deviation)
                    table.append([task, recipe, name, score, str(len(draws)), chosen])
    head = ["task", "recipe", "setting", "validation accuracy", "draws", "chosen"]
    return markdown_table(head, table) if table else ""
