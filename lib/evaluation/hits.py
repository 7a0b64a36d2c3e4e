"""Did the retriever find the passage that holds the answer, and whose are the errors: its or the reader's?

Only rows that name their passage and got a retrieved context are counted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.evaluation import metrics
from lib.recipe import Example, Prediction, Scores

PLACES = (1, 3, 10)


def summarize(examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """hit@k for k of PLACES and the number of passages searched, each with its interval, and how many rows
    are right and wrong where the passage was found and where not. None when no row names its passage."""
    said = {row["id"]: row for row in predictions}
    rows = [row for row in examples if "passage_id" in row and "retrieved" in row]
    if not rows:
        return None
    places = {row["id"]: _place(row) for row in rows}
    num_passages = max(len(row["retrieved"]) for row in rows)
    tops = sorted({*(k for k in PLACES if k < num_passages), num_passages})
    columns = {f"hit@{k}": _column(places, k) for k in tops}

    def score(table: Sequence[Prediction]) -> Scores:
        assert isinstance(table, metrics.Table)
        return {name: float(table.by_row(column).mean()) for name, column in columns.items()}

    found = metrics.intervals([said[row["id"]] for row in rows], score)
    errors = {f"{f}, {r}": 0 for f in ("found", "not found") for r in ("right", "wrong")}
    for identity, place in places.items():
        right = said[identity]["prediction"] == said[identity]["label"]
        errors[f"{'found' if place else 'not found'}, {'right' if right else 'wrong'}"] += 1
    scores = metrics.as_values(found)
    return {"num_rows": len(rows), "num_passages": num_passages, "scores": scores, "errors": errors}


def warnings(summary: dict[str, Any], examples: Sequence[Example]) -> list[str]:
    if any(summary["errors"][f"found, {word}"] for word in ("right", "wrong")):
        return []
    gold, got = next(
        (r["passage_id"], r["retrieved"][0]) for r in examples if "passage_id" in r and "retrieved" in r
    )
    return [
        f"NO ROW'S PASSAGE WAS FOUND: IS passage_id ({gold!r}) WRITTEN LIKE THE IDS OF THE INDEX ({got!r})?"
    ]


def lines(summary: dict[str, Any]) -> list[str]:
    """For the console, under the table of scores."""
    scores = "  ".join(
        f"{name} {s['value']:.4f} [{s['low']:.4f}, {s['high']:.4f}]" for name, s in summary["scores"].items()
    )
    errors = "; ".join(f"{name} {count}" for name, count in summary["errors"].items())
    return [
        f"retriever: {scores} ({summary['num_rows']} rows name their passage)",
        f"passage among {summary['num_passages']} / answer: {errors}",
    ]


def _place(row: Example) -> int:
    """1 for the nearest passage; 0 when it was not found."""
    return row["retrieved"].index(row["passage_id"]) + 1 if row["passage_id"] in row["retrieved"] else 0


def _column(places: dict[str, int], k: int) -> metrics.ByRow:
    return lambda rows: np.array([0 < places[row["id"]] <= k for row in rows], np.float64)
