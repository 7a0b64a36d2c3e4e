"""Words of the queue -> a program: checked before anything is queued, started in the project's folder."""

import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from lib.base.source_code import ROOT

PYTHONS = ("python", "python3")
# torchrun stands beside the interpreter
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def program(words: list[str]) -> list[str]:
    """What to execute: scripts by the interpreter that runs this, shell scripts by bash."""
    if words[0] in PYTHONS:
        return [sys.executable, *words[1:]]
    if words[0].endswith(".py"):
        return [sys.executable, "-u", *words]
    if words[0].endswith(".sh"):
        return ["bash", *words]
    return [shutil.which(words[0], path=PATH) or words[0], *words[1:]]


def check(words: list[str]) -> None:
    """Raises ValueError for what could not even begin: no such program, or flags that train.py refuses."""
    if not words:
        raise ValueError("there is no command")
    script = words[1] if words[0] in PYTHONS and len(words) > 1 else words[0]
    if script.endswith((".py", ".sh")):
        if not (ROOT / script).is_file():
            raise ValueError(f"there is no {script} in {ROOT}; a command begins like scripts/train.py arena")
    elif shutil.which(script, path=PATH) is None:
        raise ValueError(f"there is no program {script}; a command begins like scripts/train.py arena")
    if (argv := train_flags(words)) is not None:
        _check_flags(argv)


def train_flags(words: list[str]) -> list[str] | None:
    """The words behind train.py, of one that starts its own workers; None for any other command."""
    rest = words[1:] if words[0] in PYTHONS else words
    return rest[1:] if rest and Path(rest[0]) == Path("scripts/train.py") else None


def _check_flags(argv: list[str]) -> None:
    """As train.py itself reads them, which prints and exits on a typo."""
    from lib import recipe
    from lib.command_line import parse, split_recipe

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            name, flags = split_recipe(argv)
            parse(recipe.load(name).config, flags, f"train.py {name}")
        except SystemExit:
            words = " ".join(said.getvalue().replace("│", " ").split())
            raise ValueError(f"train.py does not take {shlex.join(argv)}: {words.strip('╭╮╰╯─ ')}") from None


def finished_run(words: list[str]) -> str | None:
    """The run in which the experiment of this command is finished, by its own record; None when it is not,
    when a new run is asked for, or for other commands than train.py. In a process of its own: it imports
    torch."""
    argv = train_flags(words)
    if argv is None:
        return None
    command = [sys.executable, "-m", "lib.launching.pods.finished", *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip() or None if done.returncode == 0 else None


def begin(words: list[str], log: Path, more: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, so that a Ctrl-C in this terminal reaches only this process; what it
    says goes to the end of `log`. Raises OSError."""
    with log.open("ab") as out:
        return subprocess.Popen(
            program(words),
            cwd=ROOT,
            env=os.environ | {"PATH": PATH} | more,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def born(pid: int) -> str | None:
    """When a process began, in clock ticks since the start of the machine and of the kernel; None when it is
    gone (a zombie is)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] == "Z" else f"{boot} {fields[19]}"
