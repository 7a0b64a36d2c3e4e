"""Predictions of some encoded rows -> scores beside their baselines: after training, and again in
evaluate.py."""

import hashlib

from lib.answers import BASE, Values, hits
from lib.answers import load as answers_of
from lib.base.contents import RunScores, Summary
from lib.base.files import read_lines
from lib.corpus.corpus import PROBES
from lib.corpus.splits import group_digest
from lib.data.rows import Rows
from lib.evaluation.predictor import Predictor
from lib.evaluation.trained import TrainedRun
from lib.recipe import Example, Prediction, Recipe
from lib.reports import summary
from lib.runs.folder import RunFolder


def kept(predictions: list[Prediction], examples: list[Example], recipe: Recipe) -> list[Prediction]:
    """Predictions as files keep them, with what their rows' words say: group, letters of options."""
    answers, by_id = answers_of(recipe), {example["id"]: example for example in examples}
    rows = [(row, by_id[row["id"]]) for row in predictions]
    return [
        answers.kept(Prediction(**{**row, "group": group_digest(example["group"])}), example)
        for row, example in rows
    ]


def some(rows: Rows, number: int) -> list[int]:
    """So many of the rows, always the same ones, wherever they stand."""
    return _drawn(rows.ids, number)


def some_of(examples: list[Example], number: int) -> list[Example]:
    return [examples[place] for place in _drawn([example["id"] for example in examples], number)]


def _drawn(ids: list[str], number: int) -> list[int]:
    draws = [hashlib.sha256(identity.encode("utf-8", "replace")).digest() for identity in ids]
    return sorted(sorted(range(len(ids)), key=draws.__getitem__)[:number])


def before(split: str) -> str:
    """The name under which a run keeps what its model said of a split before it was trained."""
    return f"{split} before"


def score(
    run: TrainedRun,
    predictor: Predictor,
    rows: dict[str, Rows],
    examples: dict[str, list[Example]],
    into: RunFolder,
) -> RunScores:
    """What scores.json holds for the splits of `rows`, whose words are among `examples` (with those that the
    run trained on, for the baselines). Every rank computes its share; rank 0 writes predictions/<split>.jsonl
    into `into`. Other ranks than 0 get no splits back. Probes are predicted only."""
    answers = answers_of(run.recipe)
    scored: dict[str, Summary] = {}
    for split, encoded in rows.items():
        predictions = kept(predictor.predict(encoded), examples[split], run.recipe)
        if not predictor.world.is_main:
            continue
        into.write_predictions(split, predictions)
        if run.recipe.submission is not None:
            into.write_submission(split, [run.recipe.submission(row) for row in predictions])
        if split != PROBES:
            beside = _of_base(run, predictions, split)
            beside |= answers.baselines(examples["train"], examples[split])
            scored[split] = summary.summarize(run.recipe, predictions, beside)
            if (retrieval := hits.summarize(answers, examples[split], predictions)) is not None:
                scored[split]["retrieval"] = retrieval
                scored[split]["warnings"] += hits.warnings(retrieval, examples[split])
    return {
        "checkpoint": run.checkpoint.name,
        "precision": predictor.world.precision,
        "token_budget": predictor.token_budget,
        "splits": scored,
    }


def _of_base(run: TrainedRun, predictions: list[Prediction], split: str) -> dict[str, Values]:
    """What the model scored before it was trained, where the run kept that of all these rows."""
    file = run.folder.predictions(before(split))
    rows: dict[str, Prediction] = {row["id"]: row for row in read_lines(file)} if file.is_file() else {}
    if not rows or any(row["id"] not in rows for row in predictions):
        return {}
    return {BASE: run.recipe.by_row([rows[row["id"]] for row in predictions])}
