"""What a run says of its start, and of an input that keeps it waiting."""

import os
import time

import pytest
import tensorflow as tf
import tf_keras as keras

from selfie_tf.training import startup, waiting
from selfie_tf.training.startup import StartUp


@pytest.fixture
def clock(monkeypatch):
    """Stops the clock, and moves it on."""
    now = [100.0]
    monkeypatch.setattr(startup.time, "time", lambda: now[0])
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: now[0])

    def sleep(seconds):
        now[0] += seconds

    return sleep


def test_the_parts_of_a_start_add_up(clock, caplog):
    caplog.set_level("INFO")
    parts = StartUp(began=93.75)
    parts.end("imports")
    clock(1.125)
    parts.end("pictures")
    clock(0.5)
    parts.end("pictures")
    clock(5.875)
    parts.end("first step")
    assert parts.parts == {"imports": 6.25, "pictures": 1.625, "first step": 5.875}
    parts.report()
    line = "first step done after 13.8 s: imports 6.2, pictures 1.6, first step 5.9"
    assert caplog.messages == [line]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only Linux tells")
def test_a_process_knows_when_it_began():
    began = os.stat("/proc/self").st_ctime  # made when it was first looked at
    assert startup.process_start() <= began + 0.1 < time.time() + 0.1


class Slow:
    """An iterator over batches, each of which takes some time."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.count = clock, seconds, 0

    def __next__(self):
        self.clock(self.seconds)
        self.count += 1
        return {"x": tf.constant([self.count])}


def fit(clock, wait, step, count=200, metric=None):
    """Takes steps under an `InputClock`; returns what they gave."""
    timer = waiting.InputClock(metric)

    @tf.function
    def train_function(iterator):
        return next(iterator)["x"][0] * 10

    timed, batches, found = timer.time(train_function), Slow(clock, wait), []
    for i in range(count):
        found.append(int(timed(batches)))
        clock(step)
        timer.end(i + 1)
    return found


def test_a_slow_input_is_named_once_with_its_share(clock, caplog):
    assert fit(clock, wait=0.75, step=0.25) == [10 * (i + 1) for i in range(200)]
    (line,) = caplog.messages
    assert "waits for images 75 % of the time, 0.75 s of 1 s per step" in line
    assert "selfie-tf benchmark" in line


def test_a_fast_input_is_not(clock, caplog):
    fit(clock, wait=0.25, step=0.75)
    assert not caplog.messages


def test_nothing_is_said_of_a_short_run(clock, caplog):
    fit(clock, wait=0.75, step=0.25, count=109)
    assert not caplog.messages


def test_the_time_of_a_device_that_works_ahead_is_the_steps(clock, caplog):
    """Where the step returns at once, its metric is waited for."""

    class Metric(keras.metrics.Mean):
        def result(self):
            clock(0.75)
            return super().result()

    fit(clock, wait=0.25, step=0.0, metric=Metric())
    assert not caplog.messages
