"""Rows a second of a training loop, whoever wrote it; and of the processor's seconds, for the clock says
little where others compute too."""

import time
from typing import Any

import torch

from lib.training.memory import peak_gib

WARM_UP_STEPS = 2  # not counted: allocators, kernels and caches settle
RATES = ("rows_per_s", "rows_per_cpu_s")


def now() -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    return time.perf_counter(), time.process_time()


def rates(rows: int, began: tuple[float, float], ended: tuple[float, float]) -> dict[str, float]:
    """Rows a second by both."""
    return {key: rows / (end - begin) for key, begin, end in zip(RATES, began, ended, strict=True)}


class Clock:
    """Rows per second over the steps after the warm-up."""

    def __init__(self, warm_up: int = WARM_UP_STEPS) -> None:
        self.warm_up, self.steps, self.rows = warm_up, 0, 0
        self.began = self.ended = now()
        if torch.cuda.is_available():  # what it took to make the model is not what training it takes
            torch.cuda.reset_peak_memory_stats()

    def tick(self, rows: int) -> None:
        """A step of `rows` rows is done."""
        self.steps += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # else a contestant would be timed by what it has asked for
        self.ended = now()
        if self.steps <= self.warm_up:
            self.began = self.ended
        else:
            self.rows += rows

    def result(self) -> dict[str, Any]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return rates(self.rows, self.began, self.ended) | {"peak_gib": peak_gib(device)}
