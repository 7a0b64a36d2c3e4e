"""What the laptop asks of a host, there: one JSON object on stdin, lines for people on stdout.

python -m lib.launching.pods.agent start|status|stop|where|doctor|down < request
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.base import exits
from lib.base.console import speak, speak_json
from lib.base.exits import BAD_INPUT
from lib.base.source_code import ROOT
from lib.launching.pods import devices, programs, sessions, standing, tokens
from lib.launching.pods.entries import Asked, Contents, Queue
from lib.launching.pods.work import Orphan

POLL_S = 0.2


def start(queue: Queue, request: dict[str, Any]) -> None:
    """Queue the commands, or go on with what is unfinished, and see that a supervisor is at work. Raises
    ValueError before anything has begun."""
    commands = [_checked(one) for one in request["commands"]]
    with queue.locked():
        before = queue.read()
        if queue.supervisor() is not None and before.phase == "stopping":
            raise ValueError(
                "the queue is being stopped; wait until it has (pod.sh status HOST), then start again"
            )
        after, lines = _queued(before, commands)
        if _left(after):
            if request["secrets"]:
                tokens.keep(queue.secrets, request["secrets"])
            queue.write(after)
            try:
                sessions.start_supervisor(queue)
            except BaseException:
                queue.write(before)
                raise
            lines.append(f"at work in tmux session {sessions.name()}; it needs this connection no longer")
    for line in lines:
        speak(line)


def _checked(one: dict[str, Any]) -> Asked:
    """Raises ValueError that begins with the place of the command: "queue.txt, line 3"."""
    asked = Asked(one["words"], one["gpus"], one["restarts"], one["wait_s"])
    try:
        programs.check(asked.words)
        if asked.gpus is not None and asked.gpus > len(there := devices.gpus()):
            raise ValueError(f"--gpus {asked.gpus}, but this host has {len(there)} GPUs")
    except ValueError as error:
        raise ValueError(f"{one['place']}: {error}") from error
    return asked


def _queued(contents: Contents, commands: list[Asked]) -> tuple[Contents, list[str]]:
    """With these commands, and what a person had stopped; and what to say of each."""
    stopped = [one for one in contents.entries if one.state == "stopped"]
    lines = [f"{one.number}: goes on: {one.asked.command}" for one in stopped]
    contents = contents.gone_on()
    if not commands and not _left(contents):
        raise ValueError(
            "nothing is left to do here; type a command: pod.sh start HOST -- scripts/train.py arena"
        )
    going_on = [one.asked.words for one in stopped]
    for asked in (one for one in commands if one.words not in going_on):
        contents, entry, begins = contents.queued(asked, programs.train_flags(asked.words) is not None)
        word = "queued" if begins else f"is in the queue already ({entry.state})"
        lines.append(f"{entry.number}: {word}: {asked.command}")
    return contents, lines


def _left(contents: Contents) -> bool:
    return any(one.state in ("waiting", "running", "restarting") for one in contents.entries)


def status(queue: Queue, request: dict[str, Any]) -> None:
    """Change nothing."""
    if request["json"]:
        speak_json(standing.as_json(queue, sessions.name()))
        return
    for line in standing.table(queue, sessions.name(), request["width"]):
        speak(line)


def stop(queue: Queue, request: dict[str, Any]) -> None:
    """Ask for a checkpoint, wait for it; nothing begins again until somebody starts it."""
    if (supervisor := queue.supervisor()) is not None:
        os.kill(supervisor, signal.SIGTERM)
        speak("asked for a checkpoint; waiting for it (Ctrl-C ends only this waiting)")
        if request["now"]:
            _kill(queue)
        while queue.supervisor() == supervisor:
            time.sleep(POLL_S)
    else:
        _stop_what_was_left(queue)
    for line in standing.table(queue, sessions.name()):
        speak(line)


def _kill(queue: Queue) -> None:
    """Without a checkpoint."""
    for entry in queue.read().entries:
        if Orphan.of(entry) and entry.pid:
            with suppress(ProcessLookupError):
                os.killpg(entry.pid, signal.SIGKILL)


def _stop_what_was_left(queue: Queue) -> None:
    """Processes whose supervisor is gone, and what nobody works on."""
    with queue.locked():
        contents = queue.read()
        for entry in contents.entries:
            if entry.state not in ("running", "restarting"):
                continue
            code = entry.exit_code
            if orphan := Orphan.of(entry):
                os.kill(orphan.pid, signal.SIGTERM)
                while (code := orphan.poll()) is None:
                    time.sleep(POLL_S)
            ended = replace(
                entry, state="stopped", reason="asked to stop", exit_code=code, pid=None, born=None
            )
            contents = contents.with_entry(ended)
        queue.write(replace(contents, phase="stopped"))


def where(queue: Queue, request: dict[str, Any]) -> None:
    """For the laptop: what to attach to, which log to show, where the runs are and on which disk."""
    entries, number = queue.read().entries, request.get("number")
    chosen = [one for one in entries if number in (None, one.number)]
    at_work = [one for one in chosen if one.state == "running"]
    at_work = at_work or [one for one in chosen if one.attempts]
    if request.get("to_come"):  # what begins next is in no hurry: its experiment may be finished already
        at_work = [one for one in chosen if one.state in ("running", "waiting")][:1] or at_work
    speak_json(
        {
            "session": sessions.name() if queue.supervisor() and sessions.exists() else None,
            "supervisor": queue.supervisor(),
            "log": str(queue.log(at_work[-1].number)) if at_work else None,
            "numbers": [one.number for one in entries],
        }
    )


def doctor(queue: Queue, request: dict[str, Any]) -> int:
    """Keep the tokens, and look at the machine with them."""
    if request["secrets"]:
        tokens.keep(queue.secrets, request["secrets"])
    command = [sys.executable, str(ROOT / "scripts" / "doctor.py")]
    return subprocess.run(command, cwd=ROOT, env=os.environ | tokens.kept(queue.secrets)).returncode


def down(queue: Queue, request: dict[str, Any]) -> None:
    """Leave no process and no token here."""
    if queue.supervisor() is not None or any(Orphan.of(one) for one in queue.read().entries):
        stop(queue, {"now": False})
    if sessions.exists():
        sessions.tmux("kill-session", "-t", f"={sessions.name()}")
    queue.secrets.unlink(missing_ok=True)
    speak("the tmux session has ended, the tokens kept here are gone; code and runs stay")


VERBS = {"start": start, "status": status, "stop": stop, "where": where, "doctor": doctor, "down": down}


def main() -> int:
    request = json.loads(sys.stdin.read() or "{}")
    try:
        return VERBS[sys.argv[1]](Queue(ROOT), request) or exits.DONE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        speak(
            f"error: the disk of {ROOT} is full; make room (du -sh {Path('runs')}/*/*) and try again",
            sys.stderr,
        )
        return BAD_INPUT


if __name__ == "__main__":
    exits.leave(exits.run(main))
