"""What a run has learnt, measured on images that it has not seen."""

import io
import json
import logging
import os

import tensorflow as tf

from selfie_tf import figures
from selfie_tf.data import make_source
from selfie_tf.data.source import reading
from selfie_tf.data.subsets import evaluated_source
from selfie_tf.errors import UserError, first_line
from selfie_tf.evaluation.probes import BATCH_SIZE, probe
from selfie_tf.methods import METHODS
from selfie_tf.storage.files import write_atomically
from selfie_tf.training.classes import confusion_matrix, per_class
from selfie_tf.training.evaluator import ClassifierEvaluator
from selfie_tf.training.load import load_finetuning_run, load_pretraining_run
from selfie_tf.training.loop import make_predict_fn


def evaluate_finetuned(
    path: str,
    output: str,
    data_name: str = "",
    data_dir: str = "",
    corrupt_budget: float | None = None,
) -> dict:
    """Measures a classifier: accuracy, confusion matrix and a table of the classes.

    It computes in the precision of training, as the run itself did at its end.

    Args:
      path: Work directory of a finetuning run, or an export of one.
      output: Folder for evaluation.json and figures/confusion.png.
      data_name: Data whose test split is used; "" for the run's own test split, or for its
        validation images if it has some.
      data_dir: See `data.make_source`.
      corrupt_budget: Fraction of the files that may be unreadable, see `config.ImagesConfig`; None
        for the run's own.

    Returns:
      The contents of evaluation.json. For `classes`, see `classes.per_class`.

    Raises:
      UserError: If the run or the data cannot be read, or their classes differ.
    """
    run = load_finetuning_run(path, as_trained=True)
    config, names = run.config, run.class_names
    _make_folder(output)
    _allow(config.data, corrupt_budget)
    source, split = _labelled(run, path, data_name, data_dir)
    if tuple(source.class_names) != names:
        raise UserError(
            f"data.name={config.data.name} has the classes {_some(source.class_names)}, "
            f"{path} was trained for {_some(names)}"
        )
    strategy = tf.distribute.get_strategy()
    evaluator = ClassifierEvaluator(config, source, strategy, run.model)
    with reading(source, config.data):
        metrics, labels, predictions, _ = evaluator.run_with_predictions()
    matrix = confusion_matrix(labels, predictions, len(names))
    result = {
        "model": run.origin,
        "data": config.data.name,
        f"{split}_images": len(labels),
        **{f"{split}_{name}": value for name, value in metrics.items()},
        "classes": per_class(labels, predictions, names),
        "confusion_matrix": matrix.tolist(),
    }
    _write(output, result)
    picture = io.BytesIO()
    figures.draw_confusion(picture, matrix, names)
    with tf.io.gfile.GFile(os.path.join(output, "figures", "confusion.png"), "wb") as file:
        file.write(picture.getvalue())
    return result


def evaluate_pretrained(
    path: str,
    output: str,
    data_name: str = "",
    data_dir: str = "",
    train_images: int = 10_000,
    label_fraction: float = 1.0,
    corrupt_budget: float | None = None,
) -> dict:
    """Measures the pretext task, and how well frozen features tell classes apart.

    The pretext task is measured in the precision of training, features are in float32.

    Args:
      path: Work directory of a pretraining run, or an export of one.
      output: Folder for evaluation.json.
      data_name: Labelled data for the probes; "" for the run's own, if it has labels.
      data_dir: See `data.make_source`.
      train_images, label_fraction: Number of labelled images, and fraction of each class's, that
        the probes learn from, at most.
      corrupt_budget: See `evaluate_finetuned`.

    Returns:
      The contents of evaluation.json. For `probes`, see `probes.probe`.

    Raises:
      UserError: If the run or the data cannot be read.
    """
    run = load_pretraining_run(path, as_trained=True)
    _make_folder(output)
    config = run.config
    config.train.batch_size = min(config.train.batch_size, BATCH_SIZE)
    _allow(config.data, corrupt_budget)
    source = _open(config.data, data_dir)
    run.check_images(source)
    predict = make_predict_fn(tf.distribute.get_strategy(), run.model)
    with reading(source, config.data):
        measured = METHODS[config.method].evaluate(config, source, predict)
    result = {
        "model": run.origin,
        "method": config.method,
        "data": config.data.name,
        **measured,
    }
    if data_name and data_name != config.data.name:
        config.data.name, config.data.test_split = data_name, ""
        config.validate()
        source = _open(config.data, data_dir)
    if source.no_labels:
        if data_name:
            raise UserError(f"--data_name={data_name}: {source.no_labels}")
        reason = source.no_labels
        logging.info("frozen features are not tested: %s; give other data with --data_name", reason)
        result["probes"] = None
    else:
        # The features are those of an export, which is in float32.
        model = load_pretraining_run(path).model
        result["probes"] = probe(config, source, model, train_images, label_fraction)
    _write(output, result)
    return result


def _labelled(run, path, data_name, data_dir):
    """Returns the source whose held-out images to evaluate, and the name of their split."""
    config = run.config
    data = config.data
    if data_name and data_name != data.name:
        data.name, data.test_split, data.validation_fraction = data_name, "", 0.0
        data.labels = data.test_labels = ""
        config.validate()
        return _with_labels(_open(data, data_dir), data), "test"
    source = _with_labels(_open(data, data_dir), data)
    run.check_images(source)
    split = "validation" if data.validation_fraction else "test"
    return evaluated_source(source, data, os.path.join(path, "subset.json")), split


def _allow(data, corrupt_budget):
    if corrupt_budget is not None:
        data.corrupt_budget = corrupt_budget


def _open(data, data_dir):
    source = make_source(data, data_dir)
    source.budget_flag = "--corrupt_budget"
    return source


def _with_labels(source, data):
    if source.no_labels:
        raise UserError(f"data.name={data.name}: {source.no_labels}; labels are needed")
    return source


def _some(names):
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")


def _make_folder(output):
    """Makes the folder before anything is computed, so that a mistake in it shows at once."""
    try:
        tf.io.gfile.makedirs(os.path.join(output, "figures"))
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--output={output} cannot be written ({first_line(error)}); give another folder"
        ) from error


def _write(output, result):
    write_atomically(os.path.join(output, "evaluation.json"), json.dumps(result, indent=2))
