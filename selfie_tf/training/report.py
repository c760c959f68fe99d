"""The page of a run: what was run, on which images, how it went, and what it cost."""

import logging
import os
import statistics

import numpy as np
import tensorflow as tf

from selfie_tf import figures
from selfie_tf.config import FinetuneConfig, files, keys
from selfie_tf.errors import UserError, first_line
from selfie_tf.methods import METHODS
from selfie_tf.pages import page
from selfie_tf.storage.files import read_json, read_points, write_atomically
from selfie_tf.training.cost import gflop_per_image
from selfie_tf.training.load import read_run_config
from selfie_tf.training.mistakes import read_predictions, show_predictions
from selfie_tf.training.pictures import NeighbourPicture
from selfie_tf.training.run import REPORT


def leave_report(run, data_dir: str = "", source=None) -> None:
    """Writes the page of a finished run into its work directory, if it is not there.

    The path is the run's last line in the log. A failure is a warning there: the result is kept.

    Args:
      run: An open `training.run.Run` with its result.json.
      data_dir, source: See `make_report`.
    """
    if not run.is_chief:
        return
    path = run.directory.join(REPORT)
    try:
        if not tf.io.gfile.exists(path):
            write_atomically(path, make_report(run.workdir, data_dir, source))
    except Exception as error:  # of whatever kind, it must not lose the run
        logging.warning(
            "the report cannot be made (%s: %s), the result is kept; try again with selfie-tf "
            "report --workdir=%s",
            type(error).__name__,
            first_line(error),
            run.workdir,
        )
        return
    logging.info("report: %s", path)


def make_report(path: str, data_dir: str = "", source=None) -> str:
    """Makes the page of a run, finished or not.

    Args:
      path: The work directory.
      data_dir: See `data.make_source`.
      source: The source whose held-out images the run was evaluated on; None opens the run's
        images again, if they are still there.

    Returns:
      HTML.

    Raises:
      UserError: If there is no run at `path`.
    """
    if not tf.io.gfile.exists(os.path.join(path, "config.json")):
        raise UserError(f"{path}: no config.json in it; give the work directory of a run")
    config = read_run_config(path)
    result, points = read_json(path, "result.json"), read_points(path, "metrics.jsonl")
    subset = read_json(path, "subset.json") or {}
    step = config.train.steps if result else points[-1]["step"] if points else 0
    name, differing = files.nearest(config)
    finetuned = isinstance(config, FinetuneConfig)
    split = "validation" if finetuned and config.data.validation_fraction else "test"
    values = {
        "finished": result is not None,
        "step": step,
        "steps": config.train.steps,
        "metrics": _metrics(result or {}),
        "data": _data(path, config, result or {}, subset, split),
        "class_names": subset.get("class_names", ()),
        "config_name": name,
        "config": [
            (key.name, shown(key.value), shown(differing[key.name]), key.help)
            for key in keys(config)
            if key.name in differing
        ],
        "command": files.command(config, path),
        "cost": _cost(config, result or {}, points, step, len(subset.get("class_names", ()))),
        "versions": [
            (what, value or "not known" if what != "git_changes" else value or "none")
            for what, value in (result or {}).get("versions", {}).items()
        ],
    }
    if finetuned:
        predictions = read_predictions(path)
        values |= {
            "kind": "Classifier",
            "summary": _finetuning_words(path, config, result, subset, split, predictions),
            "curves": _finetuning_curves(path, points, split),
            "picture": None,
            **show_predictions(path, config, subset, predictions, data_dir, source),
        }
    else:
        values |= {
            "kind": f"{type(METHODS[config.method]).__name__} pretraining",
            "summary": _pretraining_words(path, config, result),
            "curves": _pretraining_curves(path, config, points, result),
            "picture": _picture(path, config),
            "confusion": None,
            "mistakes": None,
        }
    return page.render("report.html", f"{values['kind']}: {path}", **values)


def _pretraining_words(path, config, result):
    method, train = METHODS[config.method], config.train
    images = (result or {}).get("data", {}).get("training_images")
    lines = [
        f"{type(method).__name__}, pretrained without labels on {_count(images)}images of "
        f"{config.data.name}: {train.steps:,} steps of {train.batch_size:,}, from "
        f"{origin(path)}."
    ]
    try:
        words = method.describe(result) if result else ""
    except KeyError:  # a result of an older version
        words = ""
    return [*lines, *([f"{words[0].upper()}{words[1:]}."] if words else [])]


def _finetuning_words(path, config, result, subset, split, predictions):
    train, classes = config.train, len(subset.get("class_names", ()))
    images = (result or {}).get("subset", {}).get("trained_on", subset.get("images"))
    lines = [
        f"A classifier of {_count(classes)}classes, trained on {_count(images)}labelled images of "
        f"{config.data.name}: {train.steps:,} steps of {train.batch_size:,}, from {origin(path)}."
    ]
    accuracy = (result or {}).get(f"{split}_top1")
    if accuracy is not None:
        labels = [] if predictions is None else predictions["labels"]
        words = f"It is right for {accuracy:.1%} of the {_count(len(labels))}{split} images."
        if len(labels):
            common = np.bincount(labels).max() / len(labels)
            words += f" Always predicting their most frequent class is right for {common:.1%}."
        lines.append(words)
    return lines


def _count(number):
    return f"{number:,} " if number else ""


def origin(path: str) -> str:
    """Where the first weights of a run are from, in words."""
    beginning = read_json(path, "initialisation.json") or {}
    if not beginning.get("from"):
        return "random weights"
    return f"the network of {beginning['from']} (step {beginning['step'] or 'not known'})"


def _metrics(result):
    """Rows (metric, value) of what result.json has measured."""
    return [
        (key.replace("_", " "), f"{value:.4f}")
        for key, value in result.items()
        if isinstance(value, float) and key != "seconds"
    ]


def _data(path, config, result, subset, split):
    """Rows (what, value) about the images."""
    data, counts = config.data, {**result.get("data", {}), **result.get("subset", {})}
    labels = getattr(data, "labels", "")
    test = result.get(f"{split}_images", counts.get("held_out_images"))
    rows = {
        "images": data.name,
        "labels from": labels,
        "test labels from": getattr(data, "test_labels", ""),
        "labelled images": subset.get("images"),
        "trained on": counts.get("trained_on", counts.get("training_images")),
        f"{split} images" if subset else "held-out images, never trained on": test,
        "classes": len(subset.get("class_names", ())),
        "size": f"{data.image_size}×{data.image_size} pixels",
        "fingerprint": (read_json(path, "data.json") or {}).get("fingerprint"),
    }
    return [
        (what, f"{value:,}" if isinstance(value, int) else value)
        for what, value in rows.items()
        if value
    ]


def _cost(config, result, points, step, num_classes):
    """Rows (what, value) about time, images, operations and hardware."""
    images = step * config.train.batch_size
    gflop = gflop_per_image(config, num_classes)
    rate = [p["images_per_second"] for p in points if p.get("images_per_second")]
    seconds, since = result.get("seconds"), result.get("resumed_at")
    rows = {
        "time": duration(seconds) + (f", since the resume at step {since:,}" if since else "")
        if seconds is not None
        else None,
        "steps": f"{step:,}",
        "images": f"{images:,}, {config.train.batch_size:,} per step",
        "speed": f"{statistics.median(rate):,.0f} images/s, the median of the log points"
        if rate
        else None,
        "operations": f"{_digits(gflop)} GFLOP per image, forward and backward; "
        f"{_digits(gflop * images)} GFLOP in all",
        "trainable weights": f"{result['trainable_weights']:,}"
        if "trainable_weights" in result
        else None,
        "precision": config.train.precision,
        "hardware": result.get("hardware"),
    }
    return [(what, value) for what, value in rows.items() if value]


def _digits(value):
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{count:,} {unit}" for count, unit in parts if count) or "0 s"


def shown(value) -> str:
    """A config value as a page shows it."""
    return "(empty)" if value == "" else str(value)


def _pretraining_curves(path, config, points, result):
    """A dict of picture and alt; None without log points."""
    if not points:
        return None
    method = METHODS[config.method]
    probes = read_points(path, "probes.jsonl")
    try:
        picture = page.drawn(method.draw_curves, points, result or {}, probes)
    except KeyError:  # without the baselines, which an unfinished or older run does not have
        picture = page.drawn(figures.draw_curves, points, method.accuracy, {}, (), probes)
    return {
        "picture": picture,
        "alt": _in_words(points, ("loss", method.accuracy, "instance_accuracy")),
    }


def _finetuning_curves(path, points, split):
    """A dict of picture and alt; None without log points."""
    if not points:
        return None
    evaluations = read_points(path, "evaluations.jsonl")
    words = describe_curves(points, evaluations, split)
    picture = page.drawn(figures.draw_finetuning, [("", points, evaluations)], split)
    return {"picture": picture, "alt": words}


def describe_curves(points: list, evaluations: list, split: str) -> str:
    """What `figures.draw_finetuning` draws of one run, for those who do not see it."""
    words = _in_words(points, ("loss",)), _in_words(evaluations, (f"{split}_loss", f"{split}_top1"))
    return "; ".join(filter(None, words))


def _in_words(points, names):
    if not points:
        return ""
    first, last = points[0], points[-1]
    return ", ".join(
        f"{name.replace('_', ' ')} from {first[name]:.3g} at step {first['step']:,} to "
        f"{last[name]:.3g} at step {last['step']:,}"
        for name in names
        if name in first and name in last
    )


def _picture(path, config):
    """The last picture of the run: a dict of picture and alt; None if there is none."""
    method = METHODS[config.method]
    kinds = {method.picture: method.picture_words}
    if not method.trains_task(config):  # older runs have the picture of the task all the same
        kinds = {NeighbourPicture.name: NeighbourPicture.words, **kinds}
    for name, words in kinds.items():
        for pattern in (f"{name}.png", f"{name}_*.png"):
            found = sorted(tf.io.gfile.glob(os.path.join(path, "figures", pattern)))
            if found:
                with tf.io.gfile.GFile(found[-1], "rb") as file:
                    return {"picture": page.picture(file.read(), "png"), "alt": words}
    return None
