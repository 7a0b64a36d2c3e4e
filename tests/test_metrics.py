"""Scores and their intervals on plain predictions; warnings and baselines beside them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from lib import recipe as recipes
from lib.answers import calibration, metrics
from lib.answers import load as answers_of
from lib.answers.intervals import Groups, beyond, difference
from lib.recipe import Example, Prediction
from lib.reports import summary

ARENA = recipes.load("arena")
ANSWERS = answers_of(ARENA)


def predictions(num_rows: int, skill: float, seed: int = 0, noise: float = 1.0) -> list[Prediction]:
    """Three classes; labels and what makes a row hard stay the same, `seed` is the model's own noise."""
    rows, own = np.random.default_rng(9), np.random.default_rng(seed)
    labels, hard = rows.integers(0, 3, num_rows), rows.normal(0, 1.5, num_rows)
    found = []
    for number in range(num_rows):
        logits = own.normal(0, noise, 3)
        logits[labels[number]] += skill + hard[number]
        said = np.exp(logits) / np.exp(logits).sum()
        swapped = np.exp(logits + own.normal(0, 1, 3))
        found.append(
            Prediction(
                id=str(number),
                label=int(labels[number]),
                prediction=int(said.argmax()),
                probabilities=said.astype(np.float32).astype(float).tolist(),
                swapped=(swapped / swapped.sum()).tolist(),
            )
        )
    return found


def test_scores_are_those_of_scikit_learn() -> None:
    rows = predictions(500, 0.5)
    labels, chosen = [row["label"] for row in rows], [row["prediction"] for row in rows]
    said = np.array([row["probabilities"] for row in rows])
    said /= said.sum(axis=1, keepdims=True)
    assert metrics.LOG_LOSS(rows) == pytest.approx(
        sklearn.metrics.log_loss(labels, said, labels=[0, 1, 2]), rel=1e-12
    )
    assert metrics.ACCURACY(rows) == sklearn.metrics.accuracy_score(labels, chosen)
    assert len(ANSWERS.wrong(rows)) == sklearn.metrics.zero_one_loss(labels, chosen, normalize=False)
    swapped = np.array([row["swapped"] for row in rows]).argmax(axis=1)
    assert metrics.SWAP_AGREEMENT(rows) == sklearn.metrics.accuracy_score(chosen, swapped)


def test_a_certain_and_false_prediction_costs_a_finite_log_loss() -> None:
    row = Prediction(id="0", label=0, prediction=1, probabilities=[0.0, 1.0, 0.0])
    # -log of the smallest probability that counts, 2**-52
    assert metrics.LOG_LOSS([row]) == pytest.approx(52 * np.log(2))
    assert metrics.LOG_LOSS([row]) == pytest.approx(
        sklearn.metrics.log_loss([0], [[0.0, 1.0, 0.0]], labels=[0, 1, 2])
    )


def test_a_log_loss_comes_from_logarithms_where_probabilities_are_zero() -> None:
    # float32 knows no exp(-120); sum of log-probabilities of a long option is easily less than that
    logs = [-120.0, -0.0, -130.0]
    row = Prediction(label=0, prediction=1, probabilities=[0.0, 1.0, 0.0], log_probabilities=logs)
    assert metrics.LOG_LOSS([row]) == pytest.approx(120)


def test_an_order_is_that_of_the_scores_where_probabilities_are_equal() -> None:
    row = Prediction(label=2, prediction=1, probabilities=[0.0, 1.0, 0.0], order=[1, 2, 0])
    assert metrics.MAP_AT_3([row]) == 1 / 2
    # of predictions that have none: by probability, equal ones by place
    assert metrics.MAP_AT_3([Prediction(label=2, probabilities=[0.0, 1.0, 0.0])]) == 1 / 3


def example(number: int, label: int, lengths: tuple[int, int] = (40, 40)) -> Example:
    texts = [["x" * length] for length in lengths]
    return Example(id=str(number), group=str(number), context=["?"], texts=texts, label=label)


def warned(rows: list[Prediction], features: Any = None) -> list[str]:
    """Warnings beside a training set with the three classes in equal parts."""
    train = [example(number, number % 3) for number in range(90)]
    recipe = replace(ARENA, features=features)
    beside = answers_of(recipe).baselines(train, [example(int(r["id"]), r["label"]) for r in rows])
    return summary.summarize(recipe, rows, beside)["warnings"]


def test_a_good_model_gets_no_warning() -> None:
    assert warned(predictions(200, 2.0)) == []


def test_a_model_that_overflows_is_called_out() -> None:
    rows = predictions(200, 2.0)
    rows[7]["probabilities"] = [math.nan] * 3
    assert warned(rows)[0].startswith("NO FINITE NUMBER: log_loss")


def unskilled(strength: float) -> list[Prediction]:
    """Says anything, whatever the row; the more surely the smaller `strength` is."""
    draw, rows = np.random.default_rng(3), predictions(200, 0.0)
    for row in rows:
        row["probabilities"] = draw.dirichlet([strength] * 3).tolist()
        row["prediction"] = int(np.argmax(row["probabilities"]))
    return rows


def test_a_model_without_skill_cannot_be_told_from_chance() -> None:
    (warning,) = warned(unskilled(500))
    assert warning.startswith("THE MODEL'S ANSWERS CANNOT BE TOLD FROM CHANCE: NO SCORE")


def test_a_model_that_is_surer_than_it_may_be_loses_to_a_guess() -> None:
    chance, *beaten = warned(unskilled(1))
    assert chance.startswith("THE MODEL'S ANSWERS CANNOT BE TOLD FROM CHANCE")
    assert beaten == [
        "UNIFORM GUESS IS BETTER THAN THE MODEL BEYOND THE 95 % INTERVAL: log_loss",
        "MAJORITY CLASS IS BETTER THAN THE MODEL BEYOND THE 95 % INTERVAL: log_loss",
    ]


def test_better_than_the_majority_is_not_better_than_chance() -> None:
    """The training rows say class 0, these rows the two others: a uniform guess is better than the majority,
    and a model that is no better than the guess has learned nothing."""
    rows = unskilled(500)
    for number, row in enumerate(rows):
        row["label"] = 1 + number % 2
    train = [example(number, 0) for number in range(90)]
    recipe = replace(ARENA, features=None)
    beside = answers_of(recipe).baselines(train, [example(int(r["id"]), r["label"]) for r in rows])
    found = summary.summarize(recipe, rows, beside)
    majority, model = (found["baselines"]["majority class"], found["scores"])
    assert model["log_loss"]["high"] < majority["log_loss"]["low"]
    (warning,) = found["warnings"]
    assert warning.startswith("THE MODEL'S ANSWERS CANNOT BE TOLD FROM CHANCE:")


def test_lengths_that_are_better_than_the_model_are_called_out() -> None:
    rows = judged_by_length(200, 2)
    said = [
        row | {"label": example["label"]} for row, example in zip(predictions(200, 0.3), rows, strict=True)
    ]
    beside = ANSWERS.baselines(judged_by_length(300, 1), rows)
    found = summary.summarize(ARENA, [Prediction(**row) for row in said], beside)  # type: ignore[typeddict-item]
    assert (
        "LENGTH ALONE IS BETTER THAN THE MODEL BEYOND THE 95 % INTERVAL: log_loss, accuracy"
        in found["warnings"]
    )


GUESSES = {"uniform guess": {"log_loss": 1, "accuracy": 1}, "majority class": {"log_loss": 1, "accuracy": 1}}
SURE = "beyond the 95 % interval"


@pytest.mark.parametrize(
    ("gains", "sentence"),
    [
        (
            GUESSES | {"length alone": {"log_loss": 0, "accuracy": 0}},
            f"The model is better than uniform guess and majority class {SURE} in log_loss and accuracy; "
            "length alone cannot be told from the model.",
        ),
        (
            {"length alone": {"log_loss": -1, "accuracy": 0}},
            f"Length alone is better than the model {SURE} in log_loss.",
        ),
        (
            {"a": {"x": -1, "y": 1, "z": 1}, "b": {"x": -1, "y": 1, "z": 1}, "c": {"x": 1, "y": 1, "z": 1}},
            f"The model is better than a and b {SURE} in y and z and worse in x; "
            f"the model is better than c {SURE} in x, y and z.",
        ),
        (
            {"a": {"x": 0}, "b": {"x": 0}, "c": {"x": -1}, "d": {"x": -1}},
            f"A and b cannot be told from the model; c and d are better than the model {SURE} in x.",
        ),
        ({"a": {}}, None),
        ({}, None),
    ],
)
def test_who_beats_whom_is_one_sentence(gains: Any, sentence: str | None) -> None:
    found: Any = {"num_groups": 10, "gains": gains}
    assert summary.who_beats_whom(found) == sentence


def test_nobody_beats_anybody_on_a_handful_of_groups() -> None:
    few: Any = {"num_groups": 9, "gains": GUESSES}
    assert summary.who_beats_whom(few) == "Fewer than 10 groups of rows say nothing certain of who is better."
    of_before: Any = {"num_groups": 100}
    assert summary.who_beats_whom(of_before) is None


def test_the_sentence_says_what_the_warnings_say() -> None:
    rows = unskilled(1)  # surer than it may be: worse than both guesses in log loss
    train = [example(number, number % 3) for number in range(90)]
    beside = ANSWERS.baselines(train, [example(int(row["id"]), row["label"]) for row in rows])
    found = summary.summarize(ARENA, rows, {name: beside[name] for name in GUESSES})
    assert [by_score["log_loss"] for by_score in found["gains"].values()] == [-1, -1]
    assert summary.who_beats_whom(found) == (
        f"Uniform guess and majority class are better than the model {SURE} in log_loss."
    )


def test_a_single_class_is_pointed_out_even_with_a_good_log_loss() -> None:
    rows = predictions(200, 2.0)
    for row in rows:
        row["prediction"] = 1
    assert warned(rows)[0] == "THE MODEL PREDICTS A SINGLE CLASS: 'B wins' FOR EVERY ROW"


def test_the_majority_baseline_says_the_share_of_each_class_in_training() -> None:
    train = [example(number, label) for number, label in enumerate([0] * 1 + [1] * 4 + [2] * 2)]
    beside = answers_of(replace(ARENA, features=None)).baselines(train, [example(0, 2), example(1, 1)])
    # one more of each class than seen, so that none has probability 0: 2, 5 and 3 of 10
    assert beside["majority class"]["log_loss"] == pytest.approx([-np.log(0.3), -np.log(0.5)])
    assert beside["majority class"]["accuracy"].tolist() == [0, 1]


def test_a_uniform_guess_scores_what_it_does_on_average() -> None:
    beside = answers_of(replace(ARENA, features=None)).baselines([example(0, 0)], [example(0, 2)])
    guess = {name: float(values[0]) for name, values in beside["uniform guess"].items()}
    assert guess == pytest.approx({"log_loss": np.log(3), "accuracy": 1 / 3, "swap_agreement": 1 / 3})
    options = Example(id="0", group="0", question="?", options=["a", "b", "c", "d", "e"], label=3)
    exam = recipes.load("science_exam")
    beside = answers_of(replace(exam, features=None)).baselines([options], [options])
    guess = {name: float(values[0]) for name, values in beside["uniform guess"].items()}
    # the right one of five stands first, second, third, or not among three: (1 + 1/2 + 1/3) / 5
    assert guess == pytest.approx({"map_at_3": 11 / 30, "accuracy": 1 / 5, "log_loss": np.log(5)})


def judged_by_length(num_rows: int, seed: int) -> list[Example]:
    """The longer answer wins; close lengths tie."""
    draw, found = np.random.default_rng(seed), []
    for number in range(num_rows):
        one, two = (int(length) for length in draw.integers(20, 2000, 2))
        label = 2 if abs(one - two) < 300 else int(two > one)
        found.append(example(number, label, (one, two)))
    return found


def test_lengths_alone_beat_the_majority_where_lengths_decide() -> None:
    beside: dict[str, Any] = ANSWERS.baselines(judged_by_length(300, 1), judged_by_length(200, 2))
    groups = Groups(map(str, range(200)))
    for name, better in (("log_loss", "lower"), ("accuracy", "higher")):
        gain = difference(beside["majority class"][name], beside["length alone"][name], groups)
        assert beyond(gain, better) and abs(gain.value) > 0.2
    # a judge of lengths says the same whichever answer comes first
    assert beside["length alone"]["swap_agreement"].mean() > 0.95


def test_the_summary_holds_scores_with_intervals_beside_every_baseline() -> None:
    rows = predictions(60, 0.5)
    beside = ANSWERS.baselines(judged_by_length(90, 1), judged_by_length(60, 2))
    found: Any = summary.summarize(ARENA, rows, beside)
    assert (found["num_rows"], found["num_groups"], found["labels"]) == (60, 60, list(ARENA.labels))
    assert list(found["baselines"]) == ["uniform guess", "majority class", "length alone"]
    assert sum(map(sum, found["confusion"])) == 60
    assert found["num_false"] == 60 - sum(found["confusion"][i][i] for i in range(3))
    for scores in (found["scores"], *found["baselines"].values()):
        assert list(scores) == ["log_loss", "accuracy", "swap_agreement"]
        assert all(score["low"] <= score["value"] <= score["high"] for score in scores.values())


def test_the_table_fits_a_terminal() -> None:
    beside = ANSWERS.baselines(judged_by_length(90, 1), judged_by_length(60, 2))
    found = summary.summarize(ARENA, predictions(60, 0.5), beside)
    lines = [line for line in summary.table(found) if not line.startswith("WARNING")]
    assert max(map(len, lines)) <= 79 and len(lines) == 3 * 4 + 1


def test_precision_recall_and_f1_are_those_of_scikit_learn() -> None:
    rows = predictions(200, skill=1)
    labels, said = ([row[key] for row in rows] for key in ("label", "prediction"))
    of_each, average = metrics.by_class(metrics.confusion(rows, 3))
    for mine, how in ((of_each, None), ([average], "macro")):
        theirs = sklearn.metrics.precision_recall_fscore_support(labels, said, average=how)[:3]
        for number, name in enumerate(("precision", "recall", "f1")):
            np.testing.assert_allclose([getattr(one, name) for one in mine], theirs[number], rtol=1e-12)


def test_a_share_of_no_rows_is_none() -> None:
    # the first class was never said: 0 / 0 of what was said, 0 / 2 of its rows, F1 2 * 0 / (0 + 2)
    of_each, average = metrics.by_class([[0, 2, 0], [0, 3, 0], [0, 0, 0]])
    assert of_each[0] == metrics.OfClass(None, 0.0, 0.0)
    assert of_each[1] == metrics.OfClass(3 / 5, 1.0, 6 / 8)
    assert of_each[2] == metrics.OfClass(None, None, None)
    assert average == metrics.OfClass(None, 0.5, 3 / 8)  # the third has no rows and is left out
    assert metrics.by_class([[0, 0], [0, 0]])[1] == metrics.OfClass(None, None, None)


def test_the_calibration_error_is_the_mean_gap_of_bins() -> None:
    # Guo's bins are (0.6, 0.7] and (0.7, 0.8], so 0.7 belongs to the first
    found = calibration.summarize(np.array([0.62, 0.7, 0.72, 0.76, 0.8]), np.array([1, 0, 1, 1, 1]))
    first, second = found["bins"]
    assert (first["up_to"], first["num_rows"], first["right"]) == (0.7, 2, 0.5)
    assert (second["up_to"], second["num_rows"], second["right"]) == (0.8, 3, 1.0)
    assert (first["confidence"], second["confidence"]) == pytest.approx((0.66, 0.76))
    # 2 rows are off by 0.5 - 0.66, 3 by 1 - 0.76: (2 * 0.16 + 3 * 0.24) / 5
    assert found["error"] == pytest.approx(0.208)


def test_each_edge_of_a_bin_belongs_to_the_bin_below() -> None:
    edges = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    above = np.nextafter(edges, 2)  # the last one is a 1 that rounding made too large
    of_edges, of_above = (calibration.summarize(values, values > 0)["bins"] for values in (edges, above))
    assert [one["up_to"] for one in of_edges] == edges.tolist()
    assert [one["num_rows"] for one in of_above] == [1] * 8 + [2]


def test_a_confidence_that_is_no_number_is_in_no_bin() -> None:
    nothing = {"num_rows": 0, "error": None, "bins": []}
    assert calibration.summarize(np.array([np.nan, np.inf]), np.array([True, False])) == nothing
    one = calibration.summarize(np.array([np.nan, 0.5]), np.array([False, True]))
    assert (one["num_rows"], one["error"]) == (1, 0.5)
