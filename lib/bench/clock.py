"""Rows a second of a training loop, whoever wrote it."""

import time
from typing import Any

import torch

from lib.training.memory import peak_gib

WARM_UP_STEPS = 2  # not counted: allocators, kernels and caches settle


class Clock:
    """Rows per second over the steps after the warm-up."""

    def __init__(self, warm_up: int = WARM_UP_STEPS) -> None:
        self.warm_up, self.steps, self.rows = warm_up, 0, 0
        self.began_s = self.now_s = time.perf_counter()

    def tick(self, rows: int) -> None:
        """A step of `rows` rows is done."""
        self.steps += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # else a contestant would be timed by what it has asked for
        self.now_s = time.perf_counter()
        if self.steps <= self.warm_up:
            self.began_s = self.now_s
        else:
            self.rows += rows

    def result(self) -> dict[str, Any]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return {"rows_per_s": self.rows / (self.now_s - self.began_s), "peak_gib": peak_gib(device)}
