"""The commands of one host, in their order: `.pod/queue.json`, read and changed under a lock by whoever
starts something and by the supervisor, which holds a lock of its own as long as it lives."""

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lib.base.files import Lock, read_mapping, write_json
from lib.launching.pods.programs import born

State = Literal["waiting", "running", "restarting", "done", "failed", "stopped"]
Phase = Literal["idle", "running", "stopping", "stopped"]
FOLDER = ".pod"
NAMED_SOON = 250  # looks, in 5 s


@dataclass(frozen=True)
class Asked:
    """A command as it was typed, and how it is to be run."""

    words: list[str]
    gpus: int | None = None
    """None: all of them, alone."""
    restarts: int = 10
    wait_s: float = 10.0
    """Before the first restart; twice as long before each further one."""

    @property
    def command(self) -> str:
        return shlex.join(self.words)


@dataclass(frozen=True)
class Entry:
    """One command of the queue and how it stands."""

    number: int
    asked: Asked
    state: State = "waiting"
    reason: str = ""
    exit_code: int | None = None
    attempts: int = 0
    run: str | None = None
    """The folder of its newest run."""
    pid: int | None = None
    born: str | None = None
    """When its process began, in the kernel's words: a pid alone may be another's by now."""
    devices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Contents:
    """queue.json"""

    phase: Phase = "idle"
    entries: list[Entry] = field(default_factory=list)

    def with_entry(self, entry: Entry) -> "Contents":
        others = [entry if one.number == entry.number else one for one in self.entries]
        return replace(self, entries=others)

    def queued(self, asked: Asked, has_record: bool) -> tuple["Contents", Entry, bool]:
        """With this command at its end, or where it stands already; its entry, and whether it is to begin
        (again). One that is done stays so, unless it `has_record` of its own, which is asked at its turn."""
        there = next((one for one in self.entries if one.asked.words == asked.words), None)
        if there is None:
            number = max((one.number for one in self.entries), default=0) + 1
            entry = Entry(number, asked)
            return replace(self, entries=[*self.entries, entry]), entry, True
        if there.state in ("waiting", "running", "restarting") or (there.state == "done" and not has_record):
            return self, there, False
        entry = replace(there, asked=asked, state="waiting", reason="", attempts=0, run=None)
        return self.with_entry(entry), entry, True

    def gone_on(self) -> "Contents":
        """What somebody stopped waits again, to go on with its run."""
        entries = [
            replace(one, state="waiting", reason="", attempts=0) if one.state == "stopped" else one
            for one in self.entries
        ]
        return replace(self, entries=entries)


class Queue:
    """The files of a queue."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / FOLDER
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.logs = self.folder / "logs"
        self.logs.mkdir(exist_ok=True)
        self.secrets = self.folder / "secrets.json"
        self._file, self._alive = self.folder / "queue.json", self.folder / "supervisor.lock"

    def log(self, number: int) -> Path:
        return self.logs / f"{number:04d}.log"

    def read(self) -> Contents:
        """Raises ValueError when the file is damaged."""
        if not self._file.exists():
            return Contents()
        tree = read_mapping(self._file)
        return Contents(tree["phase"], [_entry(one) for one in tree["entries"]])

    def write(self, contents: Contents) -> None:
        write_json(self._file, asdict(contents))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes the queue meanwhile."""
        with Lock(self.folder / "queue.lock", wait=True):
            yield

    def supervise(self) -> Lock:
        """Be the one supervisor, as long as this lock is held."""
        lock = Lock(self._alive, wait=True)  # who asks whether there is one holds it for a moment
        self._alive.write_text(f"{os.getpid()} {born(os.getpid())}")
        return lock

    def supervisor(self) -> int | None:
        """The supervisor's process; None when there is none. Raises ValueError for one that gives no name."""
        if not self._alive.exists():
            return None
        for _ in range(NAMED_SOON):
            try:
                Lock(self._alive, shared=True).release()
                return None
            except BlockingIOError:
                pid, _, since = self._alive.read_text().partition(" ")
            # at its very beginning the file still names the one before, whose number may be a stranger's now
            if pid and str(born(int(pid))) == since:
                return int(pid)
            time.sleep(0.02)
        raise ValueError(f"{self._alive} is held by a process that does not say who it is; look with fuser")


def _entry(tree: dict[str, Any]) -> Entry:
    return Entry(**{**tree, "asked": Asked(**tree["asked"])})
