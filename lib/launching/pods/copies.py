"""What travels between a laptop and a host: code there, runs back. Nothing is ever deleted on either side."""

from dataclasses import dataclass, field
from pathlib import Path

from lib.base.console import speak
from lib.launching.pods.host import ROOT, VANISHED, Host, is_missing

PARTIAL = ".rsync-partial"  # what has arrived of a file whose copy was cut, in its folder
# Runs, environments, caches, what is secret, and what belongs to one machine.
NOT_CODE = (
    *("/runs/", "/wandb/", "/.pod/", ".git", ".venv", ".env*", ".cache", "__pycache__", "*.pyc"),
    *(".DS_Store", ".pytest_cache", ".ruff_cache", ".mypy_cache", PARTIAL),
)
# Checkpoints that are being written or deleted; rows that are encoded again in seconds.
NOT_RUNS = (".writing-*", ".deleting-*", "/*/.encoded/", "/*/.contexts/", "lock", PARTIAL)


@dataclass
class Copied:
    """Files, by what rsync says of each."""

    files: int = 0
    size: int = 0
    runs: set[str] = field(default_factory=set)
    vanished: bool = False
    missing: bool = False
    """There was nothing to copy from."""

    def words(self) -> str:
        megabytes = f"{self.size / 1e6:,.1f} MB"
        runs = f" of {len(self.runs)} run{'s' * (len(self.runs) != 1)}" if self.runs else ""
        return f"{self.files} files{runs}, {megabytes}"


def push(host: Host) -> Copied:
    """The code, as it stands here."""
    excluded = [f"--exclude={pattern}" for pattern in NOT_CODE]
    done = host.rsync(["-rlpt", *excluded, "--out-format=%i %l %n"], f"{ROOT}/", f":{host.folder}/")
    copied = counted(done.stdout)
    copied.runs = set()
    return copied


def fetch(host: Host, runs_dir: str, only_look: bool = False) -> Copied:
    """Runs. A file gets its name when it is whole; one that is newer here stays."""
    excluded = [f"--exclude={pattern}" for pattern in NOT_RUNS]
    target = ROOT / runs_dir
    words = ["-rlt", "--update", f"--partial-dir={PARTIAL}", *excluded, "--out-format=%i %l %n"]
    if only_look:
        words.append("--dry-run")
    else:
        target.mkdir(parents=True, exist_ok=True)
    done = host.rsync(words, f":{Path(str(host.folder)) / runs_dir}/", f"{target}/")
    copied = counted(done.stdout)
    copied.vanished, copied.missing = done.returncode == VANISHED, is_missing(done)
    return copied


def counted(said: str) -> Copied:
    """From lines like ">f+++++++++ 812 arena/20250101_120000/status.json"."""
    copied = Copied()
    for line in said.splitlines():
        kind, _, rest = line.partition(" ")
        size, _, name = rest.partition(" ")
        if kind[:2] in (">f", "<f") and size.isdigit():
            copied.files += 1
            copied.size += int(size)
            if len(parts := name.split("/")) > 2:
                copied.runs.add("/".join(parts[:2]))
    return copied


def say_fetched(copied: Copied, where: Path) -> None:
    speak(f"fetched {copied.words()} into {where}" if copied.files else f"nothing new; {where} has it all")
    if copied.vanished:
        speak("some files went while they were read, as those of a run at work do; fetch again at its end")
