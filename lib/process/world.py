"""Who a process is among how many, and what it computes with."""

import socket
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch

from lib.process import precision
from lib.process.signals import StopFlag


@dataclass(frozen=True)
class World:
    """Who this process is among how many, what it computes with, and whether somebody asked it to stop."""

    rank: int
    size: int
    device: torch.device
    backend: str
    threads: int
    stop: StopFlag
    precision: str = "fp32"
    """fp32 or bf16; settled when the model is known."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which forward passes run."""
        return precision.autocast(self.precision, self.device)

    def settled(self, precision: str, threads: int | None = None) -> "World":
        """The same world, computing in this number format and with as many threads (those a run began
        with)."""
        if threads is not None and threads != self.threads:
            torch.set_num_threads(threads)
        return replace(self, precision=precision, threads=threads or self.threads)

    def __str__(self) -> str:
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else socket.gethostname()
        ranks = f"{self.size} rank{'s' if self.size > 1 else ''}"
        return f"{ranks} on {self.device.type} ({name}), {self.backend}, {self.threads} threads each"
