"""Which operations a train step spends its time in, from TensorFlow's profiler."""

import collections
import glob
import os
import re

import tensorflow as tf

from selfie_tf.errors import UserError, first_line

_STEPS = 4

# "name:Kind" is an operation; other events ("EagerExecute", "ThreadPool::Run") are not.
_OPERATION = re.compile(r"[^:]*:([A-Z_]\w*)")


def profile(step, batch, folder: str, about: dict) -> dict:
    """Profiles a few train steps.

    Args:
      step: A function from a batch to the losses, see `speed.train_step`.
      batch: What each step is taken with.
      folder: Where the trace for TensorBoard goes.
      about: What the result begins with.

    Returns:
      A dict for JSON: `about`, `operation_seconds_per_step`, and `operations`, {kind: {share of the
      time of all, milliseconds and count per step}}, those that take longest first.

    Raises:
      UserError: If the folder cannot be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--profile={folder}: {error.strerror}; expected a folder") from error
    for _ in range(2):
        step(batch)
    before = set(_traces(folder))
    try:
        tf.profiler.experimental.start(folder)
        for _ in range(_STEPS):
            step(batch)
        tf.profiler.experimental.stop()
        (trace,) = set(_traces(folder)) - before
        with open(trace, "rb") as file:
            found = operations(file.read())
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise UserError(f"--profile={folder} cannot be written ({first_line(error)})") from error
    total = sum(seconds for seconds, _ in found.values())
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    return {
        **about,
        "steps": _STEPS,
        "operation_seconds_per_step": total / _STEPS,
        "operations": {
            kind: {
                "share": seconds / total,
                "milliseconds_per_step": 1000 * seconds / _STEPS,
                "count_per_step": count / _STEPS,
            }
            for kind, (seconds, count) in ordered
        },
    }


def operations(trace: bytes) -> dict:
    """Sums up the operations on the host's processor.

    An operation that contains others, as a call of a function or a loop does, counts without them,
    so that all add up to the time spent in operations.

    Args:
      trace: The contents of an .xplane.pb file.

    Returns:
      {kind: (seconds, number of calls)}.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(trace)
    seconds, counts = collections.Counter(), collections.Counter()
    for plane in space.planes:
        if not plane.name.startswith("/host:CPU"):
            continue
        for line in plane.lines:
            events = []
            for event in line.events:
                kind = _OPERATION.fullmatch(plane.event_metadata[event.metadata_id].name)
                if kind:
                    events.append((event.offset_ps, event.duration_ps, kind[1]))
            for kind, own in _own_times(events):
                seconds[kind] += own / 1e12
                counts[kind] += 1
    return {kind: (seconds[kind], counts[kind]) for kind in seconds}


def _own_times(events):
    """Yields (kind, duration without that of the events inside) of (start, duration, kind)s."""
    open_events = []  # [end, own duration, kind], each inside the one before
    for start, duration, kind in sorted(events, key=lambda event: (event[0], -event[1])):
        while open_events and open_events[-1][0] <= start:
            _, own, closed = open_events.pop()
            yield closed, own
        if open_events:
            open_events[-1][1] -= duration
        open_events.append([start + duration, duration, kind])
    for _, own, kind in open_events:
        yield kind, own


def _traces(folder):
    return glob.glob(os.path.join(glob.escape(folder), "**", "*.xplane.pb"), recursive=True)
