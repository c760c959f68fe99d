"""How far a run is: lines in a file, a bar on a terminal."""

import logging
import sys
import time


class ProgressLog:
    """Reports the log points of a run.

    Args:
      steps: Number of steps of the whole run.
      step: Where the run stands.
      accuracy: Name of the accuracy metric.
    """

    def __init__(self, steps: int, step: int, accuracy: str):
        self._steps, self._accuracy = steps, accuracy
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
        name, step = self._accuracy.replace("_", " "), point["step"]
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {point['loss']:.4f}, {name} {point[self._accuracy]:.3f}, "
                f"{point['images_per_second']:.0f} images/s"
            )
            return
        left = (self._steps - step) / steps_per_second
        clock = time.strftime("%H:%M:%S", time.gmtime(left % 86_400))
        logging.info(
            "step %d/%d  loss %.4f  %s %.3f  lr %.3g  %.2f steps/s  %.0f images/s  %dd %s left",
            step,
            self._steps,
            point["loss"],
            name,
            point[self._accuracy],
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
