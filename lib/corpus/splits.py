"""Raw rows -> the examples of train, validation and test.

Splits that a data set lacks are made by hashing each row's group (its prompt, its passage), so a row never
changes sides, whatever the seed, the order or the number of rows, and no group straddles a split.
"""

import hashlib
import json
import math
import unicodedata
from collections import Counter
from itertools import combinations
from typing import Any

from lib.answers import load as answers_of
from lib.base.exits import CheckError
from lib.corpus.readers import RawRow, Rejected
from lib.corpus.sources import SPLITS
from lib.recipe import Example, Recipe, Row

TEN_PERCENT = 0.1  # share of validation, and of test, where a data set has none (80/10/10)


def digest(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def side_of(group: str) -> str:
    """The split a group belongs to: 10 % test, 10 % validation, the rest train."""
    place = int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    return "test" if place < TEN_PERCENT else "validation" if place < 2 * TEN_PERCENT else "train"


def group_digest(group: str) -> str:
    """What predictions say of their row's group, which may be a whole passage."""
    return hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def divide(splits: dict[str, list[Example]], max_rows: int | None) -> dict[str, list[Example]]:
    """The rows of train, validation and test: those that are lacking are taken out of train by each row's
    group; of each the first `max_rows`. Raises ValueError when one is empty."""
    divided: dict[str, list[Example]] = {split: list(splits.get(split, [])) for split in SPLITS}
    rows, divided["train"] = divided["train"], []
    for row in rows:
        side = side_of(row["group"])
        divided["train" if side in splits else side].append(row)
    divided = {split: rows[:max_rows] for split, rows in divided.items()}
    have = ", ".join(f"{name} {len(rows)}" for name, rows in divided.items())
    empty = [split for split, rows in divided.items() if not rows]
    if empty:
        raise ValueError(
            f"no rows for the split {empty[0]} ({have}); give more rows, or a file for this split"
        )
    return divided


def probes(recipe: Recipe) -> list[Example]:
    """The rows that a recipe wants answered before and after training."""
    rows = enumerate(recipe.probes, 1)
    return [Example(**{**recipe.to_example(row), "id": f"probe {number}"}) for number, row in rows]  # type: ignore[typeddict-item]


def to_examples(
    rows: list[RawRow], recipe: Recipe, with_label: bool, named: str = "row"
) -> tuple[list[Example], list[Rejected]]:
    """The usable rows; and those that are malformed, or have no answer where one is needed. Rows without an
    id are called by `named` and their number, whatever their file is called."""
    answers = answers_of(recipe)
    examples: list[Example] = []
    rejected: list[Rejected] = []
    for number, row in enumerate(rows):
        try:
            example = recipe.to_example(row.values if with_label else _unanswered(row.values, recipe))
            if with_label and answers.target(example) is None:
                raise ValueError(_no_answer(row, recipe))
        except ValueError as error:
            rejected.append(Rejected.of(row.where, error, row.values))
            continue
        except KeyError as error:
            rejected.append(Rejected.of(row.where, f"the column {error.args[0]} is missing", row.values))
            continue
        # blanks around a prompt, an umlaut written as one character or as two make it no other prompt
        example["group"] = unicodedata.normalize("NFC", example["group"].strip())
        example.setdefault("id", f"{named}:{number}")
        examples.append(example)
    return examples, rejected


def _unanswered(values: Row, recipe: Recipe) -> Row:
    """A row that is only to be predicted, without the answers that are not there yet, as files say it: empty,
    null, NaN, -1, NA, ?."""
    blank = ("", "none", "nan", "-1", "-1.0", "null", "na", "n/a", "<na>", "nat", "\\n", "?")
    return {
        column: value
        for column, value in values.items()
        if column not in recipe.label_columns or str(value).strip().lower() not in blank
    }


def _no_answer(row: RawRow, recipe: Recipe) -> str:
    missing = [column for column in recipe.label_columns if column not in row.values]
    several = len(recipe.columns) > 1  # then a row lacks the answers of the other forms anyway
    return "there is no answer" if several or not missing else f"the column {missing[0]} is missing"


def refuse_rejected(
    rejected: list[Rejected], counts: tuple[int, int], max_rejected: float, listed: bool = True
) -> None:
    """Raises ValueError when more rows cannot be used than `max_rejected` (a share) allows. `counts`: of
    these rows (`rejected` may hold the first of them only) and of all. `listed`: in rejected.jsonl, and
    the share can be raised."""
    number, total = counts
    if number and number / total > max_rejected:
        shown = [(row.where, row.reason, row.value[:120]) for row in rejected[:5]]
        lines = ["  " + ": ".join(filter(None, words)) for words in shown]
        where = " (see rejected.jsonl)" if listed else ""
        more = [f"  ... and {number - 5} more{where}"] if number > 5 else []
        share = math.ceil(100 * number / total) / 100
        allow = f", or allow them with --max-rejected {share:g}" if share < 1 and listed else ""
        raise ValueError(
            f"{number} of {total} rows cannot be used, more than --max-rejected "
            f"{max_rejected:g} allows:\n" + "\n".join(lines + more) + f"\nmend them{allow}"
        )


def refuse_doubled_ids(splits: dict[str, list[Example]]) -> None:
    """Raises ValueError when an id stands on two rows."""
    counts = Counter(example["id"] for rows in splits.values() for example in rows)
    doubled = [identity for identity, count in counts.items() if count > 1]
    if doubled:
        shown = ", ".join(doubled[:5])
        raise ValueError(
            f"{len(doubled)} ids stand on more than one row ({shown}); every row needs an id of its own"
        )


def refuse_leaks(splits: dict[str, list[Example]]) -> None:
    """Raises CheckError when a group stands in two of the given splits."""
    groups = {split: {row["group"]: row["id"] for row in rows} for split, rows in splits.items()}
    for first, second in combinations(groups, 2):
        shared = groups[first].keys() & groups[second].keys()
        if shared:
            group = min(shared)
            raise CheckError(
                f"{len(shared)} prompts stand in both the {first} and the {second} rows, for example rows "
                f"{groups[first][group]} and {groups[second][group]}: {group[:80]!r}; scores would be too "
                "good. Take them out of one file, or give one file with all rows (--data FILE), which is "
                "split by prompt"
            )


def count(splits: dict[str, list[Example]]) -> dict[str, int]:
    """Things that are used and worth counting: the recipe's notes, exact doubles."""
    counts: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for rows in splits.values():
        for example in rows:
            counts.update(example.get("notes", []))
            seen[digest({key: value for key, value in example.items() if key not in ("id", "notes")})] += 1
    counts["exact doubles"] = sum(number - 1 for number in seen.values())
    return {name: number for name, number in counts.items() if number}
