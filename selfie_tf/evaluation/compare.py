"""Several finetuning runs side by side: a table, the paper's Figure 3, and a page."""

import dataclasses
import io
import os

import numpy as np
import tensorflow as tf

from selfie_tf import figures
from selfie_tf.config import FinetuneConfig, files, flatten, from_dict, kind_of_run
from selfie_tf.errors import UserError
from selfie_tf.pages import page
from selfie_tf.storage.files import read_json, read_points
from selfie_tf.training.classes import per_class
from selfie_tf.training.mistakes import read_predictions
from selfie_tf.training.report import describe_curves, duration, origin, shown

# What runs of one comparison may differ in.
_FREE = ("init_from", "from_scratch", "train.seed", "data.subset_seed")
_ROWS = 20  # classes in the page's table


@dataclasses.dataclass(frozen=True)
class _Run:
    label: str
    path: str
    result: dict
    config: FinetuneConfig

    @property
    def split(self):
        return "test" if "test_top1" in self.result else "validation"

    @property
    def curves(self):
        """What `figures.draw_finetuning` takes."""
        points = (read_points(self.path, f"{name}.jsonl") for name in ("metrics", "evaluations"))
        return self.label, *points


def compare(runs: list, picture: str = "") -> str:
    """Compares finished finetuning runs.

    Args:
      runs: (label, work directory) pairs; runs of one label are averaged.
      picture: PNG to write; "" for none.

    Returns:
      A table with the test (or validation) accuracy and losses of each label: the mean and, for
      several runs, the standard deviation (over n - 1). A note says what else the runs differ in.

    Raises:
      UserError: If a run is not a finished finetuning run, or they were evaluated on different
        splits.
    """
    runs = _read(runs)
    header, rows = _table(runs)
    width = max(len(row[0]) for row in rows)
    lines = [" ".join([f"{'':{width}}  runs", *(f"{name:>17}" for name in header[2:])])]
    for label, count, *cells in rows:
        lines.append(" ".join([f"{label:{width}}  {count:4}", *(f"{c:>17}" for c in cells)]))
    differing = [key for key in _differing(runs) if key not in _FREE]
    if differing:
        lines.append(f"note: the runs also differ in {', '.join(differing)}")
    if picture:
        try:
            buffer = io.BytesIO()
            figures.draw_finetuning(buffer, [run.curves for run in runs], runs[0].split)
            tf.io.gfile.makedirs(os.path.dirname(os.path.abspath(picture)))
            with tf.io.gfile.GFile(picture, "wb") as file:
                file.write(buffer.getvalue())
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"--picture={picture} cannot be written ({error})") from error
    return "\n".join(lines)


def make_comparison_page(runs: list) -> str:
    """Makes a page of what `compare` compares, with its errors; returns HTML."""
    runs = _read(runs)
    split, labels = runs[0].split, list(dict.fromkeys(run.label for run in runs))
    curves = [run.curves for run in runs]
    differing = [
        [key, *(", ".join(dict.fromkeys(map(shown, values[label]))) for label in labels)]
        for key, values in _differing(runs).items()
    ]
    return page.render(
        "comparison.html",
        f"Comparison: {', '.join(labels)}",
        split=split,
        labels=labels,
        table=_table(runs),
        single=len(runs) == len(labels),
        curves=page.drawn(figures.draw_finetuning, curves, split),
        curves_words=" ".join(
            f"{label}: {describe_curves(points, evaluations, split)}."
            for label, points, evaluations in curves
        ),
        recalls=_recalls(runs, labels),
        runs=[
            [
                run.label,
                run.path,
                f"{run.result[f'{split}_top1']:.4f}",
                run.config.data.name,
                f"{run.result.get('subset', {}).get('labelled_images', 0):,}",
                origin(run.path),
                duration(run.result["seconds"]),
                run.result.get("hardware", ""),
            ]
            for run in runs
        ],
        differing=differing,
        commands=[(run.label, run.path, files.command(run.config, run.path)) for run in runs],
    )


def _read(runs):
    found = []
    for label, path in runs:
        result, values = read_json(path, "result.json"), read_json(path, "config.json")
        if result is None or values is None or kind_of_run(values) != "finetuning":
            raise UserError(f"--runs: {path} is not a finished finetuning run (no result.json)")
        try:
            found.append(_Run(label, path, result, from_dict(FinetuneConfig, values)))
        except UserError as error:
            raise UserError(f"--runs: {path}: its config cannot be used ({error})") from error
    if len({run.split for run in found}) > 1:
        raise UserError("--runs: some were evaluated on test, some on validation images")
    return found


def _table(runs):
    """A header, and one row per label: its name, its number of runs, mean and deviation."""
    split = runs[0].split
    names = ("top1", "balanced_accuracy", "top5", "loss")
    keys = [*(f"{split}_{name}" for name in names), "train_loss"]
    keys = [key for key in keys if all(run.result.get(key) is not None for run in runs)]
    rows = []
    for label in dict.fromkeys(run.label for run in runs):
        chosen = [run.result for run in runs if run.label == label]
        cells = []
        for key in keys:
            values = [result[key] for result in chosen]
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4f}{spread}")
        rows.append([label, len(chosen), *cells])
    return ["", "runs", *(key.replace("_", " ") for key in keys)], rows


def _differing(runs):
    """{key: {label: values}} of the config keys in which runs differ."""
    configs = [(run.label, flatten(run.config)) for run in runs]
    found = {}
    for key in configs[0][1]:
        if any(config[key] != configs[0][1][key] for _, config in configs):
            for label, config in configs:
                found.setdefault(key, {}).setdefault(label, []).append(config[key])
    return found


def _recalls(runs, labels):
    """Rows (class, mean recall of each label), those that differ most first; None if unknown."""
    names, found = None, {label: [] for label in labels}
    for run in runs:
        predictions = read_predictions(run.path)
        classes = (read_json(run.path, "subset.json") or {}).get("class_names")
        if predictions is None or not classes or names not in (None, classes):
            return None
        names = classes
        rows = per_class(predictions["labels"], predictions["predictions"], names)
        found[run.label].append([np.nan if r["recall"] is None else r["recall"] for r in rows])
    means = np.array([np.mean(found[label], axis=0) for label in labels]).T  # [K, labels]
    order = np.argsort(means.min(1) - means.max(1), kind="stable")[:_ROWS]
    return [
        [names[k], *("-" if np.isnan(value) else f"{value:.1%}" for value in means[k])]
        for k in order
    ]
