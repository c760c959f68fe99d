"""Writing the shards of a dataset with several processes, which end when their parent does."""

import concurrent.futures
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time

import tensorflow as tf

from selfie_tf.data.shards import finished_note, write_shard
from selfie_tf.data.source import allowed
from selfie_tf.errors import UserError

_LOG_SECONDS = 30


def write_shards(shards: dict, processes: int, budget: float) -> dict:
    """Writes the shards that are not there yet.

    Args:
      shards: {split: its `shards.Shard`s}.
      processes: Number of processes.
      budget: Fraction of the images that may be unreadable.

    Returns:
      {path: note} of all, see `shards.write_shard`.

    Raises:
      UserError: If more images are unreadable, or a shard cannot be written.
    """
    jobs = [shard for part in shards.values() for shard in part]
    total = sum(len(shard.images) for shard in jobs)
    notes = {shard.path: finished_note(shard) for shard in jobs}
    missing = [shard for shard in jobs if notes[shard.path] is None]
    if len(missing) < len(jobs):
        logging.info("resuming: %d of %d files are there", len(jobs) - len(missing), len(jobs))
    rejected, done = {}, sum(len(note["offsets"]) for note in notes.values() if note)
    logged = time.monotonic()
    for shard, note in _each(missing, processes):
        notes[shard.path] = note
        done += len(note["offsets"])
        for image, reason in note["rejected"].items():
            logging.warning("left out unreadable image %s (%s)", image, reason)
            rejected[image] = reason
        if len(rejected) > allowed(budget, total):
            image, reason = next(reversed(rejected.items()))
            raise UserError(
                f"{len(rejected)} of {total} images are unreadable, more than "
                f"data.corrupt_budget={budget:g} allows; the last one: "
                f"{os.path.join(shard.folder, image)} ({reason}); repair or remove it, or raise "
                "--config.data.corrupt_budget"
            )
        if time.monotonic() > logged + _LOG_SECONDS:
            logging.info("%d of %d images", done, total)
            logged = time.monotonic()
    for split, part in shards.items():
        if all(notes[shard.path]["bytes"] == 0 for shard in part):
            raise UserError(f"none of the {split} images is readable; repair some")
    return notes


def _each(shards, processes):
    """Yields (shard, note) of each, as they are finished."""
    if processes == 1 or len(shards) < 2:
        yield from ((shard, write_shard(shard)) for shard in shards)
        return
    spawning = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    stop = spawning.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(shards)), spawning, _start_worker, (stop,)
    )
    try:
        futures = {pool.submit(_work, shard): shard for shard in shards}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            "a process that encodes images was killed, perhaps for want of memory; give the same "
            "command again, with fewer --processes"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_stop = None


def _start_worker(stop):
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    tf.config.set_visible_devices([], "GPU")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """Ends this process when its parent is killed: another prepare may be writing by then."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work(shard):
    try:
        return write_shard(shard, _stop.is_set)
    except KeyboardInterrupt:
        return None  # nobody asks any more
