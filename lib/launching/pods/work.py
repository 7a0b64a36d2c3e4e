"""One command of the queue at work: a process, or the wait before it begins again."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from subprocess import Popen

from lib.base.exits import CRASHED
from lib.launching.pods import marks, programs, tokens
from lib.launching.pods.entries import Entry, Queue
from lib.launching.pods.policy import Ended, Mark, again, follows, settled, wait_s


class Orphan:
    """A process whose supervisor is gone: nobody hears its exit code, but its run keeps one."""

    def __init__(self, entry: Entry) -> None:
        self.pid, self.entry = entry.pid or 0, entry

    @staticmethod
    def of(entry: Entry) -> "Orphan | None":
        """None when it is gone as well."""
        alive = entry.pid is not None and entry.born is not None and programs.born(entry.pid) == entry.born
        return Orphan(entry) if alive else None

    def poll(self) -> int | None:
        if programs.born(self.pid) == self.entry.born:
            return None
        code = marks.status(self.entry.run).get("exit_code")
        return code if isinstance(code, int) else CRASHED


@dataclass
class Work:
    """An entry and what is known of it in this process only."""

    queue: Queue
    entry: Entry
    process: Popen[bytes] | Orphan | None = None
    asked_to_stop: bool = False
    said: list[str] = field(default_factory=list)
    """The lines that came since the look before."""
    _before: Mark | None = None
    _begin_s: float = 0.0  # of the next attempt, by the monotonic clock
    _log_read: int = 0

    def begin(self) -> None:
        """Start the process; the entry has failed where it cannot be."""
        entry, log = self.entry, self.queue.log(self.entry.number)
        more = tokens.kept(self.queue.secrets)
        if entry.devices:
            more["CUDA_VISIBLE_DEVICES"] = ",".join(entry.devices)
        self._log_read = log.stat().st_size if log.exists() else 0
        try:
            words = again(entry.asked) if entry.run else entry.asked.words
            self.process = programs.begin(words, log, more)
        except OSError as error:
            self.entry = replace(entry, state="failed", reason=f"could not be started: {error}")
            return
        self.entry = replace(
            entry,
            state="running",
            reason="",
            exit_code=None,
            attempts=entry.attempts + 1,
            pid=self.process.pid,
            born=programs.born(self.process.pid),
        )

    def look(self) -> bool:
        """Begin what may begin, notice what was said and what has ended; True when the entry has changed."""
        before, code = self.entry, self.process.poll() if self.process else None
        self._hear()
        if code is not None:
            self._end(code)
        elif self.process is None and self.asked_to_stop:
            self.entry = replace(self.entry, state="stopped", reason="asked to stop")
        elif self.process is None and time.monotonic() >= self._begin_s:
            self.begin()
        return self.entry != before

    def _hear(self) -> None:
        """Whole lines of the log; train.py names each run that it begins or goes on with."""
        log, self.said = self.queue.log(self.entry.number), []
        if not log.exists() or log.stat().st_size <= self._log_read:
            return
        with log.open("rb") as file:
            file.seek(self._log_read)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._log_read += len(text)
        self.said = text.decode("utf-8", "replace").splitlines()
        if runs := [run for line in self.said if (run := marks.run_named_in(line))]:
            self.entry = replace(self.entry, run=str(self.queue.root / runs[-1]))

    def _end(self, code: int) -> None:
        run = self.entry.run
        code, mark = settled(code, marks.status(run).get("exit_code")), marks.mark_of(run)
        state, reason = follows(self.entry, Ended(code, mark, self._before, self.asked_to_stop))
        self.process, self._before, self._begin_s = None, mark, time.monotonic() + wait_s(self.entry)
        self.entry = replace(self.entry, state=state, reason=reason, exit_code=code, pid=None, born=None)

    def ask(self) -> None:
        """Ask for a checkpoint and an end. Only the process itself, which passes it on to its workers."""
        if not self.asked_to_stop and self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)
        self.asked_to_stop = True
