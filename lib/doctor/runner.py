"""Checks side by side, each under its own time limit.

A check is made in a thread; one that calls into torch or a driver is made in a process of its own as well,
which can be killed, and whose crash is a finding instead of an end.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lib.base.source_code import ROOT
from lib.doctor.finding import FAIL, Finding, caught

MARK = "FINDING "  # libraries print to stdout too
SIDE_BY_SIDE = threading.Semaphore(2)  # processes that import torch: more would only wait for two cores


@dataclass(frozen=True)
class Check:
    name: str
    look: Callable[[], Finding]
    limit_s: float
    stuck: str
    """What to do when there is no answer by then."""


class Running:
    """A check at work. Its thread ends with this program, whatever it waits for."""

    def __init__(self, check: Check) -> None:
        self.check, self._found, self._begun_s = check, list[Finding](), time.monotonic()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        self._found.append(caught(self.check.name, self.check.look))

    def finding(self) -> Finding:
        """Waits for it, but not beyond its limit."""
        check = self.check
        self._thread.join(max(0.0, self._begun_s + check.limit_s - time.monotonic()))
        if self._found:
            return self._found[0]
        return Finding(check.name, FAIL, f"no answer within {check.limit_s:g} s", check.stuck)


def run(checks: Sequence[Check]) -> Iterator[Finding]:
    """All of them begin at once; what they find comes in their order."""
    for running in [Running(check) for check in checks]:
        yield running.finding()


def start(what: str, words: dict[str, Any], limit_s: float) -> subprocess.Popen[str]:
    """A process of its own that makes one check: a function of a module of this package, by its name
    ("devices.bf16"), with these words."""
    # -P: a folder `torch` where somebody stands is not taken for torch
    command = [sys.executable, "-P", "-m", "lib.doctor.worker", what, json.dumps(words), str(limit_s)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)


def kill(process: subprocess.Popen[str]) -> None:
    """It, and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def apart(name: str, what: str, limit_s: float, stuck: str) -> Finding:
    """A check in a process of its own."""
    with SIDE_BY_SIDE:
        process = start(what, {}, limit_s)
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return Finding(name, FAIL, f"no answer within {limit_s:g} s", stuck)
        finally:
            kill(process)
    return read(out) or Finding(name, FAIL, ending(process.returncode, err), stuck)


def read(out: str) -> Finding | None:
    """The finding among what a process printed."""
    lines = [line for line in out.splitlines() if line.startswith(MARK)]
    return Finding(**json.loads(lines[-1].removeprefix(MARK))) if lines else None


def ending(code: int, err: str) -> str:
    """How a process ended that found nothing."""
    how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
    said = [line.strip() for line in err.splitlines() if line.strip()]
    return f"its process ended with {how}" + (f" ({said[-1][:200]})" if said else "")
