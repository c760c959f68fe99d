"""Writes what an experiment has found: tables and figures."""

import io
import os

import tensorflow as tf

from selfie_tf import figures
from selfie_tf.errors import UserError, first_line
from selfie_tf.experiments import probes, tuning
from selfie_tf.experiments import rows as tables_of_rows
from selfie_tf.experiments.plan import Experiment
from selfie_tf.experiments.tables import (
    PRETEXT_ACCURACIES,
    lost_predictions,
    pretext_and_downstream,
    summarize,
    to_csv,
    to_markdown,
)
from selfie_tf.storage.files import read_points, write_atomically


def write_summary(
    experiment: Experiment, paths: list, predictions: str, output: str, cells: str = ""
) -> str:
    """Writes summary.md, summary.csv and the figures that there are data for.

    summary.md has the frozen features and the grid of the tuning, too, if there are any.

    Args:
      experiment: The plan.
      paths: Tables of results, see `rows`.
      predictions: See `tables.scores_of`.
      output: The folder.
      cells: Folder of the runs' work directories, for pictures and curves; "" for none.

    Returns:
      summary.md.

    Raises:
      UserError: If a table cannot be read, no finetuning has finished, or the folder cannot be
        written.
    """
    rows = tables_of_rows.read_tables(paths)
    lines = summarize(experiment, rows, predictions)
    if not lines:
        raise UserError(f"{', '.join(paths)}: no finetuning of this experiment has finished yet")
    drawings, gains, metric = {}, {}, lines[0].metric
    recipes = list(experiment.recipes)
    for line in lines:
        of_all = not experiment.tasks[line.task].recipes
        if of_all and line.labelled_images is not None and line.baseline in ("", recipes[0]):
            gains.setdefault(line.recipe, []).append(line)
    if any(len({line.labelled_images for line in found}) > 1 for found in gains.values()):
        drawings["labels"] = lambda file, kind: (
            figures.draw_label_fractions(file, gains, recipes, kind)
        )
    for column, title in PRETEXT_ACCURACIES.items():
        found = pretext_and_downstream(experiment, rows, column)
        # Two dots show nothing.
        points = {task: dots for task, dots in found.items() if sum(map(len, dots.values())) > 2}
        if points:
            drawings[column] = lambda file, kind, points=points, title=title: (
                figures.draw_pretext_and_downstream(file, points, title, recipes, kind, metric)
            )
    # In the plan's order, as in the other figures; a table may have rows of other recipes, too.
    ordered = [row for recipe in recipes for row in rows if row["recipe"] == recipe]
    for task, runs in _curves(ordered, cells).items():
        drawings[f"curves-{task}"] = lambda file, kind, runs=runs: figures.draw_finetuning(
            file, *runs, kind, metric, recipes
        )
    markdown = to_markdown(lines)
    if lost := lost_predictions(experiment, rows, predictions):
        others = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        markdown += (
            f"\nDifferences that {lost[0]}{others} are in have no interval, for the predictions on "
            "the test images are missing. Give their folder with --predictions.\n"
        )
    for title, table in (
        ("Frozen features", probes.to_markdown(experiment, rows)),
        ("Tuning", tuning.to_markdown(experiment, rows)),
    ):
        markdown += table and f"\n{title}:\n\n{table}"
    try:
        tf.io.gfile.makedirs(output)
        write_atomically(os.path.join(output, "summary.md"), markdown)
        write_atomically(os.path.join(output, "summary.csv"), to_csv(lines))
        for name, path in _pictures(rows, cells).items():
            tf.io.gfile.copy(path, os.path.join(output, f"{name}.png"), overwrite=True)
        for name, draw in drawings.items():
            for kind in ("png", "svg"):
                buffer = io.BytesIO()
                draw(buffer, kind)
                with tf.io.gfile.GFile(os.path.join(output, f"{name}.{kind}"), "wb") as file:
                    file.write(buffer.getvalue())
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"--output={output} cannot be written ({first_line(error)})") from error
    return markdown


def _curves(rows, cells):
    """{task: (runs, split) for `figures.draw_finetuning`}, of runs that are there."""
    found = {}
    for row in rows:
        folder = os.path.join(cells, *row["cell"].split("/"))
        if row["kind"] == "final" and cells and (points := read_points(folder, "metrics.jsonl")):
            runs, _ = found.setdefault(row["task"], ([], row["split"]))
            runs.append((row["recipe"], points, read_points(folder, "evaluations.jsonl")))
    return found


def _pictures(rows, cells):
    """{name: path} of the picture of each recipe's first pretraining that is there."""
    found = {}
    for row in rows:
        if row["kind"] == "pretrain" and cells:
            pattern = os.path.join(cells, *row["cell"].split("/"), "figures", "*.png")
            paths = [p for p in tf.io.gfile.glob(pattern) if not p.endswith("curves.png")]
            # The last picture, without a step in its name.
            for path in sorted(paths, key=lambda p: ("_" in os.path.basename(p), p))[:1]:
                found.setdefault(f"pretext-{row['recipe']}", path)
    return found
