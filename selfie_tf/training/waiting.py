"""How long training waits for its images."""

import logging
import time

import tensorflow as tf
import tf_keras as keras

from selfie_tf.distribution import strategy as distribution

# The first steps are left out: tf.data fills its buffers, and TensorFlow plans its memory.
_FIRST_STEPS, _STEPS = 10, 100
_LIMIT = 1 / 3  # of the time


class InputClock:
    """Measures once which part of their time training steps wait for the next batch, and warns.

    Keras takes the batch inside its compiled step, out of sight. Here it is taken before the step,
    so that the wait can be timed. (`tf.timestamp` in the step would fail: op determinism is on.)

    Args:
      metric: A metric of the model. Reading it waits for devices that work ahead of Python, without
        which the input would seem to keep them waiting; None where none does.
    """

    def __init__(self, metric=None):
        self._metric = metric
        self._began = self._waited = 0.0  # the current step's
        self._all_waited = self._all = 0.0  # those of all steps measured

    def time(self, train_function):
        """Makes a train function that is timed.

        Args:
          train_function: One of a single step, see `keras.Model.make_train_function`.
        """
        plain = train_function.python_function
        step = tf.function(lambda batch: plain(iter([batch])), reduce_retracing=True)

        def timed(iterator):
            self._began = time.perf_counter()
            batch = next(iterator)
            self._waited = time.perf_counter() - self._began
            return step(batch)

        return timed

    def end(self, count: int) -> None:
        """Notes that a step has ended.

        Args:
          count: How many steps there have been.
        """
        if not _FIRST_STEPS <= count <= _FIRST_STEPS + _STEPS:
            return
        if self._metric is not None:
            self._metric.result().numpy()
        if count == _FIRST_STEPS:
            return
        self._all += time.perf_counter() - self._began
        self._all_waited += self._waited
        if count == _FIRST_STEPS + _STEPS and self._all_waited > _LIMIT * self._all:
            logging.warning(
                "the input is slow: training waits for images %.0f %% of the time, %.3g s of %.3g "
                "s per step; selfie-tf benchmark with this config measures each stage of the input",
                100 * self._all_waited / self._all,
                self._all_waited / _STEPS,
                self._all / _STEPS,
            )


def input_clock(run, model: keras.Model) -> InputClock | None:
    """Makes a clock of the steps that `fit` will take with a compiled model.

    None where several steps are taken at once, as on TPUs, and with several workers.
    """
    several_workers = distribution.num_workers(run.strategy) > 1
    if several_workers or distribution.is_tpu(run.strategy) or run.steps_per_execution > 1:
        return None
    clock = InputClock(model.metrics[0] if tf.config.list_logical_devices("GPU") else None)
    model.train_function = clock.time(model.make_train_function())
    return clock
