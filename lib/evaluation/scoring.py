"""Predictions of some encoded rows -> scores beside their baselines: after training, and again in
evaluate.py."""

from lib.answers import hits
from lib.answers import load as answers_of
from lib.base.contents import RunScores, Summary
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
            beside = answers.baselines(examples["train"], examples[split])
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
