"""What each word behind pod.sh does, from the laptop's side."""

import argparse
import shlex
import shutil
import sys

from lib.base.console import speak
from lib.base.exits import DONE
from lib.launching.pods import asked, copies, tokens
from lib.launching.pods.host import ROOT, Host, Seen


def up(flags: argparse.Namespace, host: Host, words: list[str]) -> int:
    """Code, packages, a look at the machine. Raises ValueError."""
    secrets = tokens.gathered(flags.env_file)
    host, seen = host.looked_at(make=True)
    if not host.is_local:
        _require_rsync(host, seen)
        if seen.is_ready and host.asked("where", {})["supervisor"] is not None:
            raise ValueError(
                f"runs are at work in {host.name}:{host.folder}, and would be refused with other code when "
                f"they go on; stop them (pod.sh stop {host.name}), or push to another --folder"
            )
        copied = copies.push(host)
        speak(f"pushed {copied.words()} to {host.name}:{host.folder}")
    set_up = '{ [ "${PYTHON:-}" ] || bash setup.sh; } 2>&1'
    code = host.shown(f"cd {shlex.quote(str(host.folder))} && {set_up}")
    return code or host.shown(f"exec 2>&1\n{host.asking('doctor')}", {"secrets": secrets})


def start(flags: argparse.Namespace, host: Host, words: list[str]) -> int:
    """Queue, and see that it is worked on. Raises ValueError before anything has begun."""
    commands, secrets = asked.commands(flags, words), tokens.gathered(flags.env_file)
    return host.shown(host.asking("start"), {"commands": commands, "secrets": secrets})


def status(flags: argparse.Namespace, host: Host, words: list[str]) -> int:
    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else None
    return host.shown(host.asking("status"), {"json": flags.json, "width": width})


def logs(flags: argparse.Namespace, host: Host, words: list[str]) -> int:
    """The end of a command's log. Raises ValueError when there is none."""
    where = host.asked("where", {"number": flags.number, "to_come": flags.follow})
    if where["log"] is None:
        known = ", ".join(map(str, where["numbers"])) or "none"
        raise ValueError(f"no command here has said anything (--number {flags.number}; there is {known})")
    follow = "-F" if flags.follow else ""
    if flags.follow and where["supervisor"] is not None:
        follow += f" --pid={where['supervisor']}"
    host.become(f"exec tail -n {flags.num_lines} {follow} {shlex.quote(where['log'])}")
    return DONE


def attach(flags: argparse.Namespace, host: Host, words: list[str]) -> int:
    """Raises ValueError when nothing runs."""
    session = host.asked("where", {})["session"]
    if session is None:
        raise ValueError(f"nothing is at work on {host.name}; pod.sh status {host.name} says what was")
    host.become(f"exec tmux attach-session -t ={session}")
    return DONE


def stop(flags: argparse.Namespace, host: Host, words: list[str]) -> int:
    return host.shown(host.asking("stop"), {"now": flags.now})


def fetch(flags: argparse.Namespace, host: Host, words: list[str]) -> int:
    """Raises ValueError, or StoppedError when it was cut."""
    if host.is_local:
        raise ValueError("the runs of local are here already")
    host, seen = host.looked_at()
    _require_rsync(host, seen)
    copied = copies.fetch(host, flags.runs_dir)
    if copied.missing:
        raise ValueError(
            f"there is no {flags.runs_dir} in {host.name}:{host.folder}; --runs-dir or --folder?"
        )
    copies.say_fetched(copied, ROOT / flags.runs_dir)
    return DONE


def down(flags: argparse.Namespace, host: Host, words: list[str]) -> int:
    """End what runs there, after saying what would be left behind."""
    host, seen = host.looked_at()
    if not host.is_local:
        _require_rsync(host, seen)
        _say_unfetched(host, flags.runs_dir)
    if not flags.yes and not _agreed(f"End everything in {host.name}:{host.folder}? [y/N] "):
        speak("nothing was changed")
        return DONE
    code = host.shown(host.asking("down"), {}) if seen.is_ready else DONE
    speak(f"This does not end the machine, which goes on billing. {host.folder} is on {_disk(seen)}:")
    speak(
        "a machine that is only stopped goes on billing for its disks, until it is terminated and its volume"
    )
    speak("is deleted, at your provider's.")
    return code


def _disk(seen: Seen) -> str:
    """Filesystem blocks used free share mount -> words."""
    parts = seen.disk.split()
    return f"the disk {parts[0]} at {' '.join(parts[5:])}" if len(parts) > 5 else "a disk"


def _say_unfetched(host: Host, runs_dir: str) -> None:
    left = copies.fetch(host, runs_dir, only_look=True)
    if not left.files:
        speak(f"there is no {runs_dir} there" if left.missing else "every run is fetched")
        return
    speak(f"not fetched yet: {left.words()} (pod.sh fetch {host.name})")
    for run in sorted(left.runs):
        speak(f"  {runs_dir}/{run}")


def _agreed(question: str) -> bool:
    """Nobody there to answer means no."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _require_rsync(host: Host, seen: Seen) -> None:
    if "rsync" not in seen.programs:
        raise ValueError(f"rsync is missing on {host.name}; type there: apt-get install rsync")


VERBS = {one.__name__: one for one in (up, start, status, logs, attach, stop, fetch, down)}


def main() -> int:
    flags, host, words = asked.asked(sys.argv[1:])
    return VERBS[flags.verb](flags, host, words)
