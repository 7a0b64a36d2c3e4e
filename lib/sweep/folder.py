"""One sweep, one folder: what it searches, the trials that are finished, the one that is not.

Its runs are ordinary run folders beside it, named after it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lib.base.exits import DONE
from lib.base.files import read_json, read_lines, write_json, write_lines
from lib.config import Config
from lib.config_tree import experiment
from lib.runs.folder import Folder, new_folder, parent
from lib.runs.record import code_fingerprint
from lib.runs.resume import check_fingerprints
from lib.sweep.space import Space


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting of the parameters and, when it is finished, what came of it."""

    number: int
    parameters: dict[str, Any]
    state: Literal["begun", "done", "failed"] = "begun"
    score: float | None = None
    """The best validation score of its run; None when it failed."""
    step: int | None = None
    run: str | None = None
    """The name of its run folder."""
    seconds: float = 0.0
    """Of training, over all stops."""
    why: str | None = None
    """The reason of a failure."""
    tracked: str | None = None
    """Its run in wandb's own search."""


def _trial(values: dict[str, Any]) -> Trial:
    """From JSON, which has no tuples."""
    fixed = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values["parameters"].items()
    }
    return Trial(**values | {"parameters": fixed})


class SweepFolder(Folder):
    """`runs/<recipe>/sweeps/<YYYYmmdd_HHMMSS>[-name]/`"""

    def description(self) -> dict[str, Any]:
        """sweep.json: space, base configuration, backend, seed, code."""
        return read_json(self.path / "sweep.json")

    def describe(self, **values: Any) -> None:
        path = self.path / "sweep.json"
        write_json(path, (read_json(path) if path.exists() else {}) | values)

    def trials(self) -> list[Trial]:
        """The finished ones, in their order."""
        path = self.path / "trials.jsonl"
        return [_trial(line) for line in read_lines(path)] if path.exists() else []

    def begun(self) -> Trial | None:
        """The trial that was begun and is not finished."""
        path = self.path / "trial.json"
        trial = _trial(read_json(path)) if path.exists() else None
        return trial if trial and trial.number not in {done.number for done in self.trials()} else None

    def begin(self, trial: Trial) -> None:
        """Before it trains, so that whoever goes on trains the same."""
        write_json(self.path / "trial.json", asdict(trial))

    def finish(self, trial: Trial) -> None:
        """One line more, in one move."""
        write_lines(self.path / "trials.jsonl", map(asdict, [*self.trials(), trial]))


def above(config: Config) -> Path:
    return parent(config) / "sweeps"


def find(config: Config, space: Space, num_trials: int) -> tuple[SweepFolder, str]:
    """The locked folder of the newest sweep like this with trials left, or a new one; and why. Raises
    ValueError (held by a live process), CheckError (the code changed)."""
    same, code = _identity(config, space), code_fingerprint(config.recipe)
    if config.tracking.resume not in ("auto", "never"):
        raise ValueError(
            f"--resume {config.tracking.resume}: a sweep takes auto (go on with the newest one like this) or "
            "never (begin a new one)"
        )
    folders = sorted(above(config).glob("*/sweep.json"), reverse=True)
    for path in folders if config.tracking.resume == "auto" else []:
        folder = SweepFolder(path.parent)
        known = folder.description()
        finished = folder.status().get("exit_code") == DONE and len(folder.trials()) >= num_trials
        if finished or any(known[key] != value for key, value in same.items()):
            continue
        folder.lock()
        check_fingerprints({"code": known["code"]}, {"code": code})
        return folder, f"going on with {folder.path}: {len(folder.trials())} of {num_trials} trials finished"
    suffix = f"-{config.tracking.name}" if config.tracking.name else ""
    folder = SweepFolder(new_folder(above(config), suffix))
    folder.lock()
    folder.describe(**same, code=code)
    return folder, f"new sweep {folder.path}"


def _identity(config: Config, space: Space) -> dict[str, Any]:
    """What makes two commands the same sweep. The number of trials is left out: asking for more goes on."""
    return {
        "recipe": config.recipe,
        "name": config.tracking.name,
        "backend": "wandb" if config.tracking.wandb == "online" else "optuna",
        "space": space.tree,
        "seed": config.optim.seed,
        "experiment": experiment(config),
    }
