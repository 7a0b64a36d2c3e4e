"""A finished run -> a review sheet of its texts: opens the run for the words that its rows are made of."""

from dataclasses import dataclass
from pathlib import Path

from lib.evaluation.trained import TrainedRun
from lib.reports import sheet
from lib.reports.passages import passages_of
from lib.reports.sheet import Origin, Words


@dataclass(frozen=True)
class Made:
    """What came of it."""

    path: Path
    origin: Origin
    num_rows: int
    num_answered: int
    """Rows of the split that both models answered, of which these were drawn."""

    def in_words(self) -> str:
        return (
            f"{self.num_rows} of {self.num_answered} rows of the split {self.origin.split!r}: {self.path}; "
            "give each reviewer a copy, and read the filled ones with scripts/sheet.py --read A.xlsx B.xlsx"
        )


def make(run: Path, out: Path, split: str, num_rows: int, seed: int) -> Made:
    """Raises ValueError (no such texts, a file in the way), CheckError (the run's rows changed)."""
    sheet.refuse_taken(out)
    answered = sheet.texts_of(run, split)
    drawn = sheet.draw(answered, num_rows, seed)
    origin = Origin(run.resolve().name, split, seed)
    sheet.write_sheet(out, origin, drawn, words_of(run, split))
    return Made(out, origin, len(drawn), len(answered))


def words_of(run: Path, split: str) -> Words:
    """All that the models read of each row of a split. Raises ValueError, CheckError."""
    examples = TrainedRun.open(run).corpus().splits.get(split, [])
    return {example["id"]: list(passages_of(example)) for example in examples}
