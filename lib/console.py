"""What people see. A console that goes away (a closed terminal, a broken pipe) never ends a run."""

import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class Steady:
    """A text stream that goes on when what it writes to is gone."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError:
            self._silence()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            self._silence()

    def _silence(self) -> None:
        """Let what is written vanish, also what Python still holds of it: it would fail again at the exit."""
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def speak(text: str, stream: TextIO | None = None) -> None:
    """Print a line, to stdout if nothing else is said."""
    print(text, file=Steady(stream or sys.stdout), flush=True)
