"""What is looked at before any weight loads: lengths, cuts, labels, rows that say the same on two sides, and
one row as the model will read it. Kept in lint.json; what is beyond a threshold refuses the run."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lib.answers import Answers
from lib.answers import load as answers_of
from lib.base.contents import Lint, SplitLint
from lib.base.exits import CheckError
from lib.config import DataConfig
from lib.corpus.corpus import Corpus
from lib.corpus.doubles import across_splits
from lib.corpus.encoded import Encoded
from lib.data.rows import EncodedRow
from lib.recipe import Example
from lib.task import Task

BINS = 8  # of the histogram of lengths, equally wide up to the longest sequence
MOST_PAIRS = 5  # of rows that say nearly the same are shown; all of them are counted

MOST_SHOWN = 240  # characters of a sequence on the console


def inspect(corpus: Corpus, encoded: Encoded, task: Task, between: Callable[[], None]) -> Lint:
    """What lint.json holds."""
    answers, examples = answers_of(corpus.recipe), corpus.splits
    rows = {split: encoded.rows(split) for split in examples}
    doubles, first = across_splits(examples, between), examples["train"][0]
    return {
        "splits": {split: _split(answers, task, examples[split], list(rows[split])) for split in examples},
        "near_duplicates": {
            pair: {"rows": len(rows), "shown": rows[:MOST_PAIRS]} for pair, rows in doubles.items()
        },
        "read_as": task.shown(rows["train"].row(0)),
        "target": answers.words(answers.target(first), first),
    }


def _split(answers: Answers, task: Task, examples: list[Example], rows: list[EncodedRow]) -> SplitLint:
    lengths = np.array([length for row in rows for length in task.lengths(row)])
    counts, edges = np.histogram(lengths, bins=BINS, range=(0, int(lengths.max())))
    return {
        "rows": len(rows),
        "lengths": {
            "median": int(np.median(lengths)),
            "p95": int(np.percentile(lengths, 95)),
            "longest": int(lengths.max()),
            "histogram": [
                [round(edge), int(count)] for edge, count in zip(edges[1:], counts, strict=True)
            ],  # (up to so many tokens, sequences)
        },
        "rows_cut": sum(row.num_cut > 0 for row in rows),
        "targets": sum(row.num_targets for row in rows),
        "labels": answers.counts(examples),
    }


def lines(lint: Lint) -> list[str]:
    """For the console: a line a split, the near-duplicates, the row as it is read."""
    lines = [f"{split}: {_line(part)}" for split, part in lint["splits"].items()]
    for pair, doubles in lint["near_duplicates"].items():
        first, second = doubles["shown"][0]
        lines.append(
            f"{doubles['rows']} rows of {pair} say nearly the same, {first} and {second} for example"
        )
    lines.append("the first training row, as the model reads it:")
    lines += [f"  {_shortened(text)}" for text in lint["read_as"]]
    return [*lines, f"  -> {_shortened(lint['target'])}"]


def _line(split: SplitLint) -> str:
    lengths, rows = split["lengths"], split["rows"]
    tokens = f"median {lengths['median']}, 95 % {lengths['p95']}, longest {lengths['longest']}"
    labels = ", ".join(f"{name} {count / rows:.0%}" for name, count in split["labels"].items())
    facts = [f"{rows} rows, tokens {tokens}", f"{split['rows_cut'] / rows:.0%} of the rows cut", labels]
    targets = split.get("targets", rows)
    facts += [f"{targets:,} tokens of texts carry loss"] if targets != rows else []
    return "; ".join(filter(None, facts))


def _above(share: float) -> str:
    """The share in two digits, rounded up, so that it is allowed."""
    return f"{min(1.0, math.ceil(round(100 * share, 6)) / 100):g}"


def _shortened(text: str) -> str:
    """One line for the console; lint.json has all of it."""
    line = text.replace("\n", " | ")
    return line if len(line) <= MOST_SHOWN else f"{line[: MOST_SHOWN // 2]} ... {line[-MOST_SHOWN // 2 :]}"


def histogram(lint: Lint) -> list[str]:
    """The lengths of the training sequences, drawn in characters."""
    bars = lint["splits"]["train"]["lengths"]["histogram"]
    most = max(count for _, count in bars)
    return [f"  up to {edge:5} tokens {count:7} {'#' * round(40 * count / most)}" for edge, count in bars]


def refuse(lint: Lint, data: DataConfig, kept: Path) -> None:
    """Raises CheckError with everything that is beyond a threshold, and the flag that allows it; `kept` is
    where `lint` can be read."""
    problems = []
    worst = max(part["rows_cut"] / part["rows"] for part in lint["splits"].values())
    for split, part in lint["splits"].items():
        cut, most = part["rows_cut"] / part["rows"], max(part["labels"].values(), default=0) / part["rows"]
        if cut > data.max_cut:
            problems.append(
                f"{cut:.0%} of the {split} rows are cut at --max-length {data.max_length}, more than "
                f"--max-cut {data.max_cut:g}; use a higher --max-length, or allow it with "
                f"--max-cut {_above(worst)}"
            )
        if split == "train" and most > data.max_prior:
            problems.append(
                f"{most:.0%} of the {split} rows have one label, more than --max-prior {data.max_prior:g}; "
                f"look at the labels, or allow it with --max-prior {_above(most)}"
            )
    scored = sum(part["rows"] for split, part in lint["splits"].items() if split != "train")
    alike = sum(doubles["rows"] for doubles in lint["near_duplicates"].values())
    if alike > data.max_near_duplicates * scored:
        problems.append(
            f"{alike} of {scored} validation and test rows say nearly the same as a row of another split, "
            f"more than --max-near-duplicates {data.max_near_duplicates:g}; scores would be too good. Take "
            f"them out, or allow it with --max-near-duplicates {_above(alike / scored)}"
        )
    if problems:
        raise CheckError("\n".join([*problems, f"all of it is in {kept}"]))
