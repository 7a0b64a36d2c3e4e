"""Since when this process works on a run: a machine is paid for before the first line of Python."""

import os
import time
from pathlib import Path

VARIABLE = "RUN_BEGAN_AT"  # for workers: when the process began that started them, seconds since 1970
_IMPORTED_S = time.time()
_counted_s = 0.0


def process_s() -> float:
    """When this process began, in seconds since 1970."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        running_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # not Linux: a second or so of imports is lost
        return _IMPORTED_S
    return time.time() - running_s


def pass_on() -> None:
    """Let workers that this process starts count from its beginning. Not for a series of runs: each would."""
    os.environ[VARIABLE] = repr(process_s())


def since_s() -> float:
    """Since when the run that begins now is to be counted: a run before it in this process has had its
    time."""
    return max(_counted_s, float(os.environ.get(VARIABLE) or process_s()))


def count_to(moment: float) -> None:
    """A run of this process has ended."""
    global _counted_s
    _counted_s = moment
