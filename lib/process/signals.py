"""A signal only sets a flag; loops read it between two pieces of work, after all ranks have agreed."""

import math
import os
import signal
import time
from contextlib import suppress
from types import FrameType

from lib.base import moments, ranks
from lib.base.exits import STOPPED, StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAME_KEY_PRESS_S = 1.0  # a terminal and a launcher both pass on one Ctrl-C: not yet an impatient second one


class StopFlag:
    """Has somebody asked this process to stop? A `deaf` one leaves the signals as they are: for work that
    asks nobody between its pieces and may simply end."""

    def __init__(self, deaf: bool = False) -> None:
        self.reason: str | None = None
        self.timed = False
        """Is the reason a moment that was named to `ask_at`?"""
        self._at_s, self._at_reason = math.inf, ""
        self._first_s = 0.0
        if not deaf:
            self.listen()

    def listen(self) -> None:
        """Hear the signals; again after torch's launcher, which listens itself and does not give them
        back."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    @property
    def requested(self) -> bool:
        if self.reason is None and self._at_s < math.inf and moments.now_s() >= self._at_s:
            self.reason, self.timed = self._at_reason, True
            _say(self.reason)
        return self.reason is not None

    def ask_at(self, moment_s: float, reason: str) -> None:
        """Ask for a stop at a moment (seconds since 1970), which is looked at with the flag; instead of any
        moment before."""
        self._at_s, self._at_reason = moment_s, reason

    def ask(self, reason: str) -> None:
        """Ask for a stop without a signal."""
        self.reason = self.reason or reason

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.reason is None:
            self.reason, self._first_s = signal.Signals(number).name, time.monotonic()
            _say(self.reason)
        elif number == signal.SIGINT and time.monotonic() - self._first_s > SAME_KEY_PRESS_S:
            os._exit(STOPPED)  # the user insists: the last checkpoint is whole, nothing else needs saving

    def raise_if_requested(self) -> None:
        """Raises StoppedError; for work of one process alone, which training is not. What long work calls
        between two of its pieces."""
        if self.requested:
            raise StoppedError(f"{self.reason}; run the same command again")


def _say(reason: str) -> None:
    if os.environ.get(ranks.NAMES[0], "0") == "0":
        with suppress(OSError):  # not print: a signal may come in the middle of one
            os.write(2, f"\n{reason}: stopping as soon as what is in hand is done\n".encode())
