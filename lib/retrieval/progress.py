"""How far a long job is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from lib.console import speak


class Progress:
    """How many are done (passages, queries), of how many (None: nobody knows)."""

    def __init__(self, done: int, total: int | None, what: str = "passages") -> None:
        self.what = what
        self.begun_at, self.done, self.total, self.began_s = done, done, total, time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, unit=what, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def step(self, size: int) -> None:
        self.done += size
        if self.bar is not None:
            self.bar.update(size)
            return
        rate = (self.done - self.begun_at) / (time.monotonic() - self.began_s)
        of = f" of {self.total}" if self.total else ""
        left = f", {(self.total - self.done) / max(rate, 1e-9):.0f} s left" if self.total else ""
        speak(f"{self.done}{of} {self.what}, {rate:.0f} {self.what}/s{left}")

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
