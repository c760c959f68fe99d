"""How far a run is: lines in a file, a bar on a terminal."""

import logging
import sys
import time


class ProgressLog:
    """Reports the log points of a run.

    Args:
      steps: Number of steps of the whole run.
      step: Where the run stands.
      metrics: Names of the metrics to show beside the loss.
    """

    def __init__(self, steps: int, step: int, metrics: list):
        self._steps, self._metrics = steps, metrics
        self._bar = self._redirect = None
        if sys.stdout.isatty():
            from tqdm import tqdm
            from tqdm.contrib.logging import logging_redirect_tqdm

            self._redirect = logging_redirect_tqdm()  # other lines go above the bar
            self._redirect.__enter__()
            self._bar = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True)

    def advance(self, step: int) -> None:
        """Notes that `step` is done."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def report(self, point: dict, steps_per_second: float) -> None:
        """Shows a log point, see `TrainingCallback`."""
        step = point["step"]
        shown = [f"loss {point['loss']:.4f}"]
        shown += [f"{name.replace('_', ' ')} {point[name]:.3f}" for name in self._metrics]
        if self._bar is not None:
            rate = f"{point['images_per_second']:.0f} images/s"
            self._bar.set_postfix_str(", ".join([*shown, rate]))
            return
        left = (self._steps - step) / steps_per_second
        clock = time.strftime("%H:%M:%S", time.gmtime(left % 86_400))
        logging.info(
            "step %d/%d  %s  lr %.3g  %.2f steps/s  %.0f images/s  %dd %s left",
            step,
            self._steps,
            "  ".join(shown),
            point["learning_rate"],
            steps_per_second,
            point["images_per_second"],
            left // 86_400,
            clock,
        )

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
            self._redirect.__exit__(None, None, None)
            self._bar = None
