"""What is typed behind pod.sh. Standard library only: a laptop has nothing else."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from lib.launching.pods.host import LOCAL, Host

DESCRIPTION = """Runs on another machine, or on this one, that outlive your terminal. HOST is what ssh
understands (user@host, a name in ~/.ssh/config), or local."""
HELP = {
    "up": "push this code, run setup.sh there, look at the machine (scripts/doctor.py)",
    "start": "queue a command, or a file of them; without one: go on with what is unfinished",
    "status": "the queue and every run: state, exit code, step, loss, time left",
    "logs": "what a command has said",
    "attach": "look at the terminal there (leave it with Ctrl-b d; Ctrl-C asks the run to stop)",
    "stop": "ask for a checkpoint, wait for it, and begin nothing more",
    "fetch": "copy runs here; deletes nothing, overwrites no newer file, goes on where it was cut",
    "down": "end everything there, and say what is not fetched yet",
}
FLAGS: dict[str, dict[str, dict[str, Any]]] = {
    "start": {
        "--file": {"type": Path, "metavar": "QUEUE.txt", "help": "a command a line; # begins a comment"},
        "--gpus": {
            "type": int,
            "metavar": "N",
            "help": "GPUs a command gets (default: all, one after another)",
        },
        "--restarts": {"type": int, "default": 10, "metavar": "N", "help": "at most, of one command (10)"},
        "--wait-s": {
            "type": float,
            "default": 10.0,
            "metavar": "S",
            "help": "before the first restart (10), then twice",
        },
    },
    "status": {"--json": {"action": "store_true", "help": "one object, for programs"}},
    "logs": {
        "-f": {"action": "store_true", "dest": "follow", "help": "and what it says from now on"},
        "-n": {
            "type": int,
            "default": 50,
            "dest": "num_lines",
            "metavar": "LINES",
            "help": "of its end (50)",
        },
        "--number": {"type": int, "metavar": "N", "help": "of the queue; else what runs, or ran last"},
    },
    "stop": {"--now": {"action": "store_true", "help": "kill it, without a checkpoint"}},
    "down": {"--yes": {"action": "store_true", "help": "do not ask"}},
}
ENV_FILE = {
    "type": Path,
    "metavar": "FILE",
    "help": "NAME=value lines for the commands, beside HF_TOKEN and WANDB_API_KEY",
}
RUNS_DIR = {"default": "runs", "metavar": "DIR", "help": "where run folders are, there and here (runs)"}
for verb in ("up", "start"):
    FLAGS.setdefault(verb, {})["--env-file"] = ENV_FILE
for verb in ("fetch", "down"):
    FLAGS.setdefault(verb, {})["--runs-dir"] = RUNS_DIR


def parser() -> argparse.ArgumentParser:
    program = argparse.ArgumentParser("pod.sh", description=DESCRIPTION, allow_abbrev=False)
    verbs = program.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, words in HELP.items():
        one = verbs.add_parser(verb, help=words, description=words, allow_abbrev=False)
        optional: dict[str, Any] = {"nargs": "?", "default": LOCAL} if verb == "status" else {}
        one.add_argument("host", metavar="HOST", **optional)
        one.add_argument("-p", dest="port", metavar="PORT", help="ssh's port")
        one.add_argument("-i", dest="identity", metavar="FILE", help="ssh's key")
        one.add_argument("-F", dest="ssh_config", metavar="FILE", help="ssh's configuration")
        one.add_argument("--folder", help="of the project there (/workspace/NAME where that is, else ~/NAME)")
        for flag, how in FLAGS.get(verb, {}).items():
            one.add_argument(flag, **how)
    return program


def asked(argv: list[str]) -> tuple[argparse.Namespace, Host, list[str]]:
    """The flags, the host, and the words behind --. Raises ValueError; exits 2 on typos."""
    place = argv.index("--") if "--" in argv else len(argv)
    flags, words = parser().parse_args(argv[:place]), argv[place + 1 :]
    if words and flags.verb != "start":
        raise ValueError(f"pod.sh {flags.verb} takes no command; pod.sh start {flags.host} -- ... does")
    if flags.host == LOCAL and (flags.port or flags.identity or flags.ssh_config or flags.folder):
        raise ValueError("local is this machine and this folder; -p, -i, -F and --folder are for others")
    if flags.host.startswith("-"):
        raise ValueError(f"{flags.host!r} is no host")
    given = (("-p", flags.port), ("-i", flags.identity), ("-F", flags.ssh_config))
    options = tuple(word for pair in given if pair[1] for word in pair)
    return flags, Host(flags.host, options, flags.folder), words


def commands(flags: argparse.Namespace, words: list[str]) -> list[dict[str, Any]]:
    """What start was given, each with its place. Raises ValueError that names the line."""
    if flags.file and words:
        raise ValueError("start takes --file or a command behind --, not both")
    if (flags.gpus is not None and flags.gpus < 1) or flags.restarts < 0 or flags.wait_s < 0:
        raise ValueError("--gpus is at least 1, --restarts and --wait-s at least 0")
    how = {"gpus": flags.gpus, "restarts": flags.restarts, "wait_s": flags.wait_s}
    listed = lines_of(flags.file) if flags.file else [("the command", words)] if words else []
    return [{"place": place, "words": one, **how} for place, one in listed]


def lines_of(file: Path) -> list[tuple[str, list[str]]]:
    """A queue file's commands, with the places where they stand. Raises ValueError."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--file {file} cannot be read: {error}") from error
    found, seen = [], dict[tuple[str, ...], int]()
    for number, line in enumerate(lines, 1):
        place = f"{file}, line {number}"
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ValueError(f"{place}: {error} in {line.strip()!r}") from None
        if words and tuple(words) in seen:
            raise ValueError(f"{place} is line {seen[tuple(words)]} once more: {line.strip()}")
        if words:
            seen[tuple(words)] = number
            found.append((place, words))
    if not found:
        raise ValueError(f"--file {file} holds no command")
    return found
