"""Raw rows -> the examples of train, validation and test.

Splits that a data set lacks are made by hashing each row's group (its prompt, its passage), so a row never
changes sides, whatever the seed, the order or the number of rows, and no group straddles a split.
"""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from lib.config import DataConfig
from lib.data.sources import SPLITS, RawRow, Rejected, Source
from lib.exits import CheckError
from lib.recipe import Example, Recipe

TEN_PERCENT = 0.1  # share of validation, and of test, where a data set has none (80/10/10)


@dataclass
class Examples:
    """The usable rows of each split, and what is to be said about the others."""

    splits: dict[str, list[Example]]
    rejected: list[Rejected] = field(default_factory=list)
    num_read: int = 0
    """Rows that were read, usable or not."""
    counts: dict[str, int] = field(default_factory=dict)
    """Things that were used and counted: empty responses, exact doubles ..."""

    def fingerprints(self) -> dict[str, str]:
        """sha256 of what each split says and of which ids stand in it."""
        return {
            "data": digest([self.splits[split] for split in SPLITS]),
            "split": digest([[example["id"] for example in self.splits[split]] for split in SPLITS]),
        }


def digest(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def side_of(group: str) -> str:
    """The split a group belongs to: 10 % test, 10 % validation, the rest train."""
    place = int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    return "test" if place < TEN_PERCENT else "validation" if place < 2 * TEN_PERCENT else "train"


def make(source: Source, recipe: Recipe, with_label: bool = True) -> Examples:
    """Rows -> examples by the splits that the source has; malformed rows, and those without a label where
    one is needed, are set aside."""
    examples = Examples({}, list(source.rejected))
    examples.num_read = sum(map(len, source.splits.values())) + len(source.rejected)
    for split, rows in source.splits.items():
        examples.splits[split] = _to_examples(rows, recipe, examples, with_label)
    return examples


def complete(examples: Examples, config: DataConfig) -> Examples:
    """Check the examples and make the splits that are lacking. Raises ValueError (too many malformed rows,
    doubled ids, an empty split) or CheckError (a group on two sides)."""
    refuse_rejected(examples, config)
    refuse_doubled_ids(examples.splits)
    refuse_leaks(examples.splits)
    made: dict[str, list[Example]] = {split: list(examples.splits.get(split, [])) for split in SPLITS}
    rows, made["train"] = made["train"], []
    for row in rows:
        side = side_of(row["group"])
        made["train" if side in examples.splits else side].append(row)
    made = {split: rows[: config.max_rows] for split, rows in made.items()}
    have = ", ".join(f"{name} {len(rows)}" for name, rows in made.items())
    empty = [split for split, rows in made.items() if not rows]
    if empty:
        raise ValueError(
            f"no rows for the split {empty[0]} ({have}); give more rows, or a file for this split"
        )
    return replace(examples, splits=made, counts=_count(made))


def probes(recipe: Recipe) -> list[Example]:
    """The rows that a recipe wants answered before and after training."""
    rows = enumerate(recipe.probes, 1)
    return [Example(**{**recipe.to_example(row), "id": f"probe {number}"}) for number, row in rows]  # type: ignore[typeddict-item]


def _to_examples(rows: list[RawRow], recipe: Recipe, into: Examples, with_label: bool) -> list[Example]:
    found: list[Example] = []
    for number, row in enumerate(rows):
        try:
            example = recipe.to_example(row.values)
            if with_label and "label" not in example:
                raise ValueError(_no_answer(row, recipe))
        except ValueError as error:
            into.rejected.append(Rejected.of(row.where, error, row.values))
            continue
        except KeyError as error:
            into.rejected.append(Rejected.of(row.where, f"the column {error.args[0]} is missing", row.values))
            continue
        example["group"] = example["group"].strip()  # blanks around a prompt make it no other prompt
        example.setdefault("id", f"{row.where.rpartition(':')[0] or 'row'}:{number}")
        found.append(example)
    return found


def _no_answer(row: RawRow, recipe: Recipe) -> str:
    missing = [column for column in recipe.label_columns if column not in row.values]
    several = len(recipe.columns) > 1  # then a row lacks the answers of the other forms anyway
    return "there is no answer" if several or not missing else f"the column {missing[0]} is missing"


def refuse_rejected(
    examples: Examples, config: DataConfig, num_rejected: int | None = None, listed: bool = True
) -> None:
    """Raises ValueError when more rows are malformed than `config` allows: `num_rejected` of them, when
    `examples` has not all. `listed`: in rejected.jsonl, and the share can be raised."""
    rejected, total = examples.rejected, examples.num_read
    number = len(rejected) if num_rejected is None else num_rejected
    if number and number / total > config.max_rejected:
        lines = [f"  {row.where}: {row.reason}: {row.value[:120]}" for row in rejected[:5]]
        where = " (see rejected.jsonl)" if listed else ""
        more = [f"  ... and {number - 5} more{where}"] if number > 5 else []
        share = math.ceil(100 * number / total) / 100
        allow = f", or allow them with --max-rejected {share:g}" if share < 1 and listed else ""
        raise ValueError(
            f"{number} of {total} rows are malformed, more than --max-rejected "
            f"{config.max_rejected:g} allows:\n" + "\n".join(lines + more) + f"\nmend them{allow}"
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


def _count(splits: dict[str, list[Example]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for rows in splits.values():
        for example in rows:
            counts.update(example.get("notes", []))
            seen[digest({key: value for key, value in example.items() if key not in ("id", "notes")})] += 1
    counts["exact doubles"] = sum(count - 1 for count in seen.values())
    return {name: count for name, count in counts.items() if count}
