"""Did the retriever find the passage that holds the answer, and whose are the errors: its or the reader's?

Only rows that name their passage and got a retrieved context are counted.
"""

from collections.abc import Sequence

import numpy as np

from lib.answers import Answers, intervals
from lib.answers.intervals import Groups, of_value
from lib.base.contents import Retrieval
from lib.recipe import Example, Prediction

PLACES = (1, 3, 10)


def summarize(
    answers: Answers, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> Retrieval | None:
    """hit@k for k of PLACES and the number of passages searched, each with its interval, and how many rows
    are right and wrong where the passage was found and where not. None when no row names its passage."""
    rows = [row for row in examples if "passage_id" in row and "retrieved" in row]
    if not rows:
        return None
    by_id = {row["id"]: row for row in predictions}
    read = [by_id[row["id"]] for row in rows]
    places = {row["id"]: _place(row) for row in rows}
    num_passages = max(len(row["retrieved"]) for row in rows)
    tops = sorted({*(k for k in PLACES if k < num_passages), num_passages})
    errors = {f"{where}, {how}": 0 for where in ("found", "not found") for how in ("right", "wrong")}
    wrong = {row["id"] for row in answers.wrong(read)}
    for identity, place in places.items():
        errors[f"{'found' if place else 'not found'}, {'wrong' if identity in wrong else 'right'}"] += 1
    groups, found = Groups.of(read), np.array([places[row["id"]] for row in read])
    scores = {
        f"hit@{k}": intervals.interval(((found > 0) & (found <= k)).astype(np.float64), groups, share=True)
        for k in tops
    }
    return Retrieval(
        num_rows=len(rows), num_passages=num_passages, scores=intervals.as_values(scores), errors=errors
    )


def warnings(retrieval: Retrieval, examples: Sequence[Example]) -> list[str]:
    if any(retrieval["errors"][f"found, {word}"] for word in ("right", "wrong")):
        return []
    gold, got = next(
        (r["passage_id"], r["retrieved"][0]) for r in examples if "passage_id" in r and "retrieved" in r
    )
    return [
        f"NO ROW'S PASSAGE WAS FOUND: IS passage_id ({gold!r}) WRITTEN LIKE THE IDS OF THE INDEX ({got!r})?"
    ]


def lines(retrieval: Retrieval) -> list[str]:
    """For the console, under the table of scores."""
    scores = "  ".join(f"{name} {of_value(score)}" for name, score in retrieval["scores"].items())
    errors = "; ".join(f"{name} {count}" for name, count in retrieval["errors"].items())
    return [
        f"retriever: {scores} ({retrieval['num_rows']} rows name their passage)",
        f"passage among {retrieval['num_passages']} / answer: {errors}",
    ]


def _place(row: Example) -> int:
    """1 for the nearest passage; 0 when it was not found."""
    return row["retrieved"].index(row["passage_id"]) + 1 if row["passage_id"] in row["retrieved"] else 0
