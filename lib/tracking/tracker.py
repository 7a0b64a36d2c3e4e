"""What a run says: the console, train.log, metrics.jsonl, and a process beside it that follows for wandb.

Rank 0 speaks; every other rank writes to a log file of its own. Losing the log (a full disk) costs one
warning, never the run.
"""

import json
import math
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lib.base.console import Meter, speak
from lib.base.files import read_json, read_lines, write_lines
from lib.base.moments import amount
from lib.config import TrackingConfig
from lib.process.world import World
from lib.tracking import follow_wandb
from lib.training.memory import peak_gib

COLUMNS = {"step": 11, "epoch": 6, "loss": 8, "lr": 8, "grad": 8, "rows/s": 7, "tok/s": 7, "pad": 5, "mfu": 6}
COLUMNS |= {"GiB": 6, "left": 8}  # 80 in all: a terminal would break longer lines
PRICED = {name: width for name, width in COLUMNS.items() if name not in ("epoch", "tok/s")}
PRICED |= {"spent/whole": 13}  # in their place


def clock(seconds: float) -> str:
    """3725 -> '1:02:05'"""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def _money(values: dict[str, Any]) -> dict[str, str]:
    """0.02/>0.31 while only steps were measured, 0.05/0.35 with evaluations too; nothing without a price."""
    if "spent" not in values:
        return {}
    whole = values["expected"] or values["at_least"]
    more = "" if values["expected"] else ">"
    return {
        "spent/whole": f"{amount(values['spent'])}/" + ("-" if whole is None else f"{more}{amount(whole)}")
    }


class Tracker:
    """One a process. `say` is for people, `record` for programs."""

    def __init__(self, folder: Path, config: TrackingConfig, world: World) -> None:
        self.folder, self.config, self.world = folder, config, world
        self._log = self._open(folder / ("train.log" if world.is_main else f"train.rank{world.rank}.log"))
        self._metrics = self._open(folder / "metrics.jsonl") if world.is_main else None
        self._meter: Meter | None = None
        self._warned = False
        self._follower: subprocess.Popen[bytes] | None = None
        self._said_where = False
        self._since: list[dict[str, Any]] = []
        self._columns = COLUMNS

    @staticmethod
    def _open(path: Path) -> IO[str] | None:
        try:
            return path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as error:
            speak(f"WARNING: {path} cannot be written ({error.strerror}); the run goes on without it")
            return None

    def say(self, text: str) -> None:
        """A line for people: on rank 0's console, and in this rank's log file."""
        if self.world.is_main:
            (self._meter.speak if self._meter else speak)(text)
        self.log(text)

    def say_alone(self, text: str) -> None:
        """On the console, of another rank than 0, whose end rank 0 will see but not the reason for it."""
        if not self.world.is_main:
            speak(f"rank {self.world.rank}: {text}", sys.stderr)

    def log(self, text: str) -> None:
        """A line in this rank's log file only."""
        self._write(self._log, text + "\n")

    def record(self, kind: str, **values: Any) -> None:
        """A line for programs, in metrics.jsonl."""
        if self.world.is_main:
            self._write(self._metrics, json.dumps({"kind": kind, "time": time.time(), **values}) + "\n")

    def _write(self, file: IO[str] | None, text: str) -> None:
        try:
            if file is not None:
                file.write(text)
        except OSError as error:
            if not self._warned:
                self._warned = True
                speak(f"WARNING: the log cannot be written ({error.strerror}); the run goes on")

    def begin(self, first_step: int, num_steps: int, priced: bool = False) -> None:
        """Start the columns (`priced`: with money); records of steps that will be computed again (after a
        kill) are dropped."""
        self.num_steps, self._since, self._columns = num_steps, [], PRICED if priced else COLUMNS
        if not self.world.is_main:
            return
        path = self.folder / "metrics.jsonl"
        if first_step > 1:
            write_lines(path, [line for line in read_lines(path) if line.get("step", 0) < first_step])
        self._metrics = self._open(path)
        if self.config.wandb != "off" and self._follower is None:
            self._follow()
        # its bar alone: the lines are the columns below
        self._meter = Meter(num_steps, "steps", first_step - 1, every_s=math.inf)
        self._say_cells({name: name for name in COLUMNS | PRICED})

    def _say_cells(self, cells: dict[str, str]) -> None:
        self.say("".join(cells[name].rjust(width) for name, width in self._columns.items()))

    def step(self, values: dict[str, Any]) -> bool:
        """After each optimizer step: record it, and now and then print a line over the steps since the last
        one. Was it time for a line?"""
        self.record("train", **values)
        self._say_where()
        self._since.append(values)
        step = values["step"]
        if self._meter is not None:
            self._meter.step(step)
        if step % self.config.log_every and step not in (1, self.num_steps):
            return False
        seconds = sum(item["seconds"] for item in self._since)
        total = {key: sum(item[key] for item in self._since) for key in ("rows", "tokens", "computed")}
        cells = {
            "step": f"{step}/{self.num_steps}",
            "epoch": f"{values['epoch']:.2f}",
            "loss": f"{sum(item['loss'] for item in self._since) / len(self._since):.4f}",
            "lr": f"{values['lr']:.1e}",
            "grad": f"{values['grad_norm']:.3f}",
            "rows/s": f"{total['rows'] / seconds:.1f}",
            "tok/s": f"{total['tokens'] / seconds:.0f}",
            "pad": f"{1 - total['tokens'] / total['computed']:.0%}",
            "mfu": f"{sum(item['mfu'] * item['seconds'] for item in self._since) / seconds:.1%}",
            "GiB": f"{peak_gib(self.world.device):.2f}",
            "left": clock((self.num_steps - step) * seconds / len(self._since)),
        }
        self._say_cells(cells | _money(values))
        self._since = []
        return True

    def training_since_validation(self) -> dict[str, float]:
        """Mean loss and accuracy over the targets trained on since the last validation, dropout and all; also
        over a stop. Empty on other ranks than 0."""
        if self._metrics is None:
            return {}
        steps: list[dict[str, Any]] = []
        for line in read_lines(self.folder / "metrics.jsonl"):
            if line["kind"] == "validation":
                steps = []
            elif line["kind"] == "train":
                steps.append(line)
        targets = sum(step["targets"] for step in steps)
        return {
            name: sum(step[name] * step["targets"] for step in steps) / targets
            for name in ("loss", "accuracy")
            if targets
        }

    def _follow(self) -> None:
        """wandb in a process of its own: its start can block for 90 s, and it may never be reachable."""
        (self.folder / follow_wandb.WHERE).unlink(missing_ok=True)  # of before a stop
        with (self.folder / "wandb.log").open("ab") as log:
            self._follower = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "lib.tracking.follow_wandb",
                    str(self.folder.resolve()),
                    self.config.wandb,
                ],
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _say_where(self) -> None:
        """Once, when the follower knows it."""
        where = self.folder / follow_wandb.WHERE
        if self._follower is None or self._said_where or not where.is_file():
            return
        self._said_where = True
        place = read_json(where)
        self.say(f"wandb: {place['url'] or 'offline; wandb sync ' + place['folder'] + ' sends it'}")

    def say_where(self) -> None:
        """At the end of a run: where it is in wandb, if nobody heard it yet."""
        self._say_where()
        if self._follower is not None and not self._said_where:
            self.say(f"wandb: still on its way; {self.folder / 'wandb.log'} says how it goes")

    def close(self) -> None:
        if self._meter is not None:
            self._meter.close()
            self._meter = None
        for file in (self._log, self._metrics):
            with suppress(OSError):  # a full disk: lines that could not be written were warned of
                if file is not None:
                    file.close()
        self._log = self._metrics = None
