"""Two or more finished runs: what differs between them, and whether one is better on the rows both scored.

Each run is held against the first, row by row; a difference is its score minus the first run's. Only what the
run folders hold is read, and what cannot be compared is refused with the reason.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lib import recipe as recipes
from lib.answers import intervals
from lib.answers import load as answers_of
from lib.answers.intervals import Groups, Interval, signed
from lib.base.exits import DONE, CheckError
from lib.base.files import read_json, read_lines
from lib.config import to_dict
from lib.config_keys import flatten
from lib.recipe import Prediction
from lib.runs.folder import RunFolder, find

ENOUGH_IN_COMMON = 0.9  # share of either run's rows
HARDWARE = ("compute", "tracking")  # parts of the configuration that decide no number
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
        return {key: value for key, value in self.config.items() if key.split(".")[0] not in HARDWARE}

    @property
    def weights(self) -> dict[str, str]:
        """File -> sha256 of the scored checkpoint; empty when that is gone."""
        manifest = self.path / "checkpoints" / self.scores.get("checkpoint", "best") / "manifest.json"
        files = read_json(manifest)["body"]["files"] if manifest.is_file() else {}
        names = [name for name in files if name.endswith(".safetensors") and "optimizer" not in name]
        return {name: files[name]["sha256"][:12] for name in names}


def read(letter: str, path: Path, split: str) -> Run:
    """A run, finished or not. Raises ValueError when a finished one has no predictions of this split."""
    files = [path / f"{name}.json" for name in ("run", "scores")]
    record, scores = (read_json(file) if file.is_file() else {} for file in files)
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
    summary = scores.get("splits", {}).get(split, {})
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


def describe(runs: list[Run]) -> list[str]:
    """The runs, a line for each fact that differs, and one line for all sections that do not."""
    all_facts = [facts(run) for run in runs]
    rows = [["what differs", *(run.letter for run in runs)]]
    equal: list[str] = []
    for section in dict.fromkeys(name for one in all_facts for name in one):
        parts = [one.get(section, {}) for one in all_facts]
        keys = dict.fromkeys(key for part in parts for key in part)
        values = [[f"  {key}", *(str(part.get(key, "-")) for part in parts)] for key in keys]
        differing = [row for row in values if len(set(row[1:])) > 1]
        rows += [[section], *differing] if differing else []
        equal += [section] if values and not differing else []
    lines = [f"{run.letter}  {run.path}" for run in runs] + ["", *columns(rows)]
    return [*lines, f"equal: {', '.join(equal) or 'nothing'}", ""]


def columns(rows: list[list[str]]) -> list[str]:
    """Left-aligned columns, two blanks between."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows]


def common(first: Run, other: Run, common_rows: bool) -> list[str]:
    """Ids of the rows both scored. Raises CheckError with the reason when the two are not comparable."""
    a, b = first.letter, other.letter
    if problem := first.problem or other.problem:
        raise CheckError(problem)
    if first.config["recipe"] != other.config["recipe"]:
        raise CheckError(f"the recipe of {a} is {first.config['recipe']}, of {b} {other.config['recipe']}")
    if first.labels and other.labels and first.labels != other.labels:
        raise CheckError(f"the labels of {a} are {first.labels}, of {b} {other.labels}")
    ids = [identity for identity in first.rows if identity in other.rows]
    if not ids:
        raise CheckError("no row was scored by both")
    target = answers_of(recipes.load(first.config["recipe"])).target
    targets = {i: [target(run.rows[i]) for run in (first, other)] for i in ids}
    changed = [
        f"row {i}: {a} {old!s:.80}, {b} {new!s:.80}" for i, (old, new) in targets.items() if old != new
    ]
    if changed:
        shown = ", ".join(changed[:3])
        raise CheckError(f"{len(changed)} of {len(ids)} common rows have two labels: {shown}")
    if len(ids) < ENOUGH_IN_COMMON * max(len(first.rows), len(other.rows)) and not common_rows:
        sizes = f"{a} scored {len(first.rows)}, {b} {len(other.rows)}"
        raise CheckError(f"only {len(ids)} rows in common ({sizes}); --common-rows compares on those alone")
    return ids


def changed_settings(first: Run, other: Run) -> list[str]:
    keys = dict.fromkeys([*first.experiment, *other.experiment])
    return [key for key in keys if first.experiment.get(key) != other.experiment.get(key)]


def notes(first: Run, other: Run, num_rows: int, num_changed: int, equal_scores: bool) -> list[str]:
    """What to mind although the two are comparable."""
    settings, mind = changed_settings(first, other), []
    old, new = (run.record.get("fingerprints", {}) for run in (first, other))
    if num_rows < max(len(first.rows), len(other.rows)):
        sizes = " and ".join(f"{run.letter} scored {len(run.rows):,}" for run in (first, other))
        mind.append(f"compared only on the {num_rows:,} rows that both scored; {sizes}")
    if not any("group" in next(iter(run.rows.values())) for run in (first, other)):
        mind.append(
            "neither run's predictions say which rows belong together; scripts/evaluate.py writes such"
        )
    if old.get("split") != new.get("split"):
        mind.append("the split differs, so the two trained on different rows")
    if old.get("data") != new.get("data"):
        mind.append(
            "the data differ; these rows agree in id and label, but their texts may not: run.json has one "
            "sha256 for all rows, so an id whose text changed cannot be seen"
        )
    if settings == ["optim.seed"]:
        also = "" if old.get("data") == new.get("data") else ", and that of other data"
        mind.append(f"only --seed differs: the difference measures seed noise{also}, no setting")
    if not num_changed and settings:
        which = "the same" if first.weights == other.weights else "OTHER"
        evidence = f"the scored checkpoints hold {which} weights"
        if not (first.weights and other.weights):
            evidence = "they must be the same weights (a checkpoint is gone, so this is not checked)"
        mind.append(f"the same to the last digit though {', '.join(settings)} differ: {evidence}")
    elif num_changed and equal_scores:
        mind.append(f"all scores are equal, yet {num_changed:,} of {num_rows:,} predictions are not")
    return mind


def pair(first: Run, other: Run, ids: list[str]) -> tuple[list[str], list[Interval], str]:
    """Lines on two runs; the first score of each and the difference; the verdict in a word or two."""
    recipe = recipes.load(first.config["recipe"])
    distance = answers_of(recipe).distance
    one, two = ([run.rows[identity] for identity in ids] for run in (first, other))
    groups = Groups.of(one if "group" in one[0] else two)
    before, after = (recipe.by_row(rows) for rows in (one, two))
    scores = [intervals.score(values, groups, recipe.metrics) for values in (before, after)]
    scores.append({name: intervals.difference(before[name], after[name], groups) for name in before})
    a, b, name = first.letter, other.letter, recipe.metrics[0].name
    num_changed = sum(distance(new, old) != 0 for old, new in zip(one, two, strict=True))
    word, why = intervals.verdict(scores[2][name], groups, recipe.better)
    if not num_changed:
        word, why = "the same", " in every prediction"
    table = [[f"{b} against {a}", a, b, f"{b} - {a}"]]
    table += [[f"  {s}", str(scores[0][s]), str(scores[1][s]), signed(scores[2][s])] for s in scores[2]]
    mind = notes(first, other, len(ids), num_changed, all(one.value == 0 for one in scores[2].values()))
    size = f"{len(ids):,} rows in {len(groups):,} groups"
    lines = [*columns(table), f"verdict by {name} on {size}, {b} against {a}: {word}{why}"]
    return lines + [f"mind: {note}" for note in mind] + [""], [by_name[name] for by_name in scores], word


def seeds(runs: list[Run], values: list[float]) -> list[str]:
    """The spread of runs that are seeds of one experiment; nothing for others, or where one has no value."""
    changed = [changed_settings(runs[0], run) for run in runs[1:]]
    if len(values) < len(runs) or any(settings != ["optim.seed"] for settings in changed):
        return []
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return [f"{len(runs)} seeds of one experiment: mean {mean:.4f}, standard deviation {deviation:.4f}"]


def compare(
    words: tuple[str, ...], split: str, common_rows: bool, runs_dir: str, say: Callable[[str], None]
) -> None:
    """Say what differs, then hold each run against the first. Raises ValueError or, last, CheckError."""
    if not 2 <= len(words) <= len(ascii_uppercase):
        raise ValueError(f"{len(words)} runs given; give 2 to {len(ascii_uppercase)}")
    paths = [find(word, runs_dir) for word in words]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("a run is given twice; give every run once")
    runs = [read(letter, path, split) for letter, path in zip(ascii_uppercase, paths, strict=False)]
    say("\n".join(describe(runs)))
    first, refused = runs[0], []
    values: list[float] = []
    table = [["run", f"first score, {split}", f"difference to {first.letter}", "verdict"]]
    for run in runs[1:]:
        try:
            lines, (before, after, difference), word = pair(first, run, common(first, run, common_rows))
        except CheckError as error:
            refused.append(f"{run.letter} is not comparable with {first.letter}: {error}")
            table.append([f"{run.letter} {run.path.name}", "-", "-", "not comparable"])
            continue
        say("\n".join(lines))
        if not values:
            table.insert(1, [f"{first.letter} {first.path.name}", str(before), "-", "-"])
        values += [after.value] if values else [before.value, after.value]
        table.append([f"{run.letter} {run.path.name}", str(after), signed(difference), word])
    if len(runs) > 2:
        say("\n".join(columns(table) + seeds(runs, values)))
    if refused:
        raise CheckError("\n".join(refused))
