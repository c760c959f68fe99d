"""The results of an experiment as tables, beside published ones."""

import csv
import dataclasses
import io
import os
import zipfile

import numpy as np
import tensorflow as tf

from selfie_tf.config import PretrainConfig
from selfie_tf.errors import UserError, first_line
from selfie_tf.experiments.plan import Experiment
from selfie_tf.experiments.rows import metric_of
from selfie_tf.experiments.statistics import (
    Difference,
    Score,
    compare,
    holm,
    mean_and_deviation,
)
from selfie_tf.methods import METHODS
from selfie_tf.storage.files import read_arrays

# Columns of pretrained networks, and their titles. Uncropped, there is no margin to go by.
PRETEXT_ACCURACIES = {
    "held_out_patch_accuracy_uncropped": "patch accuracy, uncropped",
    "pixel_accuracy": "pixel accuracy",
    "instance_accuracy": "instance accuracy",
}


@dataclasses.dataclass
class Line:
    """What one recipe reached on one task.

    Attributes:
      recipe, task: Names.
      mean, deviation: See `statistics.mean_and_deviation`.
      pretrainings, finetunings: How many finished; no pretrainings for random weights.
      diverged: How many finetunings diverged; they are in no mean.
      labelled_images: Number of images trained on; None if they differ.
      baseline: Name of the recipe that `difference` is to; "" without one.
      difference: A `statistics.Difference`, or None.
      p: Its p-value, if it has one; of secondary comparisons adjusted for their number.
      primary: Whether it is a primary comparison.
      published: (accuracy in %, standard deviation or None) of the paper, or None.
      published_difference: The paper's accuracy minus that of its baseline in %, or None.
      metric: See `plan.Task`.
    """

    recipe: str
    task: str
    mean: float
    deviation: float | None
    pretrainings: int
    finetunings: int
    diverged: int
    labelled_images: int | None
    baseline: str = ""
    difference: Difference | None = None
    p: float | None = None
    primary: bool = False
    published: tuple | None = None
    published_difference: float | None = None
    metric: str = "top1"


def scores_of(
    rows: list, recipe: str, task: str, predictions: str = "", metric: str = "top1"
) -> list:
    """The `Score`s of a recipe on a task.

    Args:
      rows: See `rows.read_table`.
      recipe, task: Names.
      predictions: Folder of the predictions that an experiment keeps. Without those of a run on
        the test split, differences that it is in have no interval.
      metric: See `plan.Task`.

    Raises:
      UserError: If a row lacks the metric, as those of older versions may, or predictions cannot be
        read.
    """
    return [
        Score(
            row["pretraining"],
            row["seed"],
            metric_of(row, metric),
            row["network"],
            *_images(predictions, row, metric),
        )
        for row in _final(rows, recipe, task)
        if row["status"] == "finished"
    ]


def lost_predictions(experiment: Experiment, rows: list, predictions: str) -> list:
    """Names the cells on the test split whose predictions are not in the folder `predictions`."""
    return [
        row["cell"]
        for name, task in experiment.tasks.items()
        for recipe in experiment.recipes
        for row in _final(rows, recipe, name)
        if row["status"] == "finished" and _images(predictions, row, task.metric)[2]
    ]


def summarize(experiment: Experiment, rows: list, predictions: str = "") -> list:
    """Compares the recipes on every task.

    Args:
      experiment: The plan.
      rows: See `rows.read_table`; more may be missing.
      predictions: See `scores_of`.

    Returns:
      `Line`s: for every task each recipe beside the first, then the primary comparisons with other
      baselines. What has no finished finetuning is left out.
    """
    scores = {
        (recipe, name): scores_of(rows, recipe, name, predictions, task.metric)
        for name, task in experiment.tasks.items()
        for recipe in experiment.recipes
    }
    first = next(iter(experiment.recipes))
    wanted = [
        (r, first if r != first else "", t) for t in experiment.tasks for r in experiment.recipes
    ]
    wanted += [triple for triple in experiment.primary if triple not in wanted]
    lines = [
        _line(experiment, rows, scores, *triple)
        for triple in wanted
        if scores[triple[0], triple[2]]
    ]
    secondary = [
        line
        for line in lines
        if line.difference is not None and line.difference.p is not None and not line.primary
    ]
    adjusted = holm([line.difference.p for line in secondary])
    for line, p in zip(secondary, adjusted, strict=True):
        line.p = p
    return lines


def _line(experiment, rows, scores, recipe, baseline, task):
    mine = scores[recipe, task]
    difference = compare(mine, scores[baseline, task]) if baseline else None
    primary = (recipe, baseline, task) in experiment.primary
    published = experiment.published.get((recipe, task))
    theirs = experiment.published.get((baseline, task))
    final = _final(rows, recipe, task)
    images = {row.get("trained_on") for row in final if row["status"] == "finished"}
    return Line(
        recipe,
        task,
        *mean_and_deviation(mine),
        len({(score.pretraining, score.network) for score in mine if score.network}),
        len(mine),
        sum(row["status"] == "diverged" for row in final),
        images.pop() if len(images) == 1 else None,
        baseline,
        difference,
        difference.p if difference and primary else None,
        primary,
        published,
        published[0] - theirs[0] if published and theirs else None,
        experiment.tasks[task].metric,
    )


def to_markdown(lines: list) -> str:
    """The lines as a Markdown table; accuracies in per cent, differences in points.

    Published accuracies come from other code, and often from other images and widths, so it is the
    differences that compare.
    """
    published = any(line.published for line in lines)
    balanced = lines and lines[0].metric == "balanced_accuracy"
    head = [
        "task",
        "recipe",
        "balanced accuracy" if balanced else "accuracy",
        "pretrainings",
        "finetunings",
        "against",
        "difference",
        "p",
    ]
    if published:
        head += ["published (not comparable)", "published difference"]
    table = []
    for line in lines:
        cells = [
            line.task,
            line.recipe,
            percent(line.mean, line.deviation),
            str(line.pretrainings or "none"),
            f"{line.finetunings}" + (f" ({line.diverged} diverged)" if line.diverged else ""),
            line.baseline,
            points(line.difference),
            "" if line.p is None else f"{line.p:.3f}{'' if line.primary else ' (Holm)'}",
        ]
        if published:
            theirs, gain = line.published, line.published_difference
            cells += [
                "" if theirs is None else percent(*(x and x / 100 for x in theirs)),
                "" if gain is None else f"{gain:+.1f}",
            ]
        table.append(cells)
    return markdown_table(head, table)


def markdown_table(head: list, rows: list) -> str:
    """Formats lists of strings as a Markdown table."""
    table = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table) + "\n"


def to_csv(lines: list) -> str:
    """The lines as CSV, with all digits."""
    text = io.StringIO()
    flat = []
    for line in lines:
        values = dataclasses.asdict(line)
        difference = values.pop("difference") or {}
        published = values.pop("published") or (None, None)
        flat.append(
            {
                **values,
                "difference": difference.get("mean"),
                "half_width": difference.get("half_width"),
                "p": line.p,
                "pairs": difference.get("pairs"),
                "published": published[0],
                "published_deviation": published[1],
            }
        )
    writer = csv.DictWriter(text, list(flat[0]) if flat else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def pretext_accuracy(experiment: Experiment, rows: list, pretext: str) -> dict:
    """Accuracy at the pretext task per pretrained network.

    Args:
      experiment, rows: As in `summarize`.
      pretext: One of `PRETEXT_ACCURACIES`. Only networks that learn the instance loss have
        "instance_accuracy".

    Returns:
      {network: accuracy in [0, 1]}. Networks that were not trained at the pretext task are left
      out.
    """
    trained = {
        name
        for name, recipe in experiment.recipes.items()
        if isinstance(recipe.pretrain, PretrainConfig)
        and METHODS[recipe.pretrain.method].trains_task(recipe.pretrain)
    }
    return {
        row["network"]: row[pretext]
        for row in rows
        if row["kind"] == "pretrain"
        and pretext in row
        and (row["recipe"] in trained or pretext == "instance_accuracy")
    }


def pretext_and_downstream(experiment: Experiment, rows: list, pretext: str) -> dict:
    """Accuracy at the pretext task beside accuracy after finetuning, per pretrained network.

    Args:
      experiment, rows, pretext: As in `pretext_accuracy`.

    Returns:
      {task: {recipe: float `[n, 2]`}}; finetunings of one network are averaged. Networks that were
      not trained at the pretext task are left out.
    """
    known = pretext_accuracy(experiment, rows, pretext)
    found = {}
    for task, plan in experiment.tasks.items():
        for recipe in experiment.recipes:
            scores = scores_of(rows, recipe, task, metric=plan.metric)
            points = [
                (known[network], np.mean([s.accuracy for s in scores if s.network == network]))
                for network in dict.fromkeys(s.network for s in scores)
                if network in known
            ]
            if points:
                found.setdefault(task, {})[recipe] = np.array(points)
    return found


def _final(rows, recipe, task):
    return [
        row
        for row in rows
        if (row["kind"], row["recipe"], row.get("task")) == ("final", recipe, task)
    ]


def _images(folder, row, metric):
    """`correct`, `classes` and `lost` of a `Score`."""
    # Validation images are drawn anew for each seed, so that their noise is in each pair's own.
    if row.get("split") != "test":
        return None, None, False
    path = os.path.join(folder, f"{row['cell'].replace('/', '-')}.npz")
    if not folder or not tf.io.gfile.exists(path):
        return None, None, True
    try:
        kept = read_arrays(path)
        labels, correct = kept["labels"], (kept["labels"] == kept["predictions"]).astype(float)
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        tf.errors.OpError,
    ) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); remove it") from error
    # Another machine, with another network, has a file of the same name.
    images, top1 = row.get("test_images", len(labels)), metric_of(row, "top1")
    if images != len(labels) or abs(correct.mean() - top1) * images > 0.5:
        return None, None, True
    if metric != "balanced_accuracy":
        return correct, None, False
    _, classes, images = np.unique(labels, return_inverse=True, return_counts=True)
    return correct * len(labels) / len(images) / images[classes], classes, False


def percent(mean: float, deviation: float | None) -> str:
    """A mean and its standard deviation, if there is one, in per cent."""
    return f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def points(difference) -> str:
    """A `statistics.Difference` with its interval in percentage points; "" without one."""
    if difference is None:
        return ""
    half = difference.half_width
    return f"{100 * difference.mean:+.1f}" + ("" if half is None else f" ± {100 * half:.1f}")
