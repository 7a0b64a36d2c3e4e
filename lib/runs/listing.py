"""All runs under a folder of runs, as they stand: read from their files, whatever state these are in."""

import math
import re
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib import recipe as recipes
from lib.base.contents import Status
from lib.base.exits import DONE, REFUSED, STOPPED
from lib.base.files import read_json, read_mapping
from lib.base.moments import amount
from lib.runs import sittings
from lib.runs.folder import FORMAT, RunFolder, names_of

UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
SCORED = ("test", "validation")  # the first of them that a run has is shown


@dataclass(frozen=True)
class Listed:
    """One run folder; None for what it does not say."""

    run: str
    """What to type for it."""
    path: str
    recipe: str
    state: str
    """running, done, stopped, killed, failed, refused, or unreadable and why."""
    began: bool
    """Was a step saved, or does it run? What never began is no run to compare."""
    exit_code: int | None = None
    step: int | None = None
    num_steps: int | None = None
    split: str | None = None
    scores: dict[str, Any] = field(default_factory=dict)
    """Of that split: name -> value, low, high; the recipe's first one first."""
    spent: float | None = None
    """With a --price."""
    expected: float | None = None
    """Of the whole run, while it is not done."""
    command: str | None = None
    begun: str | None = None
    age_s: float | None = None


def all_runs(runs_dir: str, recipe: str | None = None) -> list[Listed]:
    """The newest first. Raises ValueError when there is no such folder, or no such recipe."""
    above = Path(runs_dir)
    if not above.is_dir():
        raise ValueError(f"--runs-dir {runs_dir} is no folder; runs are kept where train.py was told to")
    if recipe is not None:
        recipes.load(recipe)
    files = above.glob(f"{recipe or '[!.]*'}/[!.]*/config.json")
    paths = sorted((file.parent for file in files), key=lambda path: path.name, reverse=True)
    meanings = Counter(name for path in paths for name in set(names_of(path)))
    return [_listed(path, path.name if meanings[path.name] == 1 else str(path)) for path in paths]


def _listed(path: Path, name: str) -> Listed:
    folder, begun_s = RunFolder(path), _begun_s(path)
    known = Listed(
        run=name,
        path=str(path),
        recipe=path.parent.name,
        state="",
        began=folder.checkpoints.is_dir(),
        begun=None if begun_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(begun_s)),
        age_s=None if begun_s is None else time.time() - begun_s,
    )
    try:
        return replace(known, **_said(folder))
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # files that somebody else wrote
        return replace(known, state=f"unreadable: {error}")


def _said(folder: RunFolder) -> dict[str, Any]:
    """What the files of a run say."""
    read_mapping(folder.path / "config.json")
    record, status, file = folder.record(), folder.status(), folder.path / "scores.json"
    scores = read_json(file)["splits"] if file.is_file() else {}
    split = next((name for name in SCORED if name in scores), None)
    state = _state(folder, status)
    return {
        "state": state,
        "began": folder.checkpoints.is_dir() or state == "running",
        "exit_code": status.get("exit_code"),
        "step": status.get("step"),
        "num_steps": status.get("num_steps"),
        "split": split,
        "scores": scores[split]["scores"] if split else {},
        "command": record.get("command"),
        "spent": None if (spent := sittings.spent(folder)) is None else spent[0],
        "expected": None if spent is None or state == "done" else status.get("expected"),
    }


def _state(folder: RunFolder, status: Status) -> str:
    code = status.get("exit_code")
    if folder.held():
        return "running"
    if code is None:  # nobody was there to say how it ended
        return "killed"
    return {DONE: "done", STOPPED: "stopped", REFUSED: "refused"}.get(code, f"failed ({code})")


def _begun_s(path: Path) -> float | None:
    try:
        return time.mktime(time.strptime(path.name.partition("-")[0], FORMAT))
    except ValueError:  # the folder was given another name
        return None


def table(runs: list[Listed], width: int | None) -> list[str]:
    """For people: what trained, the trials of a sweep in one line, and below it what saved no step; `width`:
    most letters of a line."""
    trials = Counter(sweep for run in runs if (sweep := _sweep_of(run)))
    begun = [run for run in runs if run.began and not _sweep_of(run)]
    lines = _rows(begun) if begun else []
    lines += [
        f"{count} trials of the sweep {sweep}, which has a result.html" for sweep, count in trials.items()
    ]
    if others := [run for run in runs if not run.began and not _sweep_of(run)]:
        lines += [*([""] if lines else []), "without a saved step:"]
        for run in others:
            lines.append(f"  {run.run}  {run.recipe}  {run.state}{_look_into(run)}")
    if width is None:
        return lines
    return [line if len(line) <= width else line[: width - 4].rstrip() + " ..." for line in lines]


def _sweep_of(run: Listed) -> str | None:
    """20250101_120005-20250101_120000-trial-003 -> runs/arena/sweeps/20250101_120000"""
    found = re.fullmatch(r".*-(\d{8}_\d{6}.*)-trial-\d+", Path(run.path).name)
    return str(Path(run.path).parent / "sweeps" / found[1]) if found else None


def _look_into(run: Listed) -> str:
    names = ("rejected.jsonl", "lint.json") if run.state in ("refused", "failed (2)") else ()
    return next((f", see {name}" for name in names if (Path(run.path) / name).exists()), "")


def _rows(runs: list[Listed]) -> list[str]:
    rows = [["run", "recipe", "state", "step", "score", "cost", "age", "flags that not all have"]]
    flags = {run.run: _flags(run.command) for run in runs}
    for run in runs:
        score = next((f"{name} {value['value']:.4f}" for name, value in run.scores.items()), "-")
        score += " (validation)" if run.split == "validation" else ""
        step = "-" if run.step is None else f"{run.step}/{run.num_steps or '?'}"
        alike = [flags[other.run] for other in runs if other.recipe == run.recipe]
        own = [flag for flag in flags[run.run] if len(runs) == 1 or not all(flag in one for one in alike)]
        told = [step, score, _cost(run), age(run.age_s), " ".join(own)]
        rows.append([run.run, run.recipe, run.state, *told])
    if all(run.spent is None for run in runs):
        rows = [[*row[:5], *row[6:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cost(run: Listed) -> str:
    if run.spent is None:
        return "-"
    return amount(run.spent) + (f" of {amount(run.expected)}" if run.expected else "")


def _flags(command: str | None) -> list[str]:
    """train.py arena --lr 1e-4 --smoke -> ["--lr 1e-4", "--smoke"]"""
    words = re.split(r"\s(?=--)", command or "")[1:]
    return [word for word in words if not word.startswith(("--runs-dir", "--resume", "--stop-at"))]


def age(seconds: float | None) -> str:
    """4000 -> 1 h"""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    size, unit = next((one for one in UNITS if seconds >= one[0]), UNITS[-1])
    return f"{max(0, int(seconds // size))} {unit}"
