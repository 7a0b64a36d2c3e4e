"""How far the run of a command is, from what it has printed and from its folder."""

import re
from pathlib import Path
from typing import Any

from lib.base.files import read_mapping
from lib.launching.pods.policy import Mark

ANNOUNCED = re.compile(r"run folder (.+) \(report\.html in it when done\)")


def run_named_in(line: str) -> str | None:
    """The run folder that a line of train.py names, as it does for each run it begins or goes on with."""
    match = ANNOUNCED.fullmatch(line.strip())
    return match[1] if match else None


def mark_of(run: str | None) -> Mark:
    """Nothing where there is no run, or none that can be read."""
    if run is None:
        return Mark()
    folder = Path(run)
    budgets = [_read(folder / "run.json").get("token_budget")]
    checkpoints = sorted(folder.glob("checkpoints/step-*/state.json"))
    budgets += [_read(file).get("token_budget") for file in checkpoints[-1:]]
    budget = min((one for one in budgets if isinstance(one, int)), default=None)
    return Mark(run, int(status(run).get("step") or 0), budget)


def status(run: str | None) -> dict[str, Any]:
    """status.json; empty where there is none."""
    return {} if run is None else _read(Path(run) / "status.json")


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_mapping(file)
    except ValueError:
        return {}
