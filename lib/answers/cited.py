"""An answer that is a text with the source it was taken from, or a refusal."""

from collections.abc import Sequence
from pathlib import Path

from lib.answers import Answers, citing
from lib.answers.text import OTHER_ROW, Text, Written
from lib.base.contents import Details
from lib.recipe import Example, Prediction, Recipe

REFUSE = "always refuse"  # a baseline that looks at no row


class Scorecard(Written, total=False):
    matrix: dict[str, dict[str, int]]  # what there was to say -> what was said -> rows


class Cited(Text):
    """A text, and what it cites."""

    template = Path(__file__).with_suffix(".html.jinja")
    chance = (OTHER_ROW, REFUSE)

    def kept(self, prediction: Prediction, example: Example) -> Prediction:
        """With the source that is right, if the context has the answer."""
        prediction = super().kept(prediction, example)
        if "gold" in example:
            prediction = Prediction(**{**prediction, "source": example["sources"][example["gold"]]})  # type: ignore[typeddict-item]
        return prediction

    def details(self, predictions: Sequence[Prediction]) -> Details:
        card = Scorecard(**super().details(predictions))  # type: ignore[typeddict-item]
        card["matrix"] = citing.matrix([row for row in predictions if "answer" in row])
        return card


def make(recipe: Recipe) -> Answers:
    return Cited(recipe)
