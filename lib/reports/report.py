"""A finished run -> report.html: one page that needs nothing beside it, on a screen, a phone or paper.

What a run does not have (targets, predictions, a log) is left out. Texts of a data set are hostile: the
template escapes everything but our own plots, and the page's policy forbids scripts and requests.
"""

import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import recipe as recipes
from lib.answers import Answers
from lib.answers import load as answers_of
from lib.base.contents import Record, RunScores
from lib.base.files import read_json, read_lines
from lib.base.moments import amount, span
from lib.config import Config
from lib.config_keys import flatten
from lib.config_tree import to_dict
from lib.recipe import Example, Prediction, Recipe
from lib.reports.curves import curves_of
from lib.reports.page import render, write_page
from lib.reports.passages import passages_of
from lib.reports.summary import who_beats_whom
from lib.runs import sittings
from lib.runs.folder import FORMAT, RunFolder

MOST_MISTAKES = 10

TEMPLATE = Path(__file__).with_suffix(".html.jinja")


def write_report(folder: RunFolder, examples: dict[str, list[Example]]) -> Path:
    """Write `report.html` into the run folder; `examples` are the rows of each split, with their texts."""
    config, record, scores = folder.config(), folder.record(), read_json(folder.path / "scores.json")
    recipe = recipes.load(config.recipe)
    answers = answers_of(recipe)
    rejected = folder.path / "rejected.jsonl"
    lines = read_lines(folder.metrics) if folder.metrics.exists() else []
    page = render(
        TEMPLATE,
        answers.template,
        answers=answers,
        config=config,
        record=record,
        run=folder.path.name,
        begun=_begun(folder.path.name),
        took=_took(record.get("training_seconds", 0)),
        cost=_cost(folder, record),
        rate=_rate(lines),
        mfu=_mfu(lines),
        peaks=[_flop_rate(**peak) for peak in record.get("peaks", {}).values()],
        scores=scores,
        better=recipe.better,
        warnings=_warnings(scores),
        verdicts={split: who_beats_whom(found) for split, found in scores["splits"].items()},
        curves=curves_of(lines, recipe),
        mistakes=_mistakes(answers, folder, examples),
        probes=_probes(folder, examples),
        before=_before(folder),
        twins=read_json(folder.path / "twins.json") if (folder.path / "twins.json").exists() else None,
        lint=read_json(folder.lint) if folder.lint.exists() else None,
        rejected=read_lines(rejected)[:5] if rejected.exists() else [],
        settings=_settings(config, recipe),
        commands=_commands(folder, config),
    )
    return write_page(folder.path / "report.html", page)


def _begun(name: str) -> str | None:
    """20231215_120000-name -> 2023-12-15 12:00; None when the folder was given another name."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.strptime(name.partition("-")[0], FORMAT))
    except ValueError:
        return None


def _took(seconds: float) -> str | None:
    """45 -> 45 s, 340 -> 6 min, 3725 -> 1 h 2 min; None for no time at all."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if seconds >= 60 else f"{seconds:.0f} s" if seconds else None


def _cost(folder: RunFolder, record: Record) -> str | None:
    """What all sittings of a run cost. None without a price."""
    spent = sittings.spent(folder)
    if spent is None:
        return None
    prices = sorted({one["price"] for one in record["sittings"] if one["price"]})
    return (
        f"{amount(spent[0])} for {span(spent[1])} of the machine, start-up and evaluation included, at "
        f"{' and '.join(f'{price:g}' for price in prices)} an hour"
    )


def _rate(lines: list[dict[str, Any]]) -> str | None:
    """Rows of all steps / their seconds. Runs of before did not record them."""
    steps = [line for line in lines if line["kind"] == "train" and {"rows", "seconds"} <= line.keys()]
    seconds = sum(step["seconds"] for step in steps)
    if not seconds:
        return None
    rate = sum(step["rows"] for step in steps) / seconds
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _mfu(lines: list[dict[str, Any]]) -> float | None:
    """Model FLOPs of all steps / what the devices could have done in their seconds. Runs of before did not
    record it."""
    steps = [line for line in lines if line["kind"] == "train" and "mfu" in line]
    seconds = sum(step["seconds"] for step in steps)
    return sum(step["mfu"] * step["seconds"] for step in steps) / seconds if seconds else None


def _flop_rate(flops_per_s: float, source: str) -> str:
    """3.12e14 -> 312 TFLOP/s"""
    tera = flops_per_s / 1e12
    shown = f"{tera:.4g} TFLOP/s" if tera >= 1 else f"{tera * 1000:.3g} GFLOP/s"
    return f"{shown}, {source}"


def _warnings(scores: RunScores) -> dict[str, list[str]]:
    """Each warning once, with the splits it holds for."""
    warnings: dict[str, list[str]] = {}
    for split, summary in scores["splits"].items():
        for warning in summary["warnings"]:
            warnings.setdefault(warning, []).append(split)
    return warnings


def _settings(config: Config, recipe: Recipe) -> list[list[tuple[str, Any, Any]]]:
    """(dotted key, value, what the recipe says), one list for each part of the configuration; without LoRA
    none of its settings but a rank of 0 that the recipe does not have."""
    own = flatten(to_dict(recipe.config))
    parts: dict[str, list[tuple[str, Any, Any]]] = {"": []}  # what belongs to no part comes first
    for key, value in flatten(to_dict(config)).items():
        turned_off = key == "adapter.lora_rank" and value != own[key]
        if key.startswith("adapter.lora_") and not config.adapter.lora_rank and not turned_off:
            continue
        parts.setdefault(key.rpartition(".")[0], []).append((key, value, own.get(key)))
    return list(parts.values())


def _commands(folder: RunFolder, config: Config) -> dict[str, str]:
    """What one may want to do with the run -> what to type for it, in the project's folder."""
    run = folder.path.name
    if config.tracking.runs_dir != "runs":  # where the scripts look names up
        run = str(Path(_from_here(config.tracking.runs_dir), config.recipe, run))
    run = shlex.quote(run)
    return {
        "Compare it with OTHER, the folder of another run": f"python scripts/compare.py {run} OTHER",
        "Predict the rows of FILE, which need no label": f"python scripts/predict.py {run} --data FILE",
        "Score it again": f"python scripts/evaluate.py {run}",
        "Export it to the new folder OUT": f"python scripts/export.py {run} OUT",
    }


def _from_here(runs_dir: str) -> str:
    """A full path only where there is no way around it: it names a place of this machine."""
    relative = os.path.relpath(runs_dir)
    return runs_dir if relative.startswith(os.pardir) else relative


@dataclass(frozen=True)
class Mistakes:
    """The false predictions of one split, and what the model had read in the worst of them."""

    split: str
    num_rows: int
    num_false: int
    worst: list[tuple[Prediction, list[tuple[str, list[str]]]]]
    """(prediction, [(name of a text, its turns)])"""


def _mistakes(answers: Answers, folder: RunFolder, examples: dict[str, list[Example]]) -> Mistakes | None:
    """Of test, of validation when there is no test. None when predictions or targets are missing."""
    split = next((name for name in ("test", "validation") if folder.predictions(name).exists()), "")
    rows: list[Prediction] = read_lines(folder.predictions(split)) if split else []
    if not rows or any(answers.target(row) is None for row in rows):
        return None
    wrong = answers.wrong(rows)
    read = {example["id"]: example for example in examples.get(split, [])}
    worst = [(row, list(passages_of(read.get(row["id"], {})))) for row in answers.shown(wrong, MOST_MISTAKES)]
    return Mistakes(split, len(rows), len(wrong), worst)


def _probes(folder: RunFolder, examples: dict[str, list[Example]]) -> list[Any]:
    """(passages, prediction before training, prediction after) of each of the recipe's probes."""
    files = [folder.predictions(name) for name in ("probes before", "probes")]
    if not all(file.exists() for file in files):
        return []
    passages = [list(passages_of(example)) for example in examples["probes"]]
    return list(zip(passages, *map(read_lines, files), strict=True))


def _before(folder: RunFolder) -> dict[str, Prediction]:
    """What the model said of the test rows before it was trained, by row."""
    file = folder.predictions("test before")
    return {row["id"]: row for row in read_lines(file)} if file.exists() else {}
