"""What a worker owes to its launcher and to the terminal: it ends when its launcher is gone, in every phase,
and while it waits for other workers it says so and can be stopped.

Python hears a signal between two of its steps, and a wait for other workers is one step: a thread hears it.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.base.console import speak
from lib.base.exits import CRASHED, STOPPED, end_now
from lib.process.signals import StopFlag

STARTED_BY = "STARTED_BY_PROCESS"  # a variable of our launcher: its process
EVERY_S = 0.5
LONELY_S = 15.0  # the others of one machine are there within seconds
GRACE_S = 600.0  # to save what there is when the launcher is gone


class Joined:
    """Whether the process group stands."""

    def __init__(self) -> None:
        self.event = threading.Event()

    @contextmanager
    def waiting(self, who: str) -> Iterator[None]:
        """While this process waits for the others. `who`: it, and for whom and where it waits."""
        hear, ring = os.pipe()
        os.set_blocking(ring, False)
        before = signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._wait, args=(hear, who), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.event.set()
            signal.set_wakeup_fd(before)
            thread.join()
            os.close(hear)
            os.close(ring)

    def _wait(self, hear: int, who: str) -> None:
        begun, said = time.monotonic(), False
        while not self.event.is_set():
            if select.select([hear], [], [], EVERY_S)[0]:
                number = os.read(hear, 1)[0]
                if not self.event.wait(2 * EVERY_S):  # whoever is there by then hears it in the usual way
                    speak(f"stopped: {signal.Signals(number).name} while {who}", sys.stderr)
                    end_now(STOPPED)
            if not said and time.monotonic() - begun > LONELY_S:
                speak(f"{who}; Ctrl-C ends it", sys.stderr)
                said = True


def watch(stop: StopFlag, joined: Joined) -> None:
    """From now on this process ends when the one that started it does: at once before the group stands, else
    with all that a stop request saves."""
    parent = _launcher()
    threading.Thread(target=_watch, args=(parent, stop, joined), daemon=True).start()


def _launcher() -> int | None:
    """None: gone already."""
    named, parent = int(os.environ.get(STARTED_BY, 0)), os.getppid()
    return parent if named in (0, parent) or _lives(named) else None


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _watch(parent: int | None, stop: StopFlag, joined: Joined) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY_S)
    stop.ask("the process that started the workers is gone")
    if joined.event.is_set():
        time.sleep(GRACE_S)
    speak("a worker ends: the process that started it is gone", sys.stderr)
    end_now(CRASHED)
