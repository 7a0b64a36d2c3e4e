"""The sides of a comparison: what the folder of one run, or of several seeds, says."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.answers import Values
from lib.base.exits import DONE
from lib.base.files import read_json, read_lines, read_mapping
from lib.config_keys import flatten
from lib.config_tree import NO_NUMBERS, to_dict
from lib.recipe import Prediction, Recipe
from lib.runs.folder import RunFolder, find

SEED = ["optim.seed"]
JSON = dict[str, Any]


@dataclass
class Run:
    """What one run folder says; `problem` is why it cannot be compared."""

    letter: str
    path: Path
    config: JSON
    record: JSON
    scores: JSON
    rows: dict[str, Prediction] = field(default_factory=dict)
    labels: list[str] | None = None
    problem: str | None = None

    @property
    def experiment(self) -> JSON:
        return {key: value for key, value in self.config.items() if key.split(".")[0] not in NO_NUMBERS}

    @property
    def weights(self) -> dict[str, str]:
        """File -> sha256 of the scored checkpoint; empty when that is gone."""
        manifest = self.path / "checkpoints" / self.scores.get("checkpoint", "best") / "manifest.json"
        files = read_json(manifest)["body"]["files"] if manifest.is_file() else {}
        names = [name for name in files if name.endswith(".safetensors") and "optimizer" not in name]
        return {name: files[name]["sha256"][:12] for name in names}


@dataclass(frozen=True)
class Side:
    """One run, or several that are seeds of one experiment: a row's value is then the mean over them."""

    runs: list[Run]

    @property
    def letter(self) -> str:
        return self.runs[0].letter

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def ids(self) -> list[str]:
        """Of the rows that all its runs scored."""
        return [identity for identity in self.first.rows if all(identity in run.rows for run in self.runs)]

    @property
    def problem(self) -> str | None:
        """Why it cannot be compared."""
        for run in self.runs:
            if run.problem:
                return run.problem
            changed = changed_settings(self.first, run)
            if changed not in ([], SEED) or (changed == [] and run is not self.first):
                why = ", ".join(changed) + " differ" if changed else "one seed stands there twice"
                return f"{self.letter} is no group of seeds ({self.first.path}, {run.path}): {why}"
        return None

    def by_seed(self, recipe: Recipe, ids: list[str]) -> list[Values]:
        return [recipe.by_row([run.rows[identity] for identity in ids]) for run in self.runs]


def changed_settings(first: Run, other: Run) -> list[str]:
    keys = dict.fromkeys([*first.experiment, *other.experiment])
    return [key for key in keys if first.experiment.get(key) != other.experiment.get(key)]


def paths_of(word: str, runs_dir: str) -> list[Path]:
    if Path(word).name == "seeds.json":
        names = read_json(Path(word)).get("runs")
        if not names:
            raise ValueError(f"{word} does not say which runs it is of; name them with commas between")
        return [find(str(Path(word).parent.parent / name), runs_dir) for name in names.values()]
    try:
        return [find(word, runs_dir)]
    except ValueError:
        if "," not in word:  # a name may have one
            raise
    return [find(one, runs_dir) for one in word.split(",") if one]


def read(letter: str, path: Path, split: str) -> Run:
    """A run, finished or not. Raises ValueError when a finished one has no predictions of this split."""
    files = [path / f"{name}.json" for name in ("run", "scores")]
    record, scores = (read_mapping(file) if file.is_file() else {} for file in files)
    run = Run(letter, path, flatten(to_dict(RunFolder(path).config())), record, scores)
    status, file = RunFolder(path).status(), RunFolder(path).predictions(split)
    if status.get("exit_code") != DONE:
        run.problem = f"{letter} is not finished (phase: {status.get('phase', 'unknown')})"
        return run
    if not file.is_file():
        there = ", ".join(sorted(other.stem for other in file.parent.glob("*.jsonl")))
        raise ValueError(f"{path} has no predictions of the split {split!r}; it has: {there or 'none'}")
    rows = read_lines(file)
    run.rows = {row["id"]: row for row in rows}
    splits = scores.get("splits", {})
    if not isinstance(splits, dict):
        raise ValueError(f"{path}/scores.json cannot be read: its splits are no JSON object")
    summary = splits.get(split, {})
    run.labels, wanted = summary.get("labels"), summary.get("num_rows", len(rows))
    if not len(rows) == len(run.rows) == wanted:
        run.problem = f"{file} holds {len(rows)} rows and {len(run.rows)} ids, scores.json says {wanted}"
    return run


def facts(run: Run) -> dict[str, JSON]:
    """Everything that may explain a difference, by section."""
    record, counts = run.record, run.record.get("counts", {})
    cuts = {name: count for name, count in counts.items() if "cut" in name.split()}
    others = {name: count for name, count in counts.items() if name not in cuts}
    files = {f"sha256 of {name}": digest[:12] for name, digest in record.get("files", {}).items()}
    sizes = {f"{split} rows": size for split, size in record.get("rows", {}).items()}
    start, scored = record.get("weights", "")[:12], run.scores.get("checkpoint")
    sections: dict[str, JSON] = {
        "configuration": run.experiment,
        "data": {"commit": record.get("revision"), "rejected": record.get("num_rejected"), **others, **files},
        "split": sizes,
        "truncation": {"data.max_length": run.config.get("data.max_length"), **cuts},
        "environment": record.get("environment", {}),
        "weights": {"at the start": start, "scored checkpoint": scored, **run.weights},
        "hardware and tracking": {k: v for k, v in run.config.items() if k not in run.experiment},
    }
    for name, digest in record.get("fingerprints", {}).items():
        sections.setdefault(name, {})["fingerprint"] = digest[:12]
    return {name: {k: v for k, v in part.items() if v not in (None, "")} for name, part in sections.items()}


def what_differs(sides: list[Side]) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    by_side = [[facts(run) for run in side.runs] for side in sides]
    differing: dict[str, dict[str, list[str]]] = {}
    equal = []
    for section in dict.fromkeys(name for group in by_side for one in group for name in one):
        parts = [[one.get(section, {}) for one in group] for group in by_side]
        keys = dict.fromkeys(key for group in parts for part in group for key in part)
        values = {
            key: [", ".join(dict.fromkeys(str(part.get(key, "-")) for part in group)) for group in parts]
            for key in keys
        }
        if found := {key: said for key, said in values.items() if len(set(said)) > 1}:
            differing[section] = found
        elif values:
            equal.append(section)
    return differing, equal
