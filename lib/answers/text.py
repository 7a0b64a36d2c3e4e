"""An answer that is a text: what a model wrote, beside what was to be written."""

import hashlib
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.answers import Answers, Values, text_metrics
from lib.base.contents import Details
from lib.recipe import Example, Prediction, Recipe

OTHER_ROW = "another row's text"
KEPT = ("target", "sources", "short")  # of an example, in its prediction
REPEATS = (
    0.5  # a mean repetition from which a model is called out: half of its runs of words stood there before
)


class Written(Details, total=False):
    signatures: dict[str, str]  # how the scores were computed
    num_again: int  # rows with tokens that were computed again alone: another had been nearly as likely
    mean_tokens: float  # of a text, its end included


class Text:
    """Targets and answers are texts."""

    template = Path(__file__).with_suffix(".html.jinja")
    chance: tuple[str, ...] = (OTHER_ROW,)

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def target(self, row: Example | Prediction) -> Any:
        return row.get("target")

    def answer(self, prediction: Prediction) -> Any:
        return prediction.get("answer")

    def words(self, value: Any, row: Example | Prediction) -> str:
        return "" if value is None else value

    def kept(self, prediction: Prediction, example: Example) -> Prediction:
        known = {key: example[key] for key in KEPT if example.get(key) is not None}  # type: ignore[literal-required]
        return Prediction(**{**prediction, **known})  # type: ignore[typeddict-item]

    def wrong(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Those that are not the target's words, those with the least in common first."""
        rows = [row for row in predictions if "answer" in row and text_metrics.rouge_l(row) < 1]
        return sorted(rows, key=text_metrics.rouge_l)

    def shown(self, wrong: Sequence[Prediction], most: int) -> list[Prediction]:
        """Some from the worst to the best, evenly."""
        count = min(most, len(wrong))
        return [wrong[round(place * (len(wrong) - 1) / max(1, count - 1))] for place in range(count)]

    def likeness(self, row: Prediction) -> float:
        """For the template."""
        return text_metrics.rouge_l(row)

    def distance(self, new: Prediction, old: Prediction) -> float:
        """Of the losses for each token; 1 more where both wrote and not the same."""
        apart = 0.0
        if "loss" in new and "loss" in old:
            losses = [row["loss"] / row["num_tokens"] for row in (new, old)]
            apart = abs(losses[0] - losses[1]) if new["num_tokens"] == old["num_tokens"] else math.inf
        both = "answer" in new and "answer" in old
        return apart + (both and new["answer"] != old["answer"]) if math.isfinite(apart) else math.inf

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        return {}

    def details(self, predictions: Sequence[Prediction]) -> Details:
        written = [row for row in predictions if "num_written" in row]
        details = Written(signatures=text_metrics.signatures())
        if written:
            details["num_again"] = sum(row.get("again", False) for row in written)
            details["mean_tokens"] = sum(row["num_written"] for row in written) / len(written)
        return details

    def warnings(self, predictions: Sequence[Prediction]) -> list[str]:
        texts = [row["answer"] for row in predictions if "answer" in row]
        if not texts:
            return []
        warnings = []
        if len(set(texts)) == 1 and len({row.get("target") for row in predictions}) > 1:
            warnings.append(f"THE MODEL WRITES ONE AND THE SAME TEXT FOR EVERY ROW: {texts[0][:80]!r}")
        empty = sum(not text.strip() for text in texts)
        if empty > len(texts) / 2:
            warnings.append(f"{empty} OF {len(texts)} TEXTS ARE EMPTY")
        repetition = sum(map(text_metrics.repetition, texts)) / len(texts)
        if repetition > REPEATS:
            warnings.append(
                f"THE MODEL REPEATS ITSELF: {repetition:.0%} OF ITS RUNS OF FOUR WORDS STOOD BEFORE"
            )
        going = [row for row in predictions if "num_written" in row and not row.get("ended", False)]
        if len(going) > len(texts) / 2:
            lengths = [row["num_tokens"] for row in predictions if "num_tokens" in row]
            most = max(row["num_written"] for row in going)
            right = f"; THE RIGHT ONES HAVE A MEDIAN OF {statistics.median(lengths):.0f}" if lengths else ""
            warnings.append(f"{len(going)} OF {len(texts)} TEXTS HAD NOT ENDED AFTER {most} TOKENS{right}")
        return warnings

    def baselines(self, train: list[Example], rows: list[Example]) -> dict[str, Values]:
        """The text of another row, drawn by the row's id; and what the recipe's writers make of each row."""

        def other(row: Example) -> str:
            draw = int.from_bytes(hashlib.sha256(row["id"].encode("utf-8", "replace")).digest()[:8], "big")
            return train[draw % len(train)]["target"]

        writers = {OTHER_ROW: other, **self.recipe.writers}
        return {name: self._values([(row, write(row)) for row in rows]) for name, write in writers.items()}

    def _values(self, written: list[tuple[Example, str]]) -> Values:
        rows = [self.kept(Prediction(id=row["id"], answer=answer), row) for row, answer in written]
        return self.recipe.by_row(rows)


def make(recipe: Recipe) -> Answers:
    return Text(recipe)
