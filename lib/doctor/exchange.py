"""An all-reduce whose answer is known, and how fast it is: one rank's part, under a time limit.

A network that is broken waits for ever, so a timer of each rank ends it and says where it was waiting.
"""

import os
import socket
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as torch_dist

from lib.base.hub import first_line
from lib.base.ranks import Ranks
from lib.doctor import interfaces
from lib.doctor.finding import FAIL, OK, Finding
from lib.doctor.order import FIRST, Fault, Order, in_bytes
from lib.process import dist

ROUNDS, ROUNDS_OF_FEW_BYTES = 5, 21
SLOW_S = 2.0  # of one exchange: larger ones would not fit into the time limit
PATTERN = 251  # numbers 1 to 251, times rank + 1: sums over up to 300 ranks are exact in float32
DIED = 7  # exit code of a rank that a test lets die


@dataclass
class Exchange:
    mine: Ranks
    order: Order
    phase: str = "the start"
    facts: dict[str, Any] = field(default_factory=dict)

    def run(self, late: Callable[[Finding], None]) -> Finding:
        """All ranks call it. `late` is given the finding when the time is over, and ends this process."""
        self.facts |= {"host": socket.gethostname(), "rank": self.mine.rank, "ranks": self.mine.size}
        self.facts |= {"backend": self._backend(), "master": interfaces.master(self.order.store)}
        self.facts |= interfaces.of_this_machine(self.order.store)
        timer = threading.Timer(self.order.limit_s, lambda: late(self._late()))
        timer.daemon = True
        timer.start()
        try:
            return self._exchange()
        except (RuntimeError, OSError) as error:  # torch's own errors of exchanges are RuntimeErrors
            return self._failed(f"{first_line(error)}, at {self.phase}")
        finally:
            timer.cancel()

    def _backend(self) -> str:
        """nccl where every rank of this machine has a GPU."""
        gpus = torch.cuda.device_count()
        if gpus and self.mine.local_size > gpus:
            raise ValueError(
                f"{self.mine.local_size} ranks but {gpus} GPUs; start at most {gpus} on this machine"
            )
        return "nccl" if gpus else "gloo"

    def _exchange(self) -> Finding:
        where = "a file of this machine" if self.order.store else self.facts["master"]
        self.phase = f"joining the other ranks at {where}"
        device = self._join()
        self.phase = "the first all-reduce (the ranks have found each other, so data takes another way)"
        self._misbehave()
        _, right = self._reduce(_pattern(FIRST, device))
        everybody = dist.gather_json({"host": self.facts["host"], "right": right})
        wrong = [rank for rank, one in enumerate(everybody) if not one["right"]]
        if wrong:
            return self._wrong(f"the sum is wrong on rank {', '.join(map(str, wrong))}")
        self.facts["hosts"] = sorted({one["host"] for one in everybody})
        self.facts["sizes"] = []
        for size in self.order.sizes:
            self.phase = f"an all-reduce of {in_bytes(size)}"
            self.facts["sizes"].append(self._measure(size, device))
            if self.facts["sizes"][-1]["median_s"] > SLOW_S:
                break
        if wrong_sizes := [in_bytes(one["bytes"]) for one in self.facts["sizes"] if not one["right"]]:
            return self._wrong(f"the sum of {wrong_sizes[0]} is wrong")
        dist.leave()
        return Finding("network", OK, self._words() + ": the sum is right", facts=self.facts)

    def _join(self) -> torch.device:
        """torch's own time limit only has to be longer than the timer's, which says more."""
        device = torch.device("cpu")
        if self.facts["backend"] == "nccl":
            device = torch.device("cuda", self.mine.local_rank)
            torch.cuda.set_device(device)
        words: dict[str, Any] = {"timeout": timedelta(seconds=3 * self.order.limit_s)}
        if self.order.store is not None:
            store = torch_dist.FileStore(self.order.store, self.mine.size)
            words |= {"store": store, "rank": self.mine.rank, "world_size": self.mine.size}
        torch_dist.init_process_group(self.facts["backend"], **words)
        return device

    def _reduce(self, pattern: torch.Tensor) -> tuple[float, bool]:
        """Seconds of one all-reduce of rank + 1 times the pattern, and whether its sum is right here."""
        ranks, numbers = self.mine.size, pattern * (self.mine.rank + 1)
        _wait_for(pattern.device)
        begun_s = time.perf_counter()
        torch_dist.all_reduce(numbers)
        _wait_for(pattern.device)
        took_s = time.perf_counter() - begun_s
        if self._at_fault("wrong"):
            numbers[-1] += 1
        return took_s, torch.equal(numbers, pattern * (ranks * (ranks + 1) / 2))

    def _measure(self, size: int, device: torch.device) -> dict[str, Any]:
        """The median of several, of the slowest rank."""
        rounds, pattern = [], _pattern(size, device)
        for _ in range(ROUNDS_OF_FEW_BYTES if size < 1024 else ROUNDS):
            took = dist.gather_floats([float(number) for number in self._reduce(pattern)])
            rounds.append((max(row[0] for row in took), all(row[1] for row in took)))
            if rounds[-1][0] > SLOW_S:
                break
        median_s = statistics.median(took_s for took_s, _ in rounds)
        # each rank sends, and receives, this share of the bytes: https://github.com/NVIDIA/nccl-tests
        share = 2 * (self.mine.size - 1) / self.mine.size
        right = all(right for _, right in rounds)
        return {"bytes": size, "median_s": median_s, "bytes_per_s": share * size / median_s, "right": right}

    def _at_fault(self, fault: Fault) -> bool:
        return self.order.fault == fault and self.mine.is_last

    def _misbehave(self) -> None:
        """As a test asks for."""
        if self._at_fault("hang"):
            time.sleep(3600)
        if self._at_fault("die"):
            os._exit(DIED)

    def _words(self) -> str:
        hosts = self.facts["hosts"]
        several = f"{self.mine.size} rank{'s' if self.mine.size > 1 else ''}"
        return f"{self.facts['backend']}, {several} on {', '.join(hosts)}, {interfaces.in_words(self.facts)}"

    def _late(self) -> Finding:
        self.facts["late"] = True
        return self._failed(f"no answer within {self.order.limit_s:g} s, at {self.phase}")

    def _wrong(self, what: str) -> Finding:
        return replace(self._failed(what), advice=interfaces.CHANGED)

    def _failed(self, what: str) -> Finding:
        facts = self.facts
        who = f"rank {self.mine.rank} of {self.mine.size} on {facts['host']} ({facts['backend']}, "
        advice = interfaces.advice(facts)
        return Finding("network", FAIL, f"{who}{interfaces.in_words(facts)}): {what}", advice, facts)


def rank(rank: int, size: int, order: dict[str, Any]) -> Finding:
    """A rank that this program has started itself. Where a machine has one GPU, the first rank is alone."""
    from lib.doctor.worker import leave

    mine = Ranks(rank, size, rank, size).at_most(torch.cuda.device_count() or size)
    if mine is None:
        return Finding("network", OK, "not needed: one GPU has one rank", facts={"left_out": True})
    return Exchange(mine, Order(**order)).run(leave)


def _pattern(size: int, device: torch.device) -> torch.Tensor:
    """So many bytes of numbers from 1 to 251."""
    return torch.arange(size // 4, dtype=torch.int32, device=device).remainder_(PATTERN).add_(1).float()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
