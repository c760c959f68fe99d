"""Features of any images, by a pretrained or a finetuned network."""

import io
import logging

import numpy as np
import tensorflow as tf

from selfie_tf.evaluation.images import open_images, outputs, to_csv
from selfie_tf.training.load import is_finetuning, load_finetuning_run, load_pretraining_run


def embed(
    path: str,
    images: str = "",
    data_name: str = "",
    data_dir: str = "",
    corrupt_budget: float | None = None,
) -> dict:
    """Computes features of images: what exports give, or the input of a classifier's last layer.

    Args:
      path: Work directory of a pretraining or finetuning run, or an export of one.
      images, data_name, data_dir, corrupt_budget: See `images.open_images`. Of data by name, all
        images are taken, the training images first.

    Returns:
      A dict of arrays: `features`, float32 `[N, D]`; `ids`, str `[N]`, a file's path below the
      folder; `labels`, int64 `[N]`, numbers of `class_names`, of which -1 is no label;
      `class_names`, str `[K]`, those of the data, where K is 0 without labels; `split`, str `[N]`,
      "train" or "test", or "" for files; `model` and `fingerprint`, str `[]`, where the network is
      from, and the sha256 of its checkpoint or export.

    Raises:
      UserError: If the network or the images cannot be read.
    """
    classifier = is_finetuning(path)
    run = load_finetuning_run(path) if classifier else load_pretraining_run(path)
    source = open_images(run.config, images, data_name, data_dir, corrupt_budget)
    network = run.model.features if classifier else run.model.image_features
    parts = {"ids": [], "features": [], "labels": [], "split": []}
    for split, count, ids in (
        ("train", source.num_train, source.train_ids),
        ("test", source.num_held_out, source.held_out_ids),
    ):
        if not count:
            continue
        names, held_out = np.asarray(ids()), split == "test"
        for indices, _, labels, features in outputs(
            source,
            run.config.data,
            lambda x: tf.cast(network(x, training=False), tf.float32),
            held_out,
        ):
            parts["ids"].append(names[indices])
            parts["features"].append(features)
            parts["labels"].append(labels)
            parts["split"].append(np.full(len(labels), "" if images else split))
    found = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    count, dim = found["features"].shape
    logging.info("%s: %d features of %d images", run.origin, dim, count)
    return {
        **found,
        "class_names": np.array(source.class_names, str),
        "model": np.array(run.origin),
        "fingerprint": np.array(run.sha256),
    }


def to_npz(embeddings: dict) -> bytes:
    """The arrays of `embed` as an .npz file, which `numpy.load` reads without pickle."""
    content = io.BytesIO()
    np.savez_compressed(content, **embeddings)
    return content.getvalue()


def to_table(embeddings: dict) -> str:
    """The arrays of `embed` as CSV: path, label (a class's name or empty), split, and features."""
    e = embeddings
    names = [*e["class_names"], ""]  # -1 is the last
    header = ["path", "label", "split"]
    header += [f"feature_{i}" for i in range(e["features"].shape[1])]
    rows = zip(e["ids"], e["labels"], e["split"], e["features"])
    table = ([i, names[y], s, *(f"{x:.9g}" for x in features)] for i, y, s, features in rows)
    return to_csv([header, *table])
