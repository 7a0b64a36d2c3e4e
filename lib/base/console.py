"""What people see. A console that goes away (a closed terminal, a broken pipe) never ends a run."""

import dataclasses
import json
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path
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
    """Print a line, to stdout if nothing else is said; on a terminal broken between words."""
    stream = stream or sys.stdout
    if stream.isatty():
        text = in_columns(text, shutil.get_terminal_size().columns - 1)
    print(text, file=Steady(stream), flush=True)


def speak_json(value: Any) -> None:
    """One JSON value on stdout, for programs; what is no finite number is null."""
    speak(json.dumps(_plain(value), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


@contextmanager
def words_aside(apart: bool) -> Iterator[None]:
    """While this holds, what is said goes to stderr if it is to stand `apart` from JSON on stdout."""
    with redirect_stdout(sys.stderr) if apart else nullcontext():
        yield


def in_columns(text: str, width: int) -> str:
    """Lines of at most `width` letters where words are no longer, broken ones going on two letters further
    in."""

    def broken(line: str) -> list[str]:
        if len(line) <= width:
            return [line]
        indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        # a path or a flag is typed again: never broken
        return textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            expand_tabs=False,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        )

    return "\n".join(part for line in text.split("\n") for part in broken(line))


class Meter:
    """How far a long job is: a bar on a terminal, elsewhere a line, at most one in `every_s` seconds."""

    def __init__(
        self, total: int | None, what: str, done: int = 0, every_s: float = 0.0, shown: bool = True
    ) -> None:
        """`done` of `total` (None: nobody knows) things called `what`; `shown` on one of several ranks."""
        self.total, self.what, self.done, self.every_s, self.shown = total, what, done, every_s, shown
        self._begun_at, self._begun_s = done, time.monotonic()
        self._spoke_s = self._begun_s
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                file=Steady(sys.stderr),
                total=total,
                initial=done,
                unit=f" {what}",
                dynamic_ncols=True,
                leave=False,
            )

    def step(self, done: int) -> None:
        """About so many are done by now."""
        done = min(done, self.total or done)
        new, self.done = done - self.done, done
        if self._bar is not None:
            self._bar.update(new)
        elif self.shown and time.monotonic() - self._spoke_s >= self.every_s:
            self._spoke_s = time.monotonic()
            speak(self._line(self._spoke_s - self._begun_s))

    def _line(self, seconds: float) -> str:
        rate = (self.done - self._begun_at) / max(seconds, 1e-9)
        if self.total is None:
            return f"{self.done} {self.what}, {rate:.0f}/s"
        left_s = (self.total - self.done) / max(rate, 1e-9)
        return f"{self.done} of {self.total} {self.what}, {rate:.0f}/s, {left_s:.0f} s left"

    def speak(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.clear()  # tqdm's own write clears nothing here: it does not know what Steady writes to
        speak(text)
        if self._bar is not None:
            self._bar.refresh()

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """The bar goes; what was spoken stays."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
