"""A folder of images to a TensorFlow Datasets dataset, resumable: what `selfie-tf prepare` does."""

import contextlib
import csv
import hashlib
import io
import json
import logging
import math
import os
import re

import tensorflow as tf

from selfie_tf.data.folder import FolderSource
from selfie_tf.data.labels import label_source
from selfie_tf.data.prepared import (
    INDEX,
    NOTES,
    PLAN,
    VERSION,
    check_planned,
    is_finished,
    open_prepared,
    read_plan,
)
from selfie_tf.data.shard_writers import write_shards
from selfie_tf.data.shards import Encoding, Shard, features
from selfie_tf.errors import UserError, first_line
from selfie_tf.storage.files import read_json, write_atomically
from selfie_tf.storage.lock import lock

_REJECTED = "rejected.csv"
_LOCKS = (".lock", ".owner")


def prepare(
    data,
    name: str,
    output: str,
    processes: int = 1,
    shorter_side: int = 0,
    quality: int = 95,
    images_per_shard: int = 1000,
) -> dict:
    """Makes a dataset of the images that `data` names; the same call again resumes.

    Args:
      data: A `config.LabelledDataConfig`. Of it count name (a folder), labels, test_labels,
        test_split, held_out, corrupt_budget and max_pixels.
      name: TFDS's name of the dataset.
      output: The folder of datasets, TFDS's data_dir; a local path or gs://...
      processes: Number of processes that read and encode images.
      shorter_side, quality: See `shards.Encoding`.
      images_per_shard: Images per file.

    Returns:
      A dict: `images`, {split: number}; `classes`, their number; `bytes`, of all examples;
      `rejected`, {path: reason}; `path`, the dataset's folder.

    Raises:
      UserError: If the images cannot be used, or the output cannot be written or holds something
        else.
    """
    _check_name(name)
    source, folder = _open(data)
    _check_classes(source.class_names)
    _check_outside(output, folder)
    path = os.path.join(output, name, VERSION)
    encoding = Encoding(shorter_side, quality, data.max_pixels)
    plan = _plan(source, encoding, images_per_shard)
    shards = _shards(plan, source, folder, path, name, encoding)
    with _writing(output), contextlib.ExitStack() as stack:
        _check_free(os.path.dirname(path))  # before a folder is made there
        tf.io.gfile.makedirs(os.path.join(path, NOTES))
        held = lock(os.path.dirname(path), "output", "prepare")
        if held is not None:
            stack.callback(held.release)
        _check_output(path, plan)
        if not is_finished(path):
            _remove_leftovers(path)
            write_atomically(os.path.join(path, PLAN), json.dumps(plan, indent=2) + "\n")
            notes = write_shards(shards, processes, data.corrupt_budget)
            _check_unchanged(data, source, folder, path)
            _finish(path, name, shards, notes, source.class_names)
        else:
            _check_whole(path, shards)
            logging.info("%s is prepared already", path)
        _remove(os.path.join(path, NOTES))
    return _report(path)


def _open(data):
    """Opens the images: a source, and the folder."""
    folder = os.path.expanduser(data.name.removeprefix("folder:"))
    source = FolderSource(
        folder, data.held_out, 0, data.corrupt_budget, data.max_pixels, data.test_split
    )
    if data.labels:
        source = label_source(source, data, folder)
    if source.no_labels:
        logging.info("the dataset has no labels: %s", source.no_labels)
    return source, folder


def _check_name(name):
    import tensorflow_datasets as tfds  # slow to import

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"--name={name}: expected a lower-case letter, then lower-case letters, digits and _"
        )
    if name in tfds.list_builders(with_community_datasets=False):
        raise UserError(f"--name={name} is a dataset of TFDS itself; give another name")


def _check_classes(names):
    """TFDS keeps names as lines of a file, and takes spaces off their ends."""
    for name in names:
        if name.strip() != name or name.splitlines() != [name]:
            raise UserError(
                f"the class {name!r}: a name must not begin or end with a space or hold a line "
                "break; rename its folder, or its label in the list"
            )


def _check_outside(output, folder):
    """Checks that the output does not lie beside the folders train and test.

    With another folder there, these would not be the training and the test images any more.
    """
    if "://" in output or not os.path.isdir(os.path.join(folder, "train")):
        return
    if os.path.commonpath([os.path.realpath(output), os.path.realpath(folder)]) == (
        os.path.realpath(folder)
    ):
        raise UserError(
            f"--output={output} lies in {folder}, which holds the folder train; give one outside it"
        )


def _plan(source, encoding, images_per_shard):
    """What the dataset is, as far as it is known before; the same again for the same images."""
    return {
        "images": source.fingerprint,
        "location": source.location,
        "splits": {"train": source.num_train, source.held_out_split: source.num_held_out},
        "class_names": list(source.class_names),
        "shorter_side": encoding.shorter_side,
        "quality": encoding.quality,
        "max_pixels": encoding.max_pixels,
        "images_per_shard": images_per_shard,
    }


def _shards(plan, source, folder, path, name, encoding):
    """{split: its shards}."""
    labels = source.train_labels(), source.held_out_labels()
    found = {}
    for split, ids, numbers in zip(
        plan["splits"], (source.train_ids(), source.held_out_ids()), labels, strict=True
    ):
        named = bool(source.class_names)
        images = [(i, int(n) if named else None) for i, n in zip(ids, numbers, strict=True)]
        if split == "train":
            # Mixed, so that a stream of it has all classes everywhere; the same for everyone.
            images.sort(key=lambda image: hashlib.sha256(image[0].encode()).digest())
        size = plan["images_per_shard"]
        count = math.ceil(len(images) / size)
        found[split] = [
            Shard(
                os.path.join(path, f"{name}-{split}.tfrecord-{i:05d}-of-{count:05d}"),
                os.path.join(path, NOTES, f"{split}-{i:05d}.json"),
                folder,
                images[i * size : (i + 1) * size],
                source.class_names,
                encoding,
            )
            for i in range(count)
        ]
    return found


# The output


@contextlib.contextmanager
def _writing(output):
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--output={output} cannot be written ({first_line(error)}); make room or mend the "
            "cause and give the same command again, or give another folder"
        ) from error


def _check_free(parent):
    """Checks that nothing else is there than versions of a dataset, e.g. not the images."""
    if not tf.io.gfile.isdir(parent):
        return
    others = {entry.rstrip("/") for entry in tf.io.gfile.listdir(parent)} - {VERSION, *_LOCKS}
    if others:
        raise UserError(
            f"{parent} holds something else: {', '.join(sorted(others)[:3])}; give another --name "
            "or --output"
        )


def _check_output(path, plan):
    """Checks that no other dataset is there than this one, finished or not."""
    before = read_plan(path)
    if before is None:
        check_planned(path)
        entries = {entry.rstrip("/") for entry in tf.io.gfile.listdir(path)} - {NOTES}
        entries = [entry for entry in entries if not entry.endswith(".tmp")]
        if entries:
            raise UserError(
                f"{path} holds another dataset, which was not prepared here: "
                f"{', '.join(sorted(entries)[:3])}; give another --name or --output"
            )
        return
    differing = [
        f"{key} ({_short(before.get(key))}, now {_short(value)})"
        for key, value in plan.items()
        if before.get(key) != value and key != "location"
    ]
    if differing:
        raise UserError(
            f"{path} holds a dataset of other images or settings, which differs in "
            f"{', '.join(differing)}; give another --name, or remove that folder"
        )


def _check_whole(path, shards):
    """Checks a finished dataset; the notes of its shards are gone, so none is made anew."""
    import tensorflow_datasets as tfds

    prepared = open_prepared(path, *shards)
    try:
        info = tfds.builder_from_directory(path).info
        num_bytes = [info.splits[split].num_bytes for split in shards]
        names = info.features["label"].names if "label" in info.features else ()
    except Exception as error:  # TFDS raises many kinds
        raise UserError(
            f"{path}: its metadata cannot be read ({first_line(error)}); remove that folder and "
            "give the same command again"
        ) from error
    paths = [[shard.path for shard in part] for part in shards.values()]
    prepared.check(paths, num_bytes, tuple(names))


def _short(value):
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _remove_leftovers(path):
    """Removes what a killed prepare was writing."""
    for folder in (path, os.path.join(path, NOTES)):
        for entry in tf.io.gfile.listdir(folder):
            if entry.endswith(".tmp"):
                tf.io.gfile.remove(os.path.join(folder, entry))


def _remove(folder):
    if tf.io.gfile.isdir(folder):
        tf.io.gfile.rmtree(folder)


# The end


def _check_unchanged(data, source, folder, path):
    after, _ = _open(data)
    if after.fingerprint == source.fingerprint:
        return
    before = {*source.train_ids(), *source.held_out_ids()}
    now = {*after.train_ids(), *after.held_out_ids()}
    example = min(before ^ now, default="")
    what = f"{len(now - before)} new images, {len(before - now)} gone, such as {example}"
    lists = [f"--{key}={getattr(data, key)}" for key in ("labels", "test_labels")]
    where = [folder, *(flag for flag in lists if not flag.endswith("="))]
    raise UserError(
        f"{' or '.join(where)} changed while it was prepared: "
        f"{what if example else 'other labels'}; remove {path} and give the same command again"
    )


def _finish(path, name, shards, notes, class_names):
    """Writes the index, the rejected files, and last what makes TFDS read the dataset."""
    import tensorflow_datasets as tfds

    infos, rejected = [], {}
    template = tfds.core.ShardedFileTemplate(
        data_dir=path, template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    )
    for split, part in shards.items():
        rows = [("path", "label", "file", "offset")]
        lengths = []
        for number, shard in enumerate(part):
            note = notes[shard.path]
            rejected |= note["rejected"]
            kept = [
                (image, "" if label is None else class_names[label], number, offset)
                for (image, label), offset in zip(shard.images, note["offsets"], strict=True)
                if offset >= 0
            ]
            rows += kept
            lengths.append(len(kept))
        size = sum(notes[shard.path]["num_bytes"] for shard in part)
        infos.append(tfds.core.SplitInfo(split, lengths, size, template))
        write_atomically(os.path.join(path, INDEX.format(split=split)), _csv(rows))
    if rejected:
        table = [("path", "reason"), *sorted(rejected.items())]
        write_atomically(os.path.join(path, _REJECTED), _csv(table))
    tfds.folder_dataset.write_metadata(
        data_dir=path,
        features=features(class_names),
        split_infos=infos,
        version=VERSION,
        check_data=False,
        description=f"{name}: images of a folder, prepared by selfie-tf prepare.",
        supervised_keys=("image", "label") if class_names else None,
    )


def _csv(rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)  # its line ends make it quote a carriage return
    return text.getvalue().encode()


def _report(path):
    """Logs and returns what is in a finished dataset."""
    import tensorflow_datasets as tfds

    splits = tfds.builder_from_directory(path).info.splits
    plan = read_json(path, PLAN)
    report = {
        "images": {name: split.num_examples for name, split in splits.items()},
        "classes": len(plan["class_names"]),
        "bytes": sum(split.num_bytes for split in splits.values()),
        "rejected": {},
        "path": path,
    }
    with contextlib.suppress(tf.errors.NotFoundError):
        with tf.io.gfile.GFile(os.path.join(path, _REJECTED), "rb") as file:
            rows = csv.reader(io.StringIO(file.read().decode(), newline=""))
        report["rejected"] = dict(list(rows)[1:])
    counts = ", ".join(f"{count} {split}" for split, count in report["images"].items())
    logging.info(
        "%s: %s images, %d classes, %d bytes in %d files; %d unreadable images left out%s",
        path,
        counts,
        report["classes"],
        report["bytes"],
        sum(len(split.shard_lengths) for split in splits.values()),
        len(report["rejected"]),
        f", see {_REJECTED}" if report["rejected"] else "",
    )
    return report
