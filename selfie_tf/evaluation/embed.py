"""Features of any images, by a pretrained or a finetuned network."""

import logging
import zipfile

import numpy as np
import tensorflow as tf

from selfie_tf.errors import UserError, first_line
from selfie_tf.evaluation.images import open_images, outputs, to_csv
from selfie_tf.evaluation.thumbnails import shrink, thumbnail_side
from selfie_tf.storage.files import pack_arrays, read_arrays
from selfie_tf.training.load import is_finetuning, load_finetuning_run, load_pretraining_run

_UNREADABLE = (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile)


def embed(
    path: str,
    images: str = "",
    data_name: str = "",
    data_dir: str = "",
    corrupt_budget: float | None = None,
    thumbnails: bool = False,
) -> dict:
    """Computes features of images: what exports give, or the input of a classifier's last layer.

    Args:
      path: Work directory of a pretraining or finetuning run, or an export of one.
      images, data_name, data_dir, corrupt_budget: See `images.open_images`. Of data by name, all
        images are taken, the training images first.
      thumbnails: Whether to make thumbnails, too.

    Returns:
      A dict of arrays: `features`, float32 `[N, D]`; `ids`, str `[N]`, a file's path below the
      folder; `labels`, int64 `[N]`, numbers of `class_names`, of which -1 is no label;
      `class_names`, str `[K]`, those of the data, where K is 0 without labels; `split`, str `[N]`,
      "train" or "test", or "" for files; `model` and `fingerprint`, str `[]`, where the network is
      from, and the sha256 of its checkpoint or export. Of a classifier also `certainty`, float32
      `[N]`, its highest probability. With thumbnails also `thumbnails`, uint8 `[N, s, s, 3]`.

    Raises:
      UserError: If the network or the images cannot be read.
    """
    classifier = is_finetuning(path)
    run = load_finetuning_run(path) if classifier else load_pretraining_run(path)
    source = open_images(run.config, images, data_name, data_dir, corrupt_budget)
    network = run.model.features if classifier else run.model.image_features
    names = ["ids", "features", "labels", "split"] + ["thumbnails"] * thumbnails
    parts = {name: [] for name in names}
    side = thumbnail_side(source.num_train + source.num_held_out, run.config.data.image_size)
    for split, count, ids in (
        ("train", source.num_train, source.train_ids),
        ("test", source.num_held_out, source.held_out_ids),
    ):
        if not count:
            continue
        all_ids, held_out = np.asarray(ids()), split == "test"
        for indices, squares, labels, features in outputs(
            source,
            run.config.data,
            lambda x: tf.cast(network(x, training=False), tf.float32),
            held_out,
        ):
            parts["ids"].append(all_ids[indices])
            parts["features"].append(features)
            parts["labels"].append(labels)
            parts["split"].append(np.full(len(labels), "" if images else split))
            if thumbnails:
                parts["thumbnails"].append(shrink(squares, side))
    found = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    count, dim = found["features"].shape
    logging.info("%s: %d features of %d images", run.origin, dim, count)
    if classifier:
        probabilities = tf.nn.softmax(run.model.head(found["features"]))
        found["certainty"] = tf.cast(tf.reduce_max(probabilities, -1), tf.float32).numpy()
    return {
        **found,
        "class_names": np.array(source.class_names, str),
        "model": np.array(run.origin),
        "fingerprint": np.array(run.sha256),
    }


def to_npz(embeddings: dict) -> bytes:
    """The arrays of `embed` as an .npz file, which needs no pickle, without the thumbnails."""
    return pack_arrays({k: array for k, array in embeddings.items() if k != "thumbnails"})


def read_npz(file: str, path: str = "") -> dict:
    """Reads what `to_npz` has made.

    Args:
      file: The file.
      path: Work directory or export of a run. If it is given, the features must be its own.

    Returns:
      See `embed`.

    Raises:
      UserError: If it is no such file, or the features are of another network.
    """
    where, make = f"--embeddings={file}", "a file of selfie-tf embed"
    try:
        found = read_arrays(file)
        missing = {"ids", "features", "split", "model", "fingerprint"} - set(found)
    except (*_UNREADABLE, tf.errors.OpError) as error:
        raise UserError(f"{where} cannot be read ({first_line(error)}); give {make}") from error
    if missing:
        raise UserError(f"{where} lacks {', '.join(sorted(missing))}; give {make}")
    features, ids = found["features"], found["ids"]
    if features.dtype.kind != "f" or features.ndim != 2 or len(features) != len(ids):
        raise UserError(f"{where} does not have one row of features per image; give {make}")
    if path:
        run = load_finetuning_run(path) if is_finetuning(path) else load_pretraining_run(path)
        if run.sha256 != str(found["fingerprint"]):
            raise UserError(
                f"{where} holds features of another network, {found['model']}, not of "
                f"{run.origin}; give one of the two, or make the file anew with selfie-tf embed"
            )
    return found


def to_table(embeddings: dict) -> str:
    """The arrays of `embed` as CSV: path, label (a class's name or empty), split, and features."""
    e = embeddings
    names = [*e["class_names"], ""]  # -1 is the last
    header = ["path", "label", "split"]
    header += [f"feature_{i}" for i in range(e["features"].shape[1])]
    rows = zip(e["ids"], e["labels"], e["split"], e["features"])
    table = ([i, names[y], s, *(f"{x:.9g}" for x in features)] for i, y, s, features in rows)
    return to_csv([header, *table])
