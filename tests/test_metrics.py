"""Scores and their intervals on plain predictions; warnings and baselines beside them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from lib import recipe as recipes
from lib.answers import bootstrap, metrics
from lib.answers import load as answers_of
from lib.answers.bootstrap import Interval
from lib.recipe import Example, Prediction, Scores
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


def accuracy(rows: Sequence[Prediction]) -> Scores:
    return {"accuracy": metrics.accuracy(rows)}


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_scores_are_those_of_scikit_learn() -> None:
    rows = predictions(500, 0.5)
    labels, chosen = [row["label"] for row in rows], [row["prediction"] for row in rows]
    said = np.array([row["probabilities"] for row in rows])
    said /= said.sum(axis=1, keepdims=True)
    assert metrics.log_loss(rows) == pytest.approx(
        sklearn.metrics.log_loss(labels, said, labels=[0, 1, 2]), rel=1e-12
    )
    assert metrics.accuracy(rows) == sklearn.metrics.accuracy_score(labels, chosen)
    assert metrics.num_false(rows) == sklearn.metrics.zero_one_loss(labels, chosen, normalize=False)
    swapped = np.array([row["swapped"] for row in rows]).argmax(axis=1)
    assert metrics.swap_agreement(rows) == sklearn.metrics.accuracy_score(chosen, swapped)


def test_a_certain_and_false_prediction_costs_a_finite_log_loss() -> None:
    row = Prediction(id="0", label=0, prediction=1, probabilities=[0.0, 1.0, 0.0])
    # -log of the smallest probability that counts, 2**-52
    assert metrics.log_loss([row]) == pytest.approx(52 * np.log(2))
    assert metrics.log_loss([row]) == pytest.approx(
        sklearn.metrics.log_loss([0], [[0.0, 1.0, 0.0]], labels=[0, 1, 2])
    )


def test_intervals_are_to_the_last_digit_those_of_a_slow_bootstrap() -> None:
    one, two = predictions(97, 0.5, seed=1), predictions(97, 0.8, seed=2)
    draws = np.random.default_rng(0).integers(0, 97, (bootstrap.RESAMPLES, 97))
    slow_one, slow_two = ([ARENA.score([rows[i] for i in draw]) for draw in draws] for rows in (one, two))
    for name, found in bootstrap.intervals(one, ARENA.score).items():
        low, high = np.quantile([scores[name] for scores in slow_one], [0.025, 0.975])
        assert found == Interval(ARENA.score(one)[name], low, high)
    for name, found in bootstrap.paired_differences(one, two, ARENA.score).items():
        drawn = [after[name] - before[name] for before, after in zip(slow_one, slow_two, strict=True)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert found == Interval(ARENA.score(two)[name] - ARENA.score(one)[name], low, high)


def test_a_score_is_given_a_plain_list_of_the_drawn_rows() -> None:
    rows = predictions(40, 0.5)

    def by_hand(given: Sequence[Prediction]) -> Scores:
        assert isinstance(given, list) and len(given) == 40
        hits = [row["label"] == row["prediction"] for row in given]
        return {"accuracy": sum(hits) / len(hits)}

    by_hand_found, found = (bootstrap.intervals(rows, score)["accuracy"] for score in (by_hand, accuracy))
    assert vars(by_hand_found) == pytest.approx(vars(found), rel=1e-12)


def test_a_95_percent_interval_covers_the_truth_in_about_95_of_100_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    draw, truth, covered = np.random.default_rng(5), 0.7, 0
    for _ in range(200):
        hits = draw.random(150) < truth
        rows = [Prediction(id=str(i), label=1, prediction=int(hit)) for i, hit in enumerate(hits)]
        found = bootstrap.intervals(rows, accuracy)["accuracy"]
        covered += found.low <= truth <= found.high
    # 200 samples at 95 %: 190 expected, 3 standard deviations are 9
    assert 180 <= covered <= 198


def test_models_that_find_the_same_rows_hard_differ_by_less_than_two_unpaired_intervals() -> None:
    one, two = (predictions(400, 0.5, seed, noise=0.3) for seed in (1, 2))
    single = [bootstrap.intervals(rows, ARENA.score)["log_loss"] for rows in (one, two)]
    unpaired = float(np.hypot(width(single[0]), width(single[1])))
    paired = bootstrap.paired_differences(one, two, ARENA.score)["log_loss"]
    assert width(paired) < unpaired / 2


def test_paired_rows_must_be_the_same_rows() -> None:
    rows = predictions(10, 0.5)
    with pytest.raises(AssertionError, match="same rows"):
        bootstrap.paired_differences(rows, rows[::-1], ARENA.score)


@pytest.mark.parametrize(
    ("interval", "better", "num_rows", "said"),
    [
        (Interval(-0.02, -0.03, -0.01), "lower", 100, "better"),
        (Interval(-0.02, -0.03, -0.01), "higher", 100, "worse"),
        (Interval(0.02, 0.01, 0.03), "lower", 100, "worse"),
        (Interval(0.02, 0.01, 0.03), "higher", 100, "better"),
        (Interval(0.02, 0.01, 0.03), "higher", 29, "cannot tell: on fewer than 30 rows"),
        # the half-width is 3 times the difference: 9 times as many rows, 800 more than 100
        (Interval(0.01, -0.02, 0.04), "higher", 100, "cannot tell; about 800 more rows"),
        (Interval(-0.01, -0.04, 0.02), "higher", 100, "cannot tell; about 800 more rows"),
        # only the half that reaches over 0 counts
        (Interval(0.01, -0.02, 0.09), "higher", 100, "cannot tell; about 800 more rows"),
        (Interval(0.01, 0.0, 0.02), "higher", 100, "cannot tell; about 1 more rows"),
        (Interval(1e-6, -0.1, 0.1), "lower", 100, "cannot tell, and no number of rows of practical size"),
        (Interval(0.0, -0.1, 0.1), "lower", 100, "cannot tell, and no number of rows of practical size"),
        (Interval(float("nan"), -0.1, 0.1), "lower", 100, "cannot tell: the score is not a finite number"),
    ],
)
def test_verdicts_follow_from_the_interval(interval: Interval, better: str, num_rows: int, said: str) -> None:
    assert "".join(bootstrap.verdict(interval, num_rows, better)).startswith(said)


def test_the_interval_of_a_difference_is_half_as_wide_on_four_times_the_rows() -> None:
    few, many = (
        bootstrap.paired_differences(predictions(n, 0.5, 1), predictions(n, 0.8, 2), ARENA.score)["log_loss"]
        for n in (400, 1600)
    )
    assert width(few) / width(many) == pytest.approx(2, rel=0.15)


def test_a_tiny_difference_keeps_its_size() -> None:
    assert bootstrap.signed(Interval(0.0, -2e-6, 0.00314)) == "+0.0000 [-2.0e-06, +0.0031]"


def example(number: int, label: int, lengths: tuple[int, int] = (40, 40)) -> Example:
    texts = [["x" * length] for length in lengths]
    return Example(id=str(number), group=str(number), context=["?"], texts=texts, label=label)


def warned(rows: list[Prediction]) -> list[str]:
    """Warnings beside a training set with the three classes in equal parts."""
    train = [example(number, number % 3) for number in range(90)]
    beside = answers_of(replace(ARENA, features=None)).baselines(
        train, [example(int(r["id"]), r["label"]) for r in rows]
    )
    return ANSWERS.warnings(rows, beside)


def test_a_good_model_gets_no_warning() -> None:
    assert warned(predictions(200, 2.0)) == []


def test_a_model_without_skill_cannot_be_told_from_chance() -> None:
    draw, rows = np.random.default_rng(3), predictions(200, 0.0)
    for row in rows:  # says anything, whatever the row
        row["probabilities"] = draw.dirichlet([5, 5, 5]).tolist()
        row["prediction"] = int(np.argmax(row["probabilities"]))
    assert [warning[:42] for warning in warned(rows)] == ["THE MODEL CANNOT BE TOLD FROM CHANCE: NO S"]


def test_a_single_class_is_pointed_out_even_with_a_good_log_loss() -> None:
    rows = predictions(200, 2.0)
    for row in rows:
        row["prediction"] = 1
    assert warned(rows) == ["THE MODEL PREDICTS A SINGLE CLASS: 'B wins' FOR EVERY ROW"]


def test_the_majority_baseline_says_the_share_of_each_class_in_training() -> None:
    train = [example(number, label) for number, label in enumerate([0] * 1 + [1] * 4 + [2] * 2)]
    (row,) = answers_of(replace(ARENA, features=None)).baselines(train, [example(0, 2)])["majority class"]
    # one more of each class than seen, so that none has probability 0: 2, 5 and 3 of 10
    assert row["probabilities"] == [0.2, 0.5, 0.3]
    assert (row["prediction"], row["label"], row["swapped"]) == (1, 2, [0.5, 0.2, 0.3])


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
    difference = bootstrap.paired_differences(beside["majority class"], beside["length only"], ARENA.score)
    assert difference["log_loss"].high < -0.2 and difference["accuracy"].low > 0.2
    # a judge of lengths says the same whichever answer comes first
    assert metrics.swap_agreement(beside["length only"]) > 0.95


def test_the_summary_holds_scores_with_intervals_beside_every_baseline() -> None:
    examples = judged_by_length(60, 2)
    beside = ANSWERS.baselines(judged_by_length(90, 1), examples)
    found: Any = summary.summarize(ARENA, beside["length only"], beside)
    assert found["num_rows"] == 60 and found["labels"] == list(ARENA.labels)
    assert found["scores"] == found["baselines"]["length only"]
    assert sum(map(sum, found["confusion"])) == 60
    assert found["num_false"] == 60 - sum(found["confusion"][i][i] for i in range(3))
    for scores in (found["scores"], *found["baselines"].values()):
        assert all(score["low"] <= score["value"] <= score["high"] for score in scores.values())
