"""A host as the laptop sees it: this machine, or one behind ssh. Only ssh, rsync and a shell are used."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib.base.exits import BAD_INPUT, StoppedError
from lib.launching.pods import trouble

ROOT = Path(__file__).resolve().parents[3]
LOCAL = "local"
SSH_FAILED = 255
TIMEOUT_S = 20  # to reach a host, and of silence, three times; by itself ssh waits for minutes
PARTLY, VANISHED = 23, 24  # rsync's codes: not all was copied; a file went away while it was read

# Where the project is on a host: a rented pod's volume, which outlives the container, or the home folder.
FIND = """
folder={folder} host={host} make={make}
if [ -z "$folder" ]; then
    folder=$HOME/{name}
    if [ -d /workspace ] && [ -w /workspace ]; then folder=/workspace/{name}; fi
fi
[ -z "$make" ] || mkdir -p "$folder" || exit 3
[ ! -d "$folder" ] || {{ cd "$folder" && folder=$PWD; }}
python="${{PYTHON:-$folder/.venv/bin/python}}"
has_code() {{ [ -d "$folder/lib/launching/pods" ]; }}
is_ready() {{ has_code && [ -x "$python" ] && [ "$(cat .venv/.setup 2>/dev/null)" != unfinished ]; }}
has() {{ command -v "$1" >/dev/null; }}
"""
LOOK = """
echo "pod-folder=$folder"
! has_code || echo pod-code=yes
! is_ready || echo pod-ready=yes
for program in tmux rsync; do ! has $program || echo pod-$program=yes; done
at=$folder; while [ ! -d "$at" ]; do at=$(dirname "$at"); done
echo "pod-disk=$(df -Pk "$at" | tail -n 1)"
"""
# One connection for all: over a slow line each takes seconds.
ASK = """
refuse() {{ echo "error: $*" >&2; exit 2; }}
has_code || refuse "$host:$folder has no code of this project; type: {up}"
is_ready || refuse "$host:$folder is not set up; type: {up}"
{need_tmux} || has tmux || refuse "tmux is missing on $host; type there: apt-get install tmux"
[ ! -f .env.sh ] || . ./.env.sh
exec "$python" -m lib.launching.pods.agent {verb}
"""


@dataclass(frozen=True)
class Seen:
    """What a first look at a host says."""

    folder: str
    has_code: bool
    is_ready: bool
    """Did setup.sh finish there?"""
    programs: tuple[str, ...]
    disk: str
    """The line of df that has the folder."""


@dataclass(frozen=True)
class Host:
    name: str
    options: tuple[str, ...] = ()
    """ssh's."""
    folder: str | None = None
    """Of the project there; None until somebody has looked."""

    @property
    def is_local(self) -> bool:
        return self.name == LOCAL

    @property
    def _typed(self) -> str:
        return "".join(f"{shlex.quote(word)} " for word in self.options)

    def ssh(self, *more: str) -> list[str]:
        """Without a terminal nobody can answer a question."""
        batch = () if sys.stdin.isatty() else ("-o", "BatchMode=yes")
        patience = ("-o", f"ConnectTimeout={TIMEOUT_S}", "-o", f"ServerAliveInterval={TIMEOUT_S}")
        return ["ssh", *patience, *batch, *self.options, *more]

    def words(self, script: str, terminal: bool = False) -> list[str]:
        """The command that runs a shell script there."""
        shell = ["sh", "-c", script]
        if self.is_local:
            return shell
        return [*self.ssh(*(("-t",) if terminal else ())), self.name, shlex.join(shell)]

    def _find(self, make: bool = False) -> str:
        """The script that goes to the project's folder there."""
        wanted = str(ROOT) if self.is_local else self.folder or ""
        words = {"folder": wanted, "host": self.name, "make": "yes" if make else "", "name": ROOT.name}
        return FIND.format(**{key: shlex.quote(word) for key, word in words.items()})

    def looked_at(self, make: bool = False) -> "tuple[Host, Seen]":
        """With the folder that is used there, made if it is to be. Raises ValueError when it cannot be."""
        code, said = self.captured(self._find(make) + LOOK)
        pairs = [
            line[4:].split("=", 1) for line in said.splitlines() if line.startswith("pod-") and "=" in line
        ]
        there = dict(pairs)
        if code or "folder" not in there:
            raise ValueError(
                f"no folder can be made on {self.name} ({self.folder or '~'}); choose one with --folder"
            )
        programs = tuple(name for name in ("tmux", "rsync") if name in there)
        seen = Seen(there["folder"], "code" in there, "ready" in there, programs, there.get("disk", ""))
        return replace(self, folder=seen.folder), seen

    def asking(self, verb: str) -> str:
        """The script that asks the project's own code there, or says why it cannot be asked (exit code 2)."""
        up = "bash setup.sh" if self.is_local else f"launch/pod.sh up {self.name}"
        need_tmux = "false" if verb == "start" else "true"
        return self._find() + ASK.format(up=up, verb=verb, need_tmux=need_tmux)

    def asked(self, verb: str, request: dict[str, Any]) -> dict[str, Any]:
        """The object that the project's code answers with. Raises ValueError, in its words."""
        code, said = self.captured(self.asking(verb), request)
        if code:
            raise ValueError(f"{self.name} does not answer (exit code {code})")
        answer: dict[str, Any] = json.loads(said[said.index("{") :])  # behind what a login shell may say
        return answer

    def captured(self, script: str, request: dict[str, Any] | None = None) -> tuple[int, str]:
        """Exit code and stdout. Raises ValueError, in words, when the host is not reached or refuses."""
        done = self._run(self.words(script), request, stdout=subprocess.PIPE)
        if done.returncode == BAD_INPUT:
            raise ValueError(done.stderr.strip().removeprefix("error: "))
        sys.stderr.write(done.stderr)
        return done.returncode, done.stdout

    def shown(self, script: str, request: dict[str, Any] | None = None) -> int:
        """Run it there, with its lines here as they come; the exit code."""
        done = self._run(self.words(script), request)
        sys.stderr.write(done.stderr)
        return int(done.returncode)

    def _run(self, words: list[str], request: dict[str, Any] | None, **streams: Any) -> Any:
        """What is sent stands on stdin, where no list of processes shows it."""
        text = json.dumps(request or {})
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", **streams
            )
        except FileNotFoundError as error:
            raise ValueError(
                f"{error.filename} is missing on this machine; install it and try again"
            ) from None
        out, err = process.communicate(text)
        if process.returncode == SSH_FAILED and not self.is_local:
            self._refuse(err)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def _refuse(self, said: str) -> None:
        """Raises ValueError, or StoppedError for a connection that was there."""
        message = trouble.of_ssh(said, self.name, self._typed)
        if message is None and trouble.is_cut(said):
            raise StoppedError(
                f"the connection to {self.name} was cut; what runs there goes on, type the same again"
            )
        raise ValueError(message or f"ssh {self.name} failed: {said.strip() or 'without a word'}")

    def become(self, script: str) -> None:
        """Let this process be the command: its terminal is the other one's."""
        words = self.words(script, terminal=sys.stdout.isatty())
        os.execvp(words[0], words)

    def rsync(self, words: list[str], source: str, target: str) -> subprocess.CompletedProcess[str]:
        """Copy; a path that begins with ":" is there. Raises ValueError or StoppedError, in words."""
        if shutil.which("rsync") is None:
            raise ValueError(
                "rsync is missing on this machine; type: apt-get install rsync (macOS: brew install rsync)"
            )
        source, target = (self.name + path if path.startswith(":") else path for path in (source, target))
        # -s: names with blanks and quotes arrive as they are
        command = ["rsync", "-s", "-e", shlex.join(self.ssh()), *words, "--", source, target]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
        )
        if done.returncode in (0, VANISHED) or is_missing(done):
            return done
        message = trouble.of_rsync(done.stderr, done.returncode, self.name, self._typed)
        if message is None and (trouble.is_cut(done.stderr) or done.returncode in (-15, -9, 12, 20, 30)):
            raise StoppedError(
                f"the copy was cut off ({done.stderr.strip()}); type the same again, it goes on"
            )
        raise ValueError(message or f"rsync failed with code {done.returncode}: {done.stderr.strip()}")


def is_missing(done: subprocess.CompletedProcess[str]) -> bool:
    """Was there nothing to copy from?"""
    return done.returncode == PARTLY and "change_dir" in done.stderr and "No such file" in done.stderr
