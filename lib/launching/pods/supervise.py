"""The process in tmux on the host: runs the queue's commands, starts them again after a crash, and ends when
all have ended or somebody asks it to stop.

    python -m lib.launching.pods.supervise
"""

import sys
import time
from dataclasses import replace

from lib.base import exits
from lib.base.console import speak
from lib.base.files import Lock
from lib.base.source_code import ROOT
from lib.launching.pods import devices, programs, sessions, standing
from lib.launching.pods.entries import Entry, Phase, Queue
from lib.launching.pods.policy import next_to_begin, words_of
from lib.launching.pods.work import Orphan, Work
from lib.process.signals import StopFlag

POLL_S = 0.2


class Supervisor:
    """Everything that is at work, and what waits in the file."""

    def __init__(self, queue: Queue, alive: Lock) -> None:
        self.queue, self.alive, self.stop = queue, alive, StopFlag()
        self.gpus = devices.gpus()
        self.at_work: list[Work] = []

    def work(self) -> int:
        """Until nothing is left to do."""
        self._take_over()
        while True:
            for one in list(self.at_work):
                changed = one.look()
                self._show(one)
                if changed:
                    self._keep(one)
            if self.stop.requested:
                self._ask()
            if not self.at_work and (self.stop.requested or not self._waiting()):
                if self._leave():
                    return exits.STOPPED if self.stop.requested else exits.DONE
            elif self.stop.requested or not self._begin_next():
                time.sleep(POLL_S)

    def _take_over(self) -> None:
        """What an earlier supervisor left behind: processes that are alive are waited for, dead ones were cut
        off by the machine."""
        self._phase("running")
        for entry in self.queue.read().entries:
            if entry.state in ("running", "restarting"):
                if orphan := Orphan.of(entry):
                    speak(f"{entry.number}: its process {orphan.pid} is alive: waiting for it")
                else:
                    speak(f"{entry.number}: was cut off with the machine or its tmux, goes on")
                # what cut it off was no fault of its own
                self.at_work.append(Work(self.queue, replace(entry, attempts=min(entry.attempts, 1)), orphan))

    def _waiting(self) -> bool:
        return any(one.state == "waiting" for one in self.queue.read().entries)

    def _begin_next(self) -> bool:
        """The entry at the head of the queue, if there is room for it; False when there is none."""
        entries = self.queue.read().entries
        found = next_to_begin(entries, self.gpus)
        if found is None:
            return self._refuse_head(entries)
        entry, given = found
        run = programs.finished_run(entry.asked.words)  # takes seconds
        if self.stop.requested:
            return False
        work = Work(self.queue, replace(entry, devices=given))
        if run:
            reason = "was finished already"
            work.entry = replace(entry, state="done", reason=reason, run=run, exit_code=exits.DONE)
        else:
            self._say(entry, f"{entry.asked.command}{' on GPU ' + ','.join(given) if given else ''}")
            self.at_work.append(work)
            work.begin()
        self._keep(work)
        return True

    def _refuse_head(self, entries: list[Entry]) -> bool:
        """What waits for more GPUs than there are would wait for ever."""
        head = next((one for one in entries if one.state == "waiting"), None)
        if head is None or (head.asked.gpus or 0) <= len(self.gpus):
            return False
        reason = f"wants {head.asked.gpus} GPUs, there are {len(self.gpus)}"
        self._keep(Work(self.queue, replace(head, state="failed", reason=reason)))
        return True

    def _keep(self, work: Work) -> None:
        """In the file; and say what has become of it. A disk that is full does not end the supervisor."""
        entry = work.entry
        if entry.state not in ("running", "restarting"):
            self.at_work = [one for one in self.at_work if one is not work]
        try:
            with self.queue.locked():
                self.queue.write(self.queue.read().with_entry(entry))
        except OSError as error:
            speak(f"WARNING: the queue could not be written: {error}", sys.stderr)
        if entry.state != "running":
            code = "" if entry.exit_code is None else f", exit code {words_of(entry.exit_code)}"
            self._say(entry, f"{entry.state}{code}{': ' + entry.reason if entry.reason else ''}")

    def _ask(self) -> None:
        if not all(work.asked_to_stop for work in self.at_work):
            self._phase("stopping")
            for work in self.at_work:
                work.ask()

    def _leave(self) -> bool:
        """Unless something was queued at the last moment. The lock is given back while nobody can queue
        more."""
        with self.queue.locked():
            contents = self.queue.read()
            if not self.stop.requested and any(one.state == "waiting" for one in contents.entries):
                return False
            phase: Phase = "stopped" if self.stop.requested else "idle"
            self.queue.write(replace(contents, phase=phase))
            self.alive.release()
        return True

    def _phase(self, phase: Phase) -> None:
        with self.queue.locked():
            self.queue.write(replace(self.queue.read(), phase=phase))

    def _say(self, entry: Entry, text: str) -> None:
        speak(f"== {time.strftime('%Y-%m-%d %H:%M:%S')}  {entry.number}: {text}")

    def _show(self, work: Work) -> None:
        """In this terminal, what a command has said since."""
        for line in work.said:
            speak(f"{work.entry.number}| {line}" if len(self.at_work) > 1 else line)


def main() -> int:
    queue = Queue(ROOT)
    code = Supervisor(queue, queue.supervise()).work()
    for line in standing.table(queue, sessions.name()):
        speak(line)
    return code


if __name__ == "__main__":
    exits.leave(exits.run(main))
