"""What `selfie-tf inspect` finds out about images, as values for JSON."""

import collections
import copy
import dataclasses
import re
import shlex

import numpy as np
import tensorflow as tf
import tf_keras as keras

from selfie_tf.benchmarks.speed import step_seconds
from selfie_tf.config import assign, files, flatten
from selfie_tf.data import make_source
from selfie_tf.data.source import BatchShard, reading
from selfie_tf.distribution import strategy as distribution
from selfie_tf.errors import UserError
from selfie_tf.inspection import duplicates, suggest, survey
from selfie_tf.methods import METHODS

_QUANTILES = {"minimum": 0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "maximum": 1}
_SECONDS = 2.0  # of the measurement, at least
_BATCH_SIZE = {"GPU": 32, "CPU": 8}  # of the measurement, at most
_SHUFFLE = 1000  # records to choose the sheet of patches from
_EXAMPLES = 6  # images on the sheet of patches, and on the list of the smallest


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found, and what the page's pictures are made of.

    Attributes:
      report: Values for JSON.
      seen: A list of `survey.Seen`.
      images: The `survey.Arrays` that it is of.
      groups: A list of `duplicates.Group`.
      config: The config that was timed.
      batch: Some training images as the model gets them, a dict of NumPy arrays.
    """

    report: dict
    seen: list
    images: survey.Arrays
    groups: list
    config: object
    batch: dict


def inspect(
    config, data_dir: str, limit: int, config_name: str = "", seconds: float = _SECONDS
) -> Inspection:
    """Looks at the images that `config.data` names, and times training on them.

    Args:
      config: A `config.PretrainConfig`.
      data_dir: See `data.make_source`.
      limit: How many images to look at, at most.
      config_name: What `config` is called, to time it; empty to time the suggested one, with the
        keys that were set explicitly in `config`.
      seconds: Least duration of the measurement.

    Raises:
      UserError: If there are no images, or none can be read.
    """
    source = make_source(config.data, data_dir)
    seen, images = survey.look(source, config.data, limit)
    readable = [image for image in seen if not image.error]
    if not readable:
        first = seen[0]
        raise UserError(
            f"data.name={config.data.name}: none of {len(seen)} images can be read; the first one: "
            f"{first.id!r} ({first.error})"
        )
    groups = duplicates.find_groups(seen, images)
    given = {key: flatten(config)[key] for key in sorted(config.explicit_keys())}
    given["data.name"] = config.data.name
    gpu = bool(tf.config.list_physical_devices("GPU"))
    suggestion = suggest.suggest(seen, source.num_train, given, gpu)
    if not config_name:
        config, config_name = files.get(suggestion.config), f"{suggestion.config} as suggested"
        for key, value in suggestion.values.items():
            assign(config, key, value)
        config.validate()
    command = shlex.join(suggest.command_line(suggestion))
    report = {
        "data": given["data.name"],
        "images": images.total,
        "looked_at": len(seen),
        "training": source.num_train,
        "held_out": source.num_held_out,
        "bytes": sum(image.num_bytes for image in seen),
        "unreadable": _unreadable(seen),
        "sizes": _sizes(readable),
        "formats": _counts(image.format for image in readable),
        "modes": _counts(image.mode for image in readable),
        "notes": _counts(note for image in readable for note in image.notes),
        "classes": _classes(seen, source),
        "no_labels": source.no_labels,
        "duplicates": _duplicates(seen, groups, source.class_names),
        "config": {
            "name": config_name,
            "image_size": config.data.image_size,
            "patch_size": config.patches.size,
            "batch_size": config.train.batch_size,
            "steps": config.train.steps,
            **_too_small(readable, config.data.image_size),
            **_speed(config, "GPU" if gpu else "CPU", seconds),
        },
        "suggestion": {**dataclasses.asdict(suggestion), "command": command},
    }
    batch = _batch(config, data_dir)
    return Inspection(report, seen, images, groups, config, batch)


def _unreadable(seen):
    files = [
        {"path": image.id, "held_out": image.held_out, "reason": image.error}
        for image in seen
        if image.error
    ]
    # Reasons that differ in a number alone are one.
    reasons = _counts(re.sub(r"\d+", "N", file["reason"]) for file in files)
    return {"count": len(files), "reasons": reasons, "files": files}


def _sizes(readable):
    width, height, size = (
        np.array([getattr(image, name) for image in readable])
        for name in ("width", "height", "num_bytes")
    )
    values = {
        "width": width,
        "height": height,
        "shorter side": np.minimum(width, height),
        "longer side / shorter side": np.maximum(width, height) / np.minimum(width, height),
        "megapixels": width * height / 1e6,
    }
    if size.any():
        values["kilobytes"] = size / 1e3
    quantiles = {
        name: {q: round(float(np.quantile(x, p)), 4) for q, p in _QUANTILES.items()}
        for name, x in values.items()
    }
    frequent = collections.Counter(zip(width.tolist(), height.tolist())).most_common(10)
    return {
        "quantiles": quantiles,
        "different": len(set(zip(width.tolist(), height.tolist()))),
        "frequent": [{"width": w, "height": h, "images": n} for (w, h), n in frequent],
    }


def _classes(seen, source):
    names = source.class_names
    counts = {held_out: np.zeros(len(names), int) for held_out in (False, True)}
    for image in seen:
        if image.label >= 0:
            counts[image.held_out][image.label] += 1
    return [
        {"class": name, "training": int(counts[False][i]), "held_out": int(counts[True][i])}
        for i, name in enumerate(names)
    ]


def _duplicates(seen, groups, class_names):
    def describe(i):
        image = seen[i]
        label = {"class": class_names[image.label]} if image.label >= 0 else {}
        return {"path": image.id, "held_out": image.held_out, **label}

    found = {
        kind: {
            "groups": sum(group.kind == kind for group in groups),
            "superfluous_images": sum(
                len(group.images) - 1 for group in groups if group.kind == kind
            ),
        }
        for kind in duplicates.KINDS
    }
    crossing = [group for group in groups if group.crosses]
    return {
        "kinds": found,
        "held_out_with_copy_in_training": sum(
            seen[i].held_out for group in crossing for i in group.images
        ),
        "groups_with_different_classes": sum(group.labels_differ for group in groups),
        "groups": [
            {
                "kind": group.kind,
                "crosses": group.crosses,
                "classes_differ": group.labels_differ,
                "images": [describe(i) for i in group.images],
            }
            for group in groups
        ],
    }


def _too_small(readable, side):
    small = [image for image in readable if min(image.width, image.height) < side]
    small.sort(key=lambda image: min(image.width, image.height))
    return {
        "too_small": len(small),
        "smallest": [
            {"path": image.id, "width": image.width, "height": image.height}
            for image in small[:_EXAMPLES]
        ],
    }


def _speed(config, device, seconds):
    """Times training steps of a small batch."""
    batch_size = min(config.train.batch_size, _BATCH_SIZE[device])
    taken = step_seconds(config, batch_size, seconds)
    keras.backend.clear_session()
    step = taken * config.train.batch_size / batch_size
    return {
        "hardware": distribution.describe(tf.distribute.get_strategy()),
        "measured_batch_size": batch_size,
        "seconds_per_step": step,
        "hours": step * config.train.steps / 3600,
    }


def _batch(config, data_dir):
    """The first images of training, which the method itself makes."""
    config = copy.deepcopy(config)
    config.data.corrupt_budget = 1.0  # what is unreadable is known by now
    config.data.shuffle_buffer = min(config.data.shuffle_buffer, _SHUFFLE)
    source = make_source(config.data, data_dir)
    shard = BatchShard(min(_EXAMPLES, source.num_train))
    batches = METHODS[config.method].training_batches(source, config, shard=shard)
    with reading(source, config.data):
        return {key: value.numpy() for key, value in next(iter(batches)).items()}


def _counts(values):
    """{value: count}, the most frequent first, without what is empty."""
    return dict(collections.Counter(value for value in values if value).most_common())
