"""Which images to label first: a diverse choice by their features."""

import io
import logging
import os
import warnings

import numpy as np
import tensorflow as tf

from selfie_tf import figures
from selfie_tf.data.labels import find_image, read_list
from selfie_tf.errors import UserError
from selfie_tf.evaluation.embed import embed, read_npz
from selfie_tf.evaluation.images import open_images, outputs, prepare_output, to_csv, write_output
from selfie_tf.evaluation.map import normalize
from selfie_tf.training.load import is_finetuning, read_run_config

METHODS = ("kmeans", "farthest", "uncertain")
_SHEET_IMAGES, _SHEET_SIDE = 400, 160  # pixels
_CANDIDATES = 10  # least certain images per image to choose


def choose(
    features: np.ndarray,
    count: int,
    method: str = "kmeans",
    seed: int = 0,
    labelled=(),
    certainty: np.ndarray | None = None,
) -> np.ndarray:
    """Chooses images to label, unlike each other and unlike those that have a label.

    Features are scaled to length 1. The choice is a function of the arguments.

    Args:
      features: float `[N, D]`.
      count: How many images to choose.
      method: "kmeans" divides all images into one cluster per image, chosen or labelled, and takes
        the image nearest to the centre of each of the largest clusters without a labelled one
        (TypiClust, Hacohen et al. 2022, with medoids). "farthest" takes again and again the image
        that is farthest from all chosen and labelled ones (k-center greedy, Sener and Savarese
        2018). "uncertain" is "kmeans" among the 10 · `count` least certain images.
      seed: Of the clusters' start, or of the first image.
      labelled: Indices of images that have a label; they are not chosen.
      certainty: float `[N]`, a classifier's highest probabilities, for "uncertain".

    Returns:
      `count` different indices, int64. Of "kmeans" and "uncertain" the largest cluster's comes
      first, of "farthest" they are in the order of the choice.

    Raises:
      UserError: If there are not so many images without a label, the method is unknown or lacks
        certainty, or a feature is not finite.
    """
    unit, labelled = normalize(features), np.unique(np.asarray(labelled, np.int64))
    free = np.setdiff1d(np.arange(len(unit)), labelled)
    if method not in METHODS:
        raise UserError(f"method={method}: expected one of {', '.join(METHODS)}")
    if not 1 <= count <= len(free):
        raise UserError(
            f"count={count}: there are {len(free)} images without a label; choose 1 to {len(free)}"
        )
    if method == "farthest":
        return _farthest(unit, count, labelled, free, seed)
    if method == "uncertain":
        if certainty is None:
            raise UserError(
                "method=uncertain needs a classifier's certainty; give a classifier, or another "
                "method"
            )
        order = np.argsort(np.asarray(certainty)[free], kind="stable")
        free = np.sort(free[order[: _CANDIDATES * count]])
    return _medoids(unit, count, labelled, free, seed)


def _farthest(unit, count, given, free, seed):
    """Indices of `free`, each the farthest from `given` and from those before it."""
    candidates, distance, chosen = unit[free], np.full(len(free), np.inf), []
    for i in given:
        distance = np.minimum(distance, 1 - candidates @ unit[i])
    for _ in range(count):
        if chosen or len(given):
            k = int(distance.argmax())
        else:
            k = int(np.random.default_rng(seed).integers(len(free)))
        chosen.append(k)
        distance = np.minimum(distance, 1 - candidates @ candidates[k])
        distance[k] = -np.inf  # also if only equal images are left
    return free[chosen]


def _medoids(unit, count, labelled, free, seed):
    """Indices of `free`, one per cluster without a labelled image, the largest clusters first."""
    from sklearn.cluster import KMeans  # slow to import
    from sklearn.exceptions import ConvergenceWarning

    vectors = unit[np.concatenate([free, labelled])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal images: fewer clusters
        found = KMeans(count + len(labelled), n_init=1, random_state=seed).fit(vectors)
    distance = np.linalg.norm(vectors - found.cluster_centers_[found.labels_], axis=1)
    clusters, covered = found.labels_[: len(free)], set(found.labels_[len(free) :])
    sizes = np.bincount(clusters, minlength=found.n_clusters)
    chosen = []
    for cluster in np.argsort(-sizes, kind="stable"):
        if sizes[cluster] and cluster not in covered:
            inside = np.flatnonzero(clusters == cluster)
            chosen.append(free[inside[distance[inside].argmin()]])
    chosen = np.array(chosen[:count], np.int64)
    given, rest = np.concatenate([labelled, chosen]), np.setdiff1d(free, chosen)
    more = _farthest(unit, count - len(chosen), given, rest, seed)  # of equal images
    return np.concatenate([chosen, more])


def suggest(
    count: int,
    path: str = "",
    embeddings: str = "",
    classifier: str = "",
    labelled: str = "",
    method: str = "",
    seed: int = 0,
    sheet: str = "",
    **images,
) -> list:
    """Chooses images to label from their features.

    Args:
      count, seed: See `choose`.
      path: Work directory or export of a run, whose features are taken.
      embeddings: Instead, or if they are of the same network, a file of `embed.to_npz`.
      classifier: Work directory or export of a finetuning run, for certainty. "" for that of the
        features, if they are a classifier's.
      labelled: A list of labels, see `data.labels.read_list`; what has a label in it is not chosen.
      method: See `choose`; "" for "uncertain" if there is a classifier, else "kmeans".
      sheet: PNG file to draw the first 400 chosen images to; "" for none. It needs `path`.
      **images: See `images.open_images`. Of data by name, training images are chosen.

    Returns:
      Ids: paths below the folder.

    Raises:
      UserError: If the arguments do not fit together, or something cannot be read.
    """
    if sheet:
        prepare_output("sheet", sheet)
    if classifier and method not in ("", "uncertain"):
        raise UserError(f"--classifier is not used by --method={method}; remove one of the two")
    if classifier and not is_finetuning(classifier):
        raise UserError(f"--classifier={classifier} is a pretraining run; give a finetuning run")
    found = read_npz(embeddings, path) if embeddings else embed(path, **images)
    ids, free = found["ids"].tolist(), found["split"] != "test"
    certainty = found.get("certainty")
    if classifier:
        other = embed(classifier, **images)
        known = dict(zip(other["ids"].tolist(), other["certainty"]))
        free &= np.array([i in known for i in ids])
        certainty = np.array([known.get(i, 1.0) for i in ids])
    given = _find_labelled(labelled, ids, images) if labelled else []
    keep = np.flatnonzero(free | np.isin(np.arange(len(ids)), given))
    method = method or ("kmeans" if certainty is None else "uncertain")
    chosen = choose(
        found["features"][keep],
        count,
        method,
        seed,
        np.searchsorted(keep, given),
        None if certainty is None else certainty[keep],
    )
    logging.info("%s chose %d of %d images without a label", method, count, len(keep) - len(given))
    chosen = [ids[i] for i in keep[chosen]]
    if sheet:
        _draw_sheet(sheet, path, chosen[:_SHEET_IMAGES], images)
    return chosen


def to_table(ids: list) -> str:
    """A list of labels for a person to fill in, as CSV that `data.labels` reads."""
    return to_csv([["path", "label"], *([i, ""] for i in ids)])


def check_unlabelled(path: str) -> None:
    """Raises UserError if a file that is to be written holds labels that someone has filled in."""
    if tf.io.gfile.exists(path):
        if any(label for *_, label in read_list(f"--output={path}", path)):
            raise UserError(
                f"--output={path} has labels in it already; give another file, and this one as "
                "--labelled"
            )


def _find_labelled(path, ids, images):
    """Sorted indices of the images that have a label in a list."""
    where, folder = f"--labelled={path}", images.get("images") or ""
    if images.get("data_name", "").startswith("folder:"):
        folder = os.path.expanduser(images["data_name"].removeprefix("folder:"))
    folders = (folder, os.path.abspath(folder), os.path.realpath(folder)) if folder else ()
    names = [name for _, name, label in read_list(where, path) if label]
    index = {name: i for i, name in enumerate(ids)}
    found = [find_image(name, index, folders) for name in names]
    missing = [name for name, i in zip(names, found) if i is None]
    if missing and len(missing) == len(names):
        raise UserError(
            f"{where}: none of its images is among these, not even {missing[0]!r}; give paths "
            "below the folder"
        )
    for name in missing:
        logging.warning("%s: no such image: %r", where, name)
    return sorted({i for i in found if i is not None})


def _draw_sheet(sheet, path, ids, images):
    config = read_run_config(path)
    if images["images"] or images["data_name"].startswith("folder:"):
        # A person sees more than the network. The patches keep the grid, so that the config holds.
        scale = max(1, round(_SHEET_SIDE / config.data.image_size))
        config.data.image_size *= scale
        config.patches.size *= scale
    source = open_images(config, **images)
    of_files = bool(images["images"])
    every = source.held_out_ids() if of_files else source.train_ids()
    number = {name: i for i, name in enumerate(every)}
    missing = [name for name in ids if name not in number]
    if missing:
        raise UserError(
            f"--sheet: {missing[0]!r} is not among the images; give those of the embeddings"
        )
    shown = sorted(number[name] for name in ids)
    if of_files:
        few = source.relabelled({}, dict.fromkeys(shown, -1), ())
    else:
        few = source.select(np.array(shown))
    squares = {}
    for indices, batch, _, _ in outputs(few, config.data, tf.identity, of_files):
        squares.update((every[shown[i]], square) for i, square in zip(indices, batch))
    drawn = [(k, name) for k, name in enumerate(ids, 1) if name in squares]
    captions = [f"{k}\n{_tail(' '.join(name.split()))}" for k, name in drawn]
    picture = io.BytesIO()
    figures.draw_sheet(picture, np.stack([squares[name] for _, name in drawn]), captions)
    write_output("sheet", sheet, picture.getvalue())


def _tail(name, length=20):
    return name if len(name) <= length else f"…{name[1 - length :]}"
