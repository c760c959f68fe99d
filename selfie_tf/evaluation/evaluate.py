"""What a run has learnt, measured on images that it has not seen."""

import io
import json
import logging
import os

import numpy as np
import tensorflow as tf
import tf_keras as keras

from selfie_tf import figures
from selfie_tf.data import make_source
from selfie_tf.data.crops import resize_and_center
from selfie_tf.data.source import reading
from selfie_tf.data.subsets import choose, labelled_source
from selfie_tf.errors import UserError, first_line
from selfie_tf.methods import METHODS
from selfie_tf.storage.files import write_atomically
from selfie_tf.training.build import build_pretrainer
from selfie_tf.training.evaluator import ClassifierEvaluator
from selfie_tf.training.finetune import describe_metrics
from selfie_tf.training.load import load_finetuning_run, load_pretraining_run
from selfie_tf.training.loop import make_predict_fn

_BATCH = 128
_NEIGHBOURS = 20


def evaluate_finetuned(path: str, output: str, data_name: str = "", data_dir: str = "") -> dict:
    """Top-1 and top-5 accuracy, confusion matrix and a table of the classes.

    Args:
      path: work directory of a finetuning run, or an export of it.
      output: folder for evaluation.json and figures/confusion.png.
      data_name: evaluates on the test split of this data; "" for the run's own, and for its
        validation images if it has some.
      data_dir: see `data.sources.make_source`.

    Returns:
      the contents of evaluation.json; `classes` has, a class, its `images`, `recall` (the part of
      them that is recognised), `precision` (the part of the answers that is right; None without
      answers) and `confused_with`, the most frequent wrong answer.

    Raises:
      UserError: see `training.load_run`, `data.sources.make_source`; if the classes differ.
    """
    run = load_finetuning_run(path)
    config, names = run.config, run.class_names
    _make_folder(output)
    source, split = _labelled(run, path, data_name, data_dir)
    if tuple(source.class_names) != names:
        raise UserError(
            f"data.name={config.data.name} has the classes {_some(source.class_names)}, "
            f"{path} was trained for {_some(names)}"
        )
    strategy = tf.distribute.get_strategy()
    evaluator = ClassifierEvaluator(config, source, strategy, run.model)
    with reading(source, config.data):
        metrics, labels, predictions = evaluator.run_with_predictions()
    matrix = confusion_matrix(labels, predictions, len(names))
    result = {
        "model": run.origin,
        "data": config.data.name,
        f"{split}_images": len(labels),
        **{f"{split}_{name}": value for name, value in metrics.items()},
        "classes": per_class(matrix, names),
        "confusion_matrix": matrix.tolist(),
    }
    _write(output, result)
    picture = io.BytesIO()
    figures.draw_confusion(picture, matrix, names)
    with tf.io.gfile.GFile(os.path.join(output, "figures", "confusion.png"), "wb") as file:
        file.write(picture.getvalue())
    return result


def _labelled(run, path, data_name, data_dir):
    """The source whose held-out images are to be evaluated, and what these are called."""
    config = run.config
    data = config.data
    if data_name and data_name != data.name:
        data.name, data.test_split, data.validation_fraction = data_name, "", 0.0
        config.validate()
        return _with_labels(make_source(data, data_dir), data), "test"
    source = _with_labels(make_source(data, data_dir), data)
    run.check_images(source)
    if not data.validation_fraction:
        return source, "test"
    subset = os.path.join(path, "subset.json")
    if tf.io.gfile.exists(subset):  # not the file that it was made from, which may have changed
        data.subset_file, data.label_fraction, data.labels_per_class = subset, 1.0, 0
    return labelled_source(source, data)[0], "validation"


def _with_labels(source, data):
    if source.no_labels:
        raise UserError(f"data.name={data.name}: {source.no_labels}; labels are needed")
    return source


def finetuned_report(result: dict) -> str:
    """`evaluate_finetuned`'s result for the screen; of many classes the 20 least recognised."""
    headline = describe_metrics(result)
    table = sorted(result["classes"], key=lambda row: 2 if row["recall"] is None else row["recall"])
    lines = [result["model"], f"{result['data']}: {headline}", ""]
    width = max(len(row["class"]) for row in table[:20])
    lines.append(f"{'class':{width}}  images  recall  precision  most confused with")
    for row in table[:20]:
        recall, precision = (
            "-" if row[key] is None else f"{row[key]:.3f}" for key in ("recall", "precision")
        )
        lines.append(
            f"{row['class']:{width}}  {row['images']:6}  {recall:>6}  {precision:>9}  "
            f"{row['confused_with'] or '-'}"
        )
    if len(table) > 20:
        lines.append(f"... and {len(table) - 20} classes that are recognised better")
    return "\n".join(lines)


def pretrained_report(result: dict) -> str:
    """`evaluate_pretrained`'s result for the screen."""
    lines = [result["model"], METHODS[result["method"]].describe(result)]
    probes = result["probes"]
    if probes:
        lines += [
            f"frozen features of {probes['data']}, {probes['training_images']} labelled images, "
            f"tested on {probes['test_images']}:",
            "            20 nearest neighbours  linear probe",
        ]
        lines += [
            f"{key:10}  {probes[key]['knn_top1']:21.3f}  {probes[key]['linear_probe_top1']:12.3f}"
            for key in ("pretrained", "untrained")
        ]
    return "\n".join(lines)


def confusion_matrix(labels, answers, num_classes: int) -> np.ndarray:
    """int64 `[K, K]`: how often class i (row) was answered by class j (column)."""
    matrix = np.zeros([num_classes, num_classes], np.int64)
    np.add.at(matrix, (labels, answers), 1)
    return matrix


def per_class(matrix: np.ndarray, names) -> list:
    """A dict a class, see `evaluate_finetuned`; None where there is nothing to divide by."""
    table = []
    for i, name in enumerate(names):
        wrong = np.where(np.arange(len(names)) == i, 0, matrix[i])
        images, answers = int(matrix[i].sum()), int(matrix[:, i].sum())
        table.append(
            {
                "class": name,
                "images": images,
                "recall": float(matrix[i, i] / images) if images else None,
                "precision": float(matrix[i, i] / answers) if answers else None,
                "confused_with": names[int(np.argmax(wrong))] if wrong.any() else None,
            }
        )
    return table


def evaluate_pretrained(
    path: str, output: str, data_name: str = "", data_dir: str = "", train_images: int = 10_000
) -> dict:
    """How well the pretext task is done, and how well frozen features tell classes apart.

    The features are those that are exported (the model's `image_features`). Two classifiers learn
    from those of labelled training images, and are tested on the held-out ones: the 20 nearest
    neighbours by cosine, and a linear probe (logistic regression on standardised features). The
    same is done with the network as it was before training, without which the figures say nothing.

    Args:
      path: work directory of a pretraining run, or an export of it.
      output: folder for evaluation.json.
      data_name: labelled data for the classifiers; "" for the run's own, if it has labels.
      data_dir: see `data.sources.make_source`.
      train_images: about so many labelled images at most, the same part of every class.

    Returns:
      the contents of evaluation.json.

    Raises:
      UserError: see `training.load_run`, `data.sources.make_source`.
    """
    run = load_pretraining_run(path)
    _make_folder(output)
    config, model = run.config, run.model
    config.train.batch_size = min(config.train.batch_size, _BATCH)
    source = make_source(config.data, data_dir)
    run.check_images(source)
    predict = make_predict_fn(tf.distribute.get_strategy(), model)
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
        source = make_source(config.data, data_dir)
    if source.no_labels:
        if data_name:
            raise UserError(f"--data_name={data_name}: {source.no_labels}")
        logging.info("no kNN and no linear probe: %s; --data_name names others", source.no_labels)
        result["probes"] = None
    else:
        result["probes"] = _probes(config, source, model, train_images)
    _write(output, result)
    return result


def _probes(config, source, model, train_images):
    names = source.class_names
    with reading(source, config.data):
        ids, labels = source.train_ids(), source.train_labels()
        if labels.min() < 0:
            raise UserError(f"data.name={config.data.name}: training images have no label")
        chosen = choose(ids, labels, names, min(1.0, train_images / len(ids)), at_least=1)
        few = source.select(chosen, chosen)  # held out, they come in order and uncropped
    result = {"data": config.data.name, "training_images": len(chosen), "classes": len(names)}
    keras.utils.set_random_seed(config.train.seed)  # the weights that the run began with
    untrained = build_pretrainer(config)
    for key, network in (("pretrained", model), ("untrained", untrained)):

        @tf.function(autograph=False)
        def features(images, network=network):
            return network.image_features(images, training=False)

        train, train_labels = _outputs(few, config.data, features)
        test, test_labels = _outputs(source, config.data, features)
        knn, linear = knn_accuracy, linear_probe_accuracy
        result["test_images"] = len(test_labels)
        result[key] = {
            "knn_top1": knn(train, train_labels, test, test_labels, _NEIGHBOURS),
            "linear_probe_top1": linear(train, train_labels, test, test_labels),
        }
    return result


def knn_accuracy(train, train_labels, test, test_labels, neighbours: int) -> float:
    """Accuracy of a vote among the nearest training features by cosine similarity.

    Args:
      train, test: float `[N, D]`, `[M, D]`.
      train_labels, test_labels: int `[N]`, `[M]`.
      neighbours: votes; fewer where there are fewer training images.
    """
    from sklearn.neighbors import KNeighborsClassifier  # slow to import

    vote = KNeighborsClassifier(min(neighbours, len(train)), metric="cosine")
    return float(vote.fit(train, train_labels).score(test, test_labels))


def linear_probe_accuracy(train, train_labels, test, test_labels) -> float:
    """Accuracy of logistic regression on standardised features; arguments as `knn_accuracy`."""
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(train, train_labels).score(test, test_labels))


def _outputs(source, data, function):
    """`function` of all held-out images, and their labels, as NumPy arrays."""
    part = getattr(data, "test_crop", 1.0)
    images = source.held_out_images().map(
        lambda _, image, label: (resize_and_center(image, data.image_size, part), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    with reading(source, data):
        pairs = [(function(x).numpy(), y.numpy()) for x, y in images.batch(_BATCH)]
    outputs, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    if labels.min() < 0:
        raise UserError(
            f"data.name={data.name}: images of the test split have no label; choose another with "
            "--config.data.test_split in training"
        )
    return outputs, labels


def _some(names):
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")


def _make_folder(output):
    """Before anything is computed."""
    try:
        tf.io.gfile.makedirs(os.path.join(output, "figures"))
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--output={output} cannot be written ({first_line(error)}); give another folder"
        ) from error


def _write(output, result):
    write_atomically(os.path.join(output, "evaluation.json"), json.dumps(result, indent=2))
