"""Where the seconds between the command and the first step go."""

import logging
import os
import time


class StartUp:
    """Divides the time up to the first step into parts, one after the other.

    Args:
      began: When the command began, in seconds since the epoch; None for now.

    Attributes:
      parts: {name: seconds}, in the order of time.
    """

    def __init__(self, began: float | None = None):
        self._end = time.time() if began is None else began
        self.parts = {}

    def end(self, part: str) -> None:
        """Notes that `part`, or a further piece of it, ends now, and the next one begins."""
        now = time.time()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._end
        self._end = now

    def report(self) -> None:
        """Logs the parts and their sum in one line."""
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.parts.items())
        logging.info("first step done after %.1f s: %s", sum(self.parts.values()), parts)


def process_start() -> float:
    """When this process began, in seconds since the epoch; now where only Linux could tell."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        age = 0.0
    return time.time() - age
