"""The supervisor's tmux session: one a project folder."""

import hashlib
import os
import shlex
import subprocess
import sys
import time
from typing import Any

from lib.base.source_code import ROOT
from lib.launching.pods import tokens
from lib.launching.pods.entries import Queue

PATIENCE_S = 60.0  # for an interpreter to start on a busy machine
SET_UP = "[ ! -f .env.sh ] || . ./.env.sh"


def name() -> str:
    """The same for the same folder."""
    return f"pod-{hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:8]}"


def tmux(*words: str) -> subprocess.CompletedProcess[str]:
    """Raises ValueError where there is no tmux. Its server would keep a token for every later session."""
    environment = {name: value for name, value in os.environ.items() if name not in tokens.NAMES}
    pipes: Any = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    try:
        return subprocess.run(["tmux", *words], env=environment, **pipes)
    except FileNotFoundError:
        raise ValueError(
            "tmux is missing on this host; type: apt-get install tmux (or your package manager's)"
        ) from None


def exists() -> bool:
    return tmux("has-session", "-t", f"={name()}").returncode == 0


def start_supervisor(queue: Queue) -> None:
    """In a new session, and wait until it is there. Raises ValueError, and leaves nothing, when it does not
    come."""
    if queue.supervisor() is not None:
        return
    log = queue.folder / "supervisor.log"
    program = shlex.join([sys.executable, "-m", "lib.launching.pods.supervise"])
    # -i: a Ctrl-C is for the supervisor, which has more to say
    words = f"{SET_UP}; {program} 2>&1 | tee -ai {shlex.quote(str(log))}"
    if exists():  # of a supervisor that is ending, or that was killed
        tmux("kill-session", "-t", f"={name()}")
    done = tmux("new-session", "-d", "-s", name(), "-c", str(ROOT), "sh", "-c", words)
    if done.returncode:
        raise ValueError(f"tmux could not start a session: {done.stderr.strip()}")
    end_s = time.monotonic() + PATIENCE_S
    while queue.supervisor() is None:
        if time.monotonic() > end_s or not exists():
            tmux("kill-session", "-t", f"={name()}")
            raise ValueError(f"the supervisor did not start; {_last_line(log)}")
        time.sleep(0.05)


def _last_line(log: "os.PathLike[str]") -> str:
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return f"it said: {file.read().strip().splitlines()[-1]}"
    except (OSError, IndexError):
        return "it said nothing"
