"""The arena recipe: Kaggle's rough edges become examples or reasons, and its sample rows are fair."""

import json
import math
from collections import Counter
from typing import Any

import pytest

from lib import recipe as recipes
from lib.answers import load as answers_of
from lib.config import DataConfig
from lib.corpus import columns, splits
from lib.corpus.corpus import Corpus
from lib.corpus.readers import RawRow
from lib.corpus.sources import Source
from lib.recipe import Example, Row

ARENA = recipes.load("arena")
SAMPLE = [ARENA.to_example(row) for row in ARENA.sample(3000, 0)]


def row(**values: Any) -> Row:
    """A sound row with some columns changed."""
    found = {"id": 7, "prompt": '["p1", "p2"]', "response_a": '["a1", "a2"]', "response_b": '["b1"]'}
    return found | {"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0} | values


def example(**values: Any) -> Example:
    return ARENA.to_example(row(**values))


def refusal(**values: Any) -> str:
    with pytest.raises(ValueError) as refused:
        example(**values)
    assert type(refused.value) is ValueError  # one of json's own would say nothing of the column
    return str(refused.value)


def test_a_spreadsheet_writes_its_flags_in_capitals() -> None:
    flags = {"winner_model_a": "TRUE", "winner_model_b": "FALSE", "winner_tie": "False"}
    assert example(**flags)["label"] == 0


def test_a_sound_row_becomes_turns_and_a_label() -> None:
    assert example() == {
        "id": "7",
        "group": "p1\np2",
        "context": ["p1", "p2"],
        "texts": [["a1", "a2"], ["b1"]],
        "label": 1,
        "notes": [],
    }


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize(
    "yes_and_no", [(1, 0), ("1", "0"), ("1.0", "0.0"), (1.0, 0.0), (True, False), (" 1", "0 ")]
)
def test_the_winner_may_be_written_in_any_way_a_file_keeps_it(
    label: int, yes_and_no: tuple[Any, Any]
) -> None:
    winners = ("winner_model_a", "winner_model_b", "winner_tie")
    said = {name: yes_and_no[place != label] for place, name in enumerate(winners)}
    assert example(**said)["label"] == label


@pytest.mark.parametrize("value", [2, -1, "yes", "", None, math.nan, 0.5, [1]])
def test_a_flag_that_is_neither_0_nor_1_is_refused_by_name(value: object) -> None:
    assert refusal(winner_tie=value) == f"winner_tie is {value!r}; it must be 0 or 1"


def test_no_winner_and_two_winners_are_refused() -> None:
    assert refusal(winner_model_b=0).startswith(
        "no winner (winner_model_a=0, winner_model_b=0, winner_tie=0)"
    )
    assert refusal(winner_tie=1).startswith("more than one winner (winner_model_a=0, winner_model_b=1")
    assert refusal(winner_model_a="1.0", winner_tie=True).startswith("more than one winner")


def test_a_null_turn_is_an_empty_text() -> None:
    found = example(prompt='["p1", null]', response_a="[null]", response_b='[null, "b2"]')
    assert (found["context"], found["texts"]) == (["p1", ""], [[""], ["", "b2"]])
    assert found["notes"] == ["empty response"]


@pytest.mark.parametrize(
    ("turn", "said"), [("3", "3"), ("true", "True"), ("1.5", "1.5"), ('["x"]', r"['x']"), ("{}", "{}")]
)
@pytest.mark.parametrize("column", ["prompt", "response_a", "response_b"])
def test_a_turn_that_is_no_text_is_refused_by_place(column: str, turn: str, said: str) -> None:
    assert refusal(**{column: f'["one", {turn}]'}) == f"{column}, turn 2, is {said}, expected text"


@pytest.mark.parametrize("value", ["", '["cut', "['single quotes']", "[" * 100_000, f"[{'9' * 5000}]"])
def test_broken_json_is_refused_by_column(value: str) -> None:
    assert refusal(response_a=value).startswith("response_a is no JSON list of turns: ")


@pytest.mark.parametrize(("value", "kind"), [(5, "int"), (None, "NoneType"), ({}, "dict")])
def test_what_is_neither_text_nor_turns_is_refused_by_kind(value: object, kind: str) -> None:
    assert refusal(prompt=value) == f"prompt is {kind}, expected a list of turns"


@pytest.mark.parametrize("text", ["Why is the sky blue?", '"quoted"', "{}", "null", "5"])
def test_text_that_begins_no_list_is_one_turn(text: str) -> None:
    assert example(prompt=text)["context"] == [text]


def test_turns_may_come_as_a_list_already() -> None:
    # parquet keeps lists as lists
    assert example(prompt=["p1", "p2"], response_a=["a1", None])["texts"][0] == ["a1", ""]


@pytest.mark.parametrize(
    ("given", "expected"), [(7, "7"), ("x-1", "x-1"), (0, "0"), (None, None), ("", None)]
)
def test_an_id_is_text_and_may_be_absent(given: object, expected: str | None) -> None:
    assert example(id=given).get("id") == expected


def test_empty_responses_and_equal_ones_are_used_and_noted() -> None:
    assert example(response_a='[""]')["notes"] == ["empty response"]
    assert example(response_a="[]")["notes"] == ["empty response"]
    assert example(response_a='[" \\n"]', response_b="[null]")["notes"] == ["empty response"] * 2
    assert example(response_a='["b1"]')["notes"] == ["A equal to B"]
    assert example(response_a='[""]', response_b="[null]")["notes"] == ["empty response"] * 2 + [
        "A equal to B"
    ]


def test_line_breaks_and_half_an_emoji_survive() -> None:
    found = example(prompt=json.dumps(["two\nlines \ud83d"]))
    assert found["context"] == ["two\nlines \ud83d"]
    assert splits.side_of(found["group"]) in ("train", "validation", "test")


@pytest.mark.parametrize("num_rows", [0, 1, 2, 500])
def test_any_number_of_sample_rows_are_all_sound(num_rows: int) -> None:
    rows = ARENA.sample(num_rows, 3)
    found = Corpus.of(
        Source("sample", {"train": [RawRow("row", values) for values in rows]}), DataConfig(), ARENA
    )
    assert (len(rows), len(found.splits["train"]), found.rejected) == (num_rows, num_rows, [])
    assert len({example["id"] for example in found.splits["train"]}) == num_rows


def test_sample_rows_are_decided_by_the_seed_and_more_rows_begin_with_the_same() -> None:
    assert ARENA.sample(40, 1) == ARENA.sample(40, 1) == ARENA.sample(90, 1)[:40]
    assert ARENA.sample(40, 1) != ARENA.sample(40, 2)


def test_sample_labels_are_balanced() -> None:
    # Two qualities of three: 3 of 9 pairs are equal (a tie), 3 of 9 favour each side. Of n = 3,000 rows each
    # label has 1,000 with a standard deviation of sqrt(n / 3 * 2 / 3) = 25.8; five of those are 129.
    counts = Counter(row["label"] for row in SAMPLE)
    assert all(abs(counts[label] - 1000) < 129 for label in range(3))


def test_sample_prompts_hardly_ever_repeat() -> None:
    # 15 topics, 5 wordings, 99,900 numbers: of n = 3,000 rows n**2 / 2 / 7.5 million = 0.6 pairs repeat
    assert len({row["group"] for row in SAMPLE}) >= 2990


def test_lengths_alone_do_not_solve_the_sample() -> None:
    # Chance is 33 %; the lengths give 44-48 %, on 1,000 rows with a standard deviation of 1.6 points.
    beside = answers_of(ARENA).baselines(SAMPLE[:2000], SAMPLE[2000:])
    assert beside["length alone"]["accuracy"].mean() < 0.55


def test_texts_decide_the_sample_labels_but_for_whims() -> None:
    # A judge who looks for the topic's facts, which good answers quote, and for vague sentences agrees with
    # all rows but the whims: 1 in 30 is drawn again, 2 of 3 of those change; of 3,000 rows 67, deviation 8.
    from lib.recipes import arena

    facts = {topic[0]: topic[2:] for topic in arena.WORDS["topics"]}
    wrong = 0
    for found in SAMPLE:
        (thing,) = (name for name in facts if name in found["context"][0])
        kinds = []
        for (text,) in found["texts"]:
            good = any(fact in text for fact in facts[thing])
            vague = not good and any(sentence in text for sentence in arena.WORDS["vague"])
            kinds.append(2 if good else 1 if vague else 0)
        wrong += found["label"] != (2 if kinds[0] == kinds[1] else int(kinds[1] > kinds[0]))
    assert wrong < 67 + 5 * 8


def test_features_are_the_lengths_of_the_two_answers() -> None:
    # lengths 4 and 2: (4 - 2) / 1000, |4 - 2| / 1000, (4 - 2) / (4 + 2 + 1)
    assert ARENA.features is not None
    assert ARENA.features(example()) == [2 / 1000, 2 / 1000, 2 / 7]


def test_swapping_the_answers_swaps_the_label() -> None:
    assert ARENA.swapped_labels is not None
    turned = row(response_a='["b1"]', response_b='["a1", "a2"]', winner_model_a=1, winner_model_b=0)
    straight, turned_round = example(), ARENA.to_example(turned)
    assert straight["texts"] == turned_round["texts"][::-1]
    assert straight["label"] == ARENA.swapped_labels[turned_round["label"]]


def read_rows(*prompts: str) -> list[dict[str, Any]]:
    rows = [RawRow("a:1", {"prompt": prompt, "response_a": '["x"]', "response_b": "y"}) for prompt in prompts]
    return [row.values for row in columns.with_lists(rows, ARENA, columns.lists_in(rows, ARENA))]


def test_a_text_that_begins_with_a_bracket_is_a_text_in_a_column_of_texts() -> None:
    plain = read_rows("[SYSTEM] be kind", '["red", "green"]', "how are you?", "well?")
    found = [ARENA.to_example(row) for row in plain]
    assert [example["context"] for example in found][:2] == [["[SYSTEM] be kind"], ['["red", "green"]']]
    # each column by itself: response_a holds lists, response_b texts
    assert found[0]["texts"] == [["x"], ["y"]]


def test_a_list_that_is_broken_is_malformed_in_a_column_of_lists() -> None:
    *good, bad = read_rows('["a", "b"]', '["c"]', '["d')
    assert [ARENA.to_example(row)["context"] for row in good] == [["a", "b"], ["c"]]
    with pytest.raises(ValueError, match="prompt is no JSON list of turns"):
        ARENA.to_example(bad)


@pytest.mark.parametrize("text", ["['Here is what', 'And then?']", "['a' 'b']", '["a", null' + ", 'b']"])
def test_lists_that_are_no_json_are_no_texts(text: str) -> None:
    """What pandas writes into a csv for a column of lists, or of numpy's arrays."""
    with pytest.raises(ValueError, match="prompt looks like lists, but most are no JSON"):
        read_rows(text, text, "[a, b]", "plain")


def test_rows_are_read_as_the_run_that_is_asked_read_its_own() -> None:
    """Whatever stands beside them in their file; where it looks otherwise, that is said."""
    values = {"prompt": '["red", "green"]', "response_a": "x", "response_b": "y"}
    source = Source("a", {"train": [RawRow("a:1", values)]})
    alone = Corpus.of(source, DataConfig(), ARENA, with_label=False)
    assert alone.splits["train"][0]["context"] == ["red", "green"] and not alone.notes
    asked = Corpus.of(source, DataConfig(), ARENA, with_label=False, lists=[])
    assert asked.splits["train"][0]["context"] == ['["red", "green"]']
    assert asked.notes == [
        "WARNING: prompt looks like JSON lists of turns; it is read as plain texts, as in training"
    ]
    assert asked.lists == [] and alone.lists == ["prompt"]
