"""Answers that name their source, or say that there is none in the context: what they say, and how well.

Scores here are shares of some rows only (of those that can be answered, of those that cite): the others are
NaN in what a score says of each row.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lib.answers.text_metrics import words
from lib.recipe import Metric, Prediction

REFUSAL = "Dazu steht nichts im Kontext."
Of = Callable[[Prediction], bool]
CITATION = re.compile(r"\(\s*Quelle\s*:([^()]*)\)", re.IGNORECASE)


def cite(words: str, source: str) -> str:
    """How a source is named, in a context and in an answer."""
    return f"{words} (Quelle: {source})"


@dataclass(frozen=True)
class Said:
    """What an answer says."""

    words: list[str]
    """Without its citations."""
    cited: list[str]
    """Each once; none where it refuses: there is nothing that could come from a source."""
    refused: bool


def said(answer: str) -> Said:
    rest = words(CITATION.sub(" ", answer))
    refused = _within(words(REFUSAL), rest)
    cited = [] if refused else list(map(named, CITATION.findall(answer)))
    return Said(rest, [source for source in dict.fromkeys(cited) if source], refused)


def uncited(answer: str) -> str:
    return " ".join(CITATION.sub(" ", answer).split())


def named(source: str) -> str:
    """As sources are compared: white space and the form of its umlauts make no other source of it."""
    return " ".join(unicodedata.normalize("NFC", source).split())


def _within(some: Sequence[str], all_words: Sequence[str]) -> bool:
    """Do they stand there side by side?"""
    size = len(some)
    return any(
        list(all_words[place : place + size]) == list(some) for place in range(len(all_words) - size + 1)
    )


def answerable(row: Prediction) -> bool:
    return "source" in row


def covered(row: Prediction) -> bool:
    """Does the answer hold what was asked for, word for word? A refusal holds nothing, whatever its words."""
    found = said(row["answer"])
    shorts = [] if found.refused else map(words, row.get("short", ()))
    return any(_within(short, found.words) for short in shorts if short)


def _cites(row: Prediction) -> bool:
    return bool(said(row["answer"]).cited)


def cites(row: Prediction, source: str) -> bool:
    """This source and no other."""
    return said(row["answer"]).cited == [named(source)]


def cites_right(row: Prediction) -> bool:
    return answerable(row) and cites(row, row["source"])


def _refuses(row: Prediction) -> bool:
    return said(row["answer"]).refused


def _unanswerable(row: Prediction) -> bool:
    return not answerable(row)


def _metric(name: str, value: Of, counted: Of, better: Literal["lower", "higher"] = "higher") -> Metric:
    """The share of the counted rows of which `value` is true."""

    def by_row(predictions: Sequence[Prediction]) -> np.ndarray:
        return np.array([float(value(row)) if counted(row) else np.nan for row in predictions])

    return Metric(name, by_row, better, share=True, partial=True, reads="answer")


def matrix(predictions: Sequence[Prediction]) -> dict[str, dict[str, int]]:
    """What there was to say -> what was said -> rows."""
    kinds = ("cites the right source", "cites another", "cites none", "refuses")
    counts = {name: dict.fromkeys(kinds, 0) for name in ("answerable", "not answerable")}
    for row in predictions:
        kind = kinds[3] if _refuses(row) else kinds[2] if not _cites(row) else kinds[1]
        if kind == kinds[1] and cites_right(row):
            kind = kinds[0]
        counts["answerable" if answerable(row) else "not answerable"][kind] += 1
    return counts


CITATION_PRECISION = _metric("citation_precision", cites_right, _cites)
"""Of the answers that cite, the share that cites the chunk with the answer and no other."""
CITATION_RECALL = _metric("citation_recall", cites_right, answerable)
"""Of the rows with an answer in their context, the share whose source, and no other, is cited."""
COVERAGE = _metric("coverage", covered, answerable)
"""Of these rows, the share whose text holds the short answer word for word."""
REFUSED = _metric("correct_refusals", _refuses, _unanswerable)
"""Of the rows without an answer in their context, the share that is refused; the rest are missed refusals."""
FALSE_REFUSALS = _metric("false_refusals", _refuses, answerable, better="lower")
"""Of the rows with an answer in their context, the share that is refused."""
ALL = (CITATION_PRECISION, CITATION_RECALL, COVERAGE, REFUSED, FALSE_REFUSALS)
