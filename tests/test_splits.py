"""Splits: a group stays on its side, nothing leaks, no row is lost, and what is odd is refused or counted."""

import json
import math
import random
from typing import Any

import pytest

from lib import recipe as recipes
from lib.base import exits
from lib.base.exits import CheckError
from lib.config import DataConfig
from lib.corpus import splits
from lib.corpus.corpus import Corpus
from lib.corpus.readers import RawRow, Rejected
from lib.corpus.sources import Source
from lib.recipe import Example

ARENA = recipes.load("arena")
ANY = DataConfig(max_rejected=0.0)


def example(number: int, **values: Any) -> Example:
    found: dict[str, Any] = {"id": f"row {number}", "group": f"prompt {number}", "notes": []}
    found |= {
        "context": [f"prompt {number}"],
        "texts": [[f"answer {number}"], ["other"]],
        "label": number % 3,
    }
    return Example(**(found | values))  # type: ignore[typeddict-item]


def complete(
    rows: list[Example], config: DataConfig = ANY, **given: list[Example]
) -> dict[str, list[Example]]:
    return Corpus(config, ARENA, {"train": rows, **given}, [], len(rows)).complete().splits


def ids(rows: list[Example]) -> list[str]:
    return [row["id"] for row in rows]


def of_side(side: str, num_groups: int) -> list[str]:
    """The first group names that belong to `side`."""
    return [name for name in map(str, range(1000)) if splits.side_of(name) == side][:num_groups]


def test_every_row_is_on_exactly_one_side_in_its_order() -> None:
    rows = [example(number) for number in range(200)]
    found = complete(rows)
    assert list(found) == ["train", "validation", "test"]
    together = [identity for side in found.values() for identity in ids(side)]
    assert sorted(together) == sorted(ids(rows))
    for side in found.values():
        assert side == [row for row in rows if row in side]


def test_a_group_stays_on_one_side() -> None:
    rows = [example(number, group=f"prompt {number % 40}") for number in range(200)]
    sides = [{row["group"] for row in side} for side in complete(rows).values()]
    assert sum(map(len, sides)) == 40


def test_a_side_depends_on_the_group_alone() -> None:
    # not on the order of the rows, how many there are, their ids, or any seed
    rows = [example(number) for number in range(300)]
    sides = {row["group"]: side for side, found in complete(rows).items() for row in found}
    other = [example(1000 + number, group=f"prompt {number}") for number in range(150)]
    random.Random(1).shuffle(other)
    for side, found in complete(other).items():
        assert {sides[row["group"]] for row in found} == {side}


def test_sides_are_the_same_on_every_machine() -> None:
    # The first 8 hex digits of each sha256 over 2**32: 0xe3b0c442 of "" is 0.889 and 0xba7816bf of "abc" is
    # 0.728, both train; 0x11fb8ad8 of "prompt 14" is 0.070, below 0.1; 0x259a648c of "prompt 2" is 0.147.
    assert (splits.side_of(""), splits.side_of("abc")) == ("train", "train")
    assert (splits.side_of("prompt 14"), splits.side_of("prompt 2")) == ("test", "validation")
    splits.side_of("\ud83d")  # half an emoji, which real rows have


def test_shares_are_about_80_10_and_10_percent() -> None:
    # Binomial: n groups of share p have a standard deviation of sqrt(n p (1 - p)), 42 of 20,000 at 0.1 and 57
    # at 0.8. A fair hash is more than 5 of them away once in 2 million draws.
    num_groups = 20_000
    sides = [splits.side_of(f"group {number}") for number in range(num_groups)]
    for side, share in {"train": 0.8, "validation": 0.1, "test": 0.1}.items():
        bound = 5 * math.sqrt(num_groups * share * (1 - share))
        assert abs(sides.count(side) - num_groups * share) < bound


def test_a_given_validation_stays_and_only_test_is_made() -> None:
    train = [example(number) for number in range(100)]
    validation = [example(1000 + number) for number in range(10)]
    found = complete(train, validation=validation)
    assert found["validation"] == validation
    assert found["test"] == [row for row in train if splits.side_of(row["group"]) == "test"]
    assert len(found["train"]) + len(found["test"]) == 100


def test_given_splits_are_left_as_they_are() -> None:
    rows = {name: [example(place * 100 + n) for n in range(20)] for place, name in enumerate(("a", "b", "c"))}
    found = complete(rows["a"], validation=rows["b"], test=rows["c"])
    assert found == {"train": rows["a"], "validation": rows["b"], "test": rows["c"]}


def test_max_rows_keeps_the_first_rows_of_each_split() -> None:
    rows = [example(number) for number in range(200)]
    whole, short = complete(rows), complete(rows, DataConfig(max_rows=4))
    assert short == {side: found[:4] for side, found in whole.items()}


def test_a_split_without_rows_is_refused() -> None:
    rows = [example(number, group=group) for number, group in enumerate(of_side("train", 5))]
    with pytest.raises(
        ValueError, match=r"no rows for the split validation \(train 5, validation 0, test 0\)"
    ):
        complete(rows)


def test_a_prompt_on_two_sides_is_refused_and_named() -> None:
    train = [example(number) for number in range(50)]
    leaking = example(99, group="prompt 7")
    with pytest.raises(
        CheckError, match="1 prompts stand in both the train and the validation rows"
    ) as refused:
        complete(train, validation=[leaking])
    for words in ("row 7", "row 99", "'prompt 7'"):
        assert words in str(refused.value)
    assert exits.code_of(refused.value) == 3


def test_a_leak_between_validation_and_test_is_refused() -> None:
    with pytest.raises(CheckError, match="both the validation and the test rows"):
        complete([example(1)], validation=[example(2)], test=[example(3, group="prompt 2")])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_doubled_ids_are_refused_and_named(split: str) -> None:
    rows = {"train": [example(number) for number in range(50)], "validation": [example(100)]}
    rows[split].append(example(200, id="row 7"))
    with pytest.raises(ValueError, match=r"1 ids stand on more than one row \(row 7\)") as refused:
        complete(rows["train"], validation=rows["validation"])
    assert exits.code_of(refused.value) == 2


def with_rejected(num_rejected: int, num_read: int, share: float) -> Corpus:
    rows = [example(number) for number in range(num_read - num_rejected)]
    rejected = [Rejected.of(f"rows.csv:{line}", "no winner", {"prompt": "p"}) for line in range(num_rejected)]
    return Corpus(DataConfig(max_rejected=share), ARENA, {"train": rows}, rejected, num_read).complete()


@pytest.mark.parametrize(
    # 0.29 * 100 is 28.999999999999996 and 0.07 * 100 is 7.000000000000001 in floating point
    ("share", "num_read", "most"),
    [(0.01, 300, 3), (0.07, 100, 7), (0.29, 100, 29), (0.0, 100, 0), (0.01, 99, 0)],
)
def test_rejected_rows_are_allowed_up_to_the_share_and_not_one_more(
    share: float, num_read: int, most: int
) -> None:
    for num_rejected in range(max(0, most - 1), most + 1):
        assert len(with_rejected(num_rejected, num_read, share).rejected) == num_rejected
    with pytest.raises(ValueError, match=f"{most + 1} of {num_read} rows cannot be used") as refused:
        with_rejected(most + 1, num_read, share)
    assert "rows.csv:0: no winner" in str(refused.value)
    # what the message says to type is enough
    offered = float(str(refused.value).rpartition("--max-rejected ")[2])
    assert len(with_rejected(most + 1, num_read, offered).rejected) == most + 1


@pytest.mark.parametrize("num_rejected", [4, 5, 6, 50])
def test_at_most_five_rejected_rows_are_shown(num_rejected: int) -> None:
    with pytest.raises(ValueError) as refused:
        with_rejected(num_rejected, 100, 0.0)
    said = str(refused.value)
    assert said.count(": no winner:") == min(5, num_rejected)
    assert ("and 1 more" in said, "and 45 more" in said) == (num_rejected == 6, num_rejected == 50)


def test_empty_equal_and_doubled_rows_are_used_and_counted() -> None:
    def row(number: int, first: str, second: str, prompt: str | None = None, label: int = 0) -> RawRow:
        turns = {"prompt": [prompt or f"prompt {number}"], "response_a": [first], "response_b": [second]}
        winners = {name: int(place == label) for place, name in enumerate(ARENA.columns[0][3:])}
        values = {"id": number} | {name: json.dumps(value) for name, value in turns.items()} | winners
        return RawRow(f"rows.csv:{number + 2}", values)

    rows = [row(number, f"a{number}", f"b{number}") for number in range(60)]
    rows += [row(60, "", "b"), row(61, " \n", ""), row(62, "same", "same")]
    rows += [row(number, "a", "b", prompt="again") for number in (63, 64, 65)]
    rows += [row(66, "a", "b", prompt="again", label=1)]  # another verdict is no double
    found = Corpus.of(Source("rows.csv", {"train": rows}), ANY, ARENA).complete()
    assert sum(map(len, found.splits.values())) == 67
    # empty: one text of row 60 and both of row 61; equal: row 62 only, as " \n" is not ""; doubles: 64 and 65
    assert found.counts == {"empty response": 3, "A equal to B": 1, "exact doubles": 2}


def test_blanks_around_a_prompt_make_it_no_other_prompt() -> None:
    (row,) = ARENA.sample(1, 0)
    (turn,) = json.loads(row["prompt"]) if row["prompt"].startswith("[") else [row["prompt"]]
    rows = [RawRow("a:1", row), RawRow("a:2", row | {"id": "2", "prompt": json.dumps([f"  {turn}\n"])})]
    found = Corpus.of(Source("a", {"train": rows}), ANY, ARENA).splits["train"]
    assert found[0]["group"] == found[1]["group"]


def test_a_row_without_an_id_is_named_by_its_place_whatever_its_file_is_called() -> None:
    values = {"prompt": '["p"]', "response_a": '["a"]', "response_b": '["b"]'}
    values |= {"winner_model_a": "1", "winner_model_b": "0", "winner_tie": "0"}
    rows = [RawRow(f"any.csv:{n}", values) for n in (2, 3)]
    found = Corpus.of(Source("folder", {"train": rows, "test": rows}), ANY, ARENA).splits
    assert [ids(found["train"]), ids(found["test"])] == [["train:0", "train:1"], ["test:0", "test:1"]]
    assert ids(Corpus.of(Source("any.csv", {"train": rows}), ANY, ARENA).splits["train"]) == [
        "row:0",
        "row:1",
    ]


def fingerprints(rows: dict[str, list[Example]]) -> dict[str, str]:
    return Corpus(ANY, ARENA, rows, [], 100).complete().fingerprints()


def test_fingerprints_see_every_change_of_the_rows() -> None:
    rows = [example(number) for number in range(100)]
    before = fingerprints({"train": rows})
    changed = [*rows[:50], example(50, texts=[["another answer"], ["other"]]), *rows[51:]]
    after = fingerprints({"train": changed})
    assert (after["data"] == before["data"], after["split"] == before["split"]) == (False, True)
    changed = [*rows[:50], example(50, id="another id"), *rows[51:]]
    assert fingerprints({"train": changed})["split"] != before["split"]
    fewer = fingerprints({"train": rows[:99]})
    assert fewer["split"] != before["split"]
    assert fingerprints({"train": list(rows)}) == before
