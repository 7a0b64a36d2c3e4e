"""Tokens on their way: from the laptop's environment or a file of it, over ssh's stdin, into a file that only
its owner can read, into the environment of the commands. Never into an argument, a log or a configuration."""

import json
import os
import re
from pathlib import Path

NAMES = ("HF_TOKEN", "WANDB_API_KEY")


def gathered(env_file: Path | None) -> dict[str, str]:
    """What this machine knows: the tokens in the environment, and every NAME=value of the file, which wins.
    Raises ValueError that names a line without its value."""
    values = {name: os.environ[name] for name in NAMES if os.environ.get(name)}
    if env_file is None:
        return values
    try:
        lines = env_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--env-file {env_file} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", line)
        if match is None:
            raise ValueError(f"--env-file {env_file}, line {number} is not NAME=value")
        value = match[2].strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        values[match[1]] = value[1:-1] if quoted else value
    return values


def keep(file: Path, values: dict[str, str]) -> None:
    """Add to what is kept there; nobody but the owner ever can read it."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(kept(file) | values, out)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def kept(file: Path) -> dict[str, str]:
    try:
        values: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        values = {}
    return values
