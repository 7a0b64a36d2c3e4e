"""Rows of the science exam: three forms of columns, what is refused, and the file that Kaggle wants."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib import recipe
from lib.answers import load as answers_of
from lib.answers import metrics
from lib.config import DataConfig
from lib.corpus import readers, sources
from lib.corpus.corpus import Corpus
from lib.recipe import Prediction
from lib.recipes import science_exam
from tests.tools import SHARED, SHORT, only_run, run

EXAM = recipe.load("science_exam")
KAGGLE = {"prompt": "Which is a gas?", "A": "iron", "B": "neon", "C": "salt", "answer": "B"}
ARC = {
    "question": "Which is a gas?",
    "choices": {"text": ["iron", "neon", "salt"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
OPENBOOK = {"question_stem": "Which is a gas?"} | {key: ARC[key] for key in ("choices", "answerKey")}


@pytest.mark.parametrize("row", [KAGGLE, ARC, OPENBOOK])
def test_three_forms_of_a_row_are_one_example(row: dict[str, Any]) -> None:
    example = EXAM.to_example(row)
    assert (example["question"], example["options"], example["label"]) == (
        "Which is a gas?",
        ["iron", "neon", "salt"],
        1,
    )
    assert example["group"] == "Which is a gas?"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"answer": "D"}, "the answer is 'D', none of the options A, B, C"),
        ({"answer": "b"}, "the answer is 'b', none of the options"),
        ({"B": ""}, "option B is '', expected text"),
        ({"A": None}, "option A is None, expected text"),
        ({"B": "", "C": ""}, "1 options, expected at least 2"),
        ({"prompt": " "}, "the question is ' ', expected text"),
        ({"prompt": 7}, "the question is 7, expected text"),
        ({"context": " "}, "the context is empty"),
        ({"D": "x", "E": "y"} | {"C": ""}, "option C is '', expected text"),
    ],
)
def test_a_malformed_row_says_what_is_wrong(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EXAM.to_example(KAGGLE | changes)


@pytest.mark.parametrize(
    ("labels", "answer", "place", "letters"),
    [
        (["1", "2", "3"], "2", 1, ["1", "2", "3"]),
        ([0, 1, 2], 0, 0, ["0", "1", "2"]),
        ([1.0, 2.0, 3.0], 3.0, 2, ["1", "2", "3"]),
        (["C", "A", "B"], "A", 1, ["C", "A", "B"]),
        (["A", "B", "C"], "A", 0, None),
    ],
)
def test_an_option_is_called_what_its_row_calls_it(
    labels: list[Any], answer: object, place: int, letters: list[str] | None
) -> None:
    choices = {"text": ["iron", "neon", "salt"], "label": labels}
    example = EXAM.to_example(ARC | {"choices": choices, "answerKey": answer})
    assert example["label"] == place and example.get("letters") == letters
    said = Prediction(id="7", prediction=2, probabilities=[0.1, 0.2, 0.7], order=[2, 1, 0])
    kept = answers_of(EXAM).kept(said, example)
    expected = (letters or ["A", "B", "C"])[::-1]
    assert kept["ranking"] == expected
    assert science_exam.submission(kept) == {"id": "7", "prediction": " ".join(expected)}
    assert answers_of(EXAM).words(2, kept) == expected[0]


def test_two_answers_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="two answers: answer 'A' and answerKey 'B'"):
        EXAM.to_example(ARC | {"answer": "A", "answerKey": "B"})


@pytest.mark.parametrize("nothing", [None, "", " ", float("nan")])
def test_a_row_whose_answer_is_not_there_yet_has_no_label(nothing: object) -> None:
    assert "label" not in EXAM.to_example(KAGGLE | {"answer": nothing})
    assert "label" not in EXAM.to_example(ARC | {"answerKey": nothing})


def test_a_column_that_is_missing_between_two_others_is_named() -> None:
    # its letter would otherwise stand for the next column's option, in the submission too
    row = {key: value for key, value in KAGGLE.items() if key != "B"}
    with pytest.raises(ValueError, match="there is an option C and no column B"):
        EXAM.to_example(row)


def test_null_is_no_context() -> None:
    assert "context" not in EXAM.to_example(KAGGLE | {"context": None})


def test_choices_that_do_not_match_their_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 options under 2 labels"):
        EXAM.to_example(ARC | {"choices": {"text": ["a", "b", "c"], "label": ["A", "B"]}})
    with pytest.raises(ValueError, match="choices must be"):
        EXAM.to_example(ARC | {"choices": ["a", "b"]})
    with pytest.raises(ValueError, match="choices must be"):
        EXAM.to_example(ARC | {"choices": {"text": None, "label": None}})
    with pytest.raises(ValueError, match="27 options, more than 26"):
        EXAM.to_example(ARC | {"choices": {"text": ["a"] * 27, "label": [*range(27)]}})
    with pytest.raises(ValueError, match="one label stands on two options: A, A"):
        EXAM.to_example(ARC | {"choices": {"text": ["a", "b"], "label": ["A", "A"]}, "answerKey": "A"})
    with pytest.raises(ValueError, match="choices must be"):
        EXAM.to_example(ARC | {"choices": {"text": "xyz", "label": "ABC"}})
    with pytest.raises(ValueError, match="option is nan"):
        EXAM.to_example(ARC | {"choices": {"text": ["a", float("nan")], "label": ["A", "B"]}})


def test_the_last_options_may_be_empty_and_rows_of_any_number_mix() -> None:
    assert EXAM.to_example(KAGGLE | {"D": "", "E": None})["options"] == ["iron", "neon", "salt"]
    six = KAGGLE | {"D": "tin", "E": "zinc", "F": "lead", "answer": "F"}
    assert EXAM.to_example(six)["label"] == 5


def test_blanks_numbers_and_equal_options_are_real_rows() -> None:
    example = EXAM.to_example(KAGGLE | {"id": 0, "A": " neon", "C": 12, "answer": "A "})
    assert example["options"] == ["neon", "neon", "12"]
    assert example["notes"] == ["equal options"] and example["id"] == "0" and example["label"] == 0


def test_a_row_without_an_answer_has_no_label_and_does_not_train(tmp_path: Path) -> None:
    unanswered = {key: value for key, value in KAGGLE.items() if key != "answer"}
    assert "label" not in EXAM.to_example(unanswered)
    source = sources.Source("rows", {"train": [readers.RawRow("rows.csv:2", unanswered)]})
    found = Corpus.of(source, DataConfig(), EXAM)
    assert not found.splits["train"] and found.rejected[0].reason == "there is no answer"
    assert len(Corpus.of(source, DataConfig(), EXAM, with_label=False).splits["train"]) == 1


def said(label: int, *probabilities: float) -> Prediction:
    chosen = max(range(len(probabilities)), key=probabilities.__getitem__)
    return Prediction(id="7", label=label, prediction=chosen, probabilities=[*probabilities])


def test_map_at_3_counts_the_place_of_the_right_option() -> None:
    rows = [
        said(1, 0.1, 0.6, 0.3),  # first: 1
        said(0, 0.3, 0.6, 0.1),  # second: 1/2
        said(2, 0.3, 0.5, 0.1, 0.1),  # equal to D, which stands after it: third, 1/3
        said(3, 0.3, 0.5, 0.1, 0.1),  # equal to C, which stands before it: fourth, 0
    ]
    assert metrics.MAP_AT_3(rows) == pytest.approx((1 + 1 / 2 + 1 / 3 + 0) / 4)
    assert metrics.ACCURACY(rows) == 1 / 4


def test_submission_has_the_three_likeliest_letters() -> None:
    row = said(0, 0.1, 0.4, 0.2, 0.3) | {"ranking": ["B", "D", "C", "A"]}
    assert science_exam.submission(row) == {"id": "7", "prediction": "B D C"}
    assert science_exam.submission(row | {"ranking": ["B", "A"]}) == {"id": "7", "prediction": "B A"}


def test_baselines_know_how_many_options_a_row_has() -> None:
    train = [EXAM.to_example(row) | {"id": str(n)} for n, row in enumerate(EXAM.sample(200, 0))]
    short = EXAM.to_example(KAGGLE) | {"id": "short"}
    found = answers_of(EXAM).baselines(train, [short])  # type: ignore[list-item, arg-type]
    assert found["uniform guess"]["log_loss"] == pytest.approx([np.log(3)])
    counts = [sum(row["label"] == letter for row in train) for letter in range(5)]
    # each count plus one over 200 + 5, and of that the share of B among the row's three options
    expected = (counts[1] + 1) / sum(count + 1 for count in counts[:3])
    assert found["majority class"]["log_loss"] == pytest.approx([-np.log(expected)])


def test_sample_rows_are_sound_and_lengths_do_not_solve_them() -> None:
    rows = [EXAM.to_example(row) | {"id": str(n)} for n, row in enumerate(EXAM.sample(600, 3))]
    assert {len(row["options"]) for row in rows} == {4, 5}
    beside = answers_of(EXAM).baselines(rows[:400], rows[400:])  # type: ignore[arg-type]
    assert beside["length alone"]["accuracy"].mean() < 0.35  # chance is 0.225
    stated = [row["options"][row["label"]] in row["context"][0] for row in rows]
    assert sum(stated) / len(stated) > 0.95  # one answer in 30 is drawn anew, and a fifth of those is right


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real rows here: ../shared/data is absent")
@pytest.mark.parametrize(
    "name, rows, options",
    [
        ("with_context.train.jsonl", 152, {5}),
        ("train.csv", 152, {5}),
        ("arc_challenge.train.jsonl", 1369, {3, 4, 5}),
        ("openbookqa.validation.jsonl", 842, {3, 4}),
    ],
)
def test_real_rows_are_read_whole(name: str, rows: int, options: set[int]) -> None:
    file = SHARED / "llm_science_exam" / name
    found, rejected = readers.read_file(file)
    examples = [EXAM.to_example(row.values) for row in found]
    assert len(examples) == rows and not rejected
    assert {len(example["options"]) for example in examples} <= options
    assert all("label" in example for example in examples)


def test_a_run_leaves_rankings_and_a_submission(tmp_path: Path) -> None:
    flags = ["--model", "tiny", "--init", "random", "--max-length", "96", "--runs-dir", str(tmp_path)]
    done = run("science_exam", *SHORT, *flags, "--max-steps", "1")
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path)
    lines = (folder / "predictions" / "test.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    with (folder / "predictions" / "test.submission.csv").open() as file:
        submitted = list(csv.DictReader(file))
    assert [row["id"] for row in submitted] == [row["id"] for row in predictions]
    for row, prediction in zip(submitted, predictions, strict=True):
        assert row["prediction"].split() == prediction["ranking"][:3]
        assert len(prediction["ranking"]) == len(prediction["probabilities"])
    scores = json.loads((folder / "scores.json").read_text())["splits"]["test"]
    assert next(iter(scores["scores"])) == "map_at_3"
    assert set(scores["baselines"]) == {"uniform guess", "majority class", "length alone"}
