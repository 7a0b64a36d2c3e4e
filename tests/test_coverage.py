"""Intervals of scores that are no plain means hold what they promise: those of all texts together (a loss for
each token, BLEU, chrF) and shares of some rows alone. As in test_intervals.py every count is of seeded draws
and its bound the promise's and chance's; rows are as questions about paragraphs are, or few and alone."""

import json
import random
from collections import Counter
from functools import cache

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from lib.answers import intervals, text_metrics
from lib.answers.citing import cite
from lib.answers.intervals import Groups
from lib.answers.text_metrics import BLEU, CHRF, LOSS, PERPLEXITY, pseudo_values
from lib.recipe import Metric
from lib.recipes import meta_review
from tests.test_intervals import LEAST_COVERED, MOST_FALSE, SIMULATIONS, alike, losses
from tests.tools import SHARED

QUESTIONS = SHARED / "germanquad" / "xquad_de.train.jsonl"
REVIEWS = SHARED / "meta_review" / "longest_review.train.jsonl"
# questions of each of 152 paragraphs, 755 in all
CONTEXTS = [1] * 3 + [2] * 2 + [3] * 14 + [4] * 31 + [5] * 90
CONTEXTS += [6, 8, 9, 9, 10, 10, 10, 12, 13, 14, 15, 16]
SAMPLES = {
    "contexts, correlation 0.1": (CONTEXTS, 0.1),
    "contexts, correlation 0.3": (CONTEXTS, 0.3),
    "30 rows": ([1] * 30, 0.0),
    "100 rows": ([1] * 100, 0.0),
    "300 rows": ([1] * 300, 0.0),
}
needs_data = pytest.mark.skipif(not QUESTIONS.is_file(), reason="needs ../shared/data")

BY_CHANCE = 0.007  # the standard deviation of a share of 95 % of 1,000 draws
Both = tuple[np.ndarray, np.ndarray]  # what two models say of the same rows


def groups_of(sizes: list[int]) -> Groups:
    return Groups(str(number) for number, size in enumerate(sizes) for _ in range(size))


def twice(generator: np.random.Generator, of_row: np.ndarray, correlation: float) -> Both:
    """(rows,) normal numbers of two models, which have half of their variance in common"""
    hard = alike(generator, of_row, correlation)
    one, two = ((hard + alike(generator, of_row, correlation)) / np.sqrt(2) for _ in range(2))
    return one, two


def check(metric: Metric, draws: list[Both], groups: Groups, one: float, two: float | None = None) -> None:
    """The first model's interval holds its true score, `one`, and the interval of the difference that of the
    true scores. Without `two` the models are of one kind, and rarely called different."""
    scored = [intervals.score({metric.name: first}, groups, [metric])[metric.name] for first, _ in draws]
    apart = [intervals.difference(*both, groups, metric.partial) for both in draws]
    truth = 0 if two is None else two - one
    assert np.mean([found.low <= one <= found.high for found in scored]) >= LEAST_COVERED
    covered = np.mean([found.low <= truth <= found.high for found in apart])
    assert covered >= (1 - MOST_FALSE if two is None else LEAST_COVERED - BY_CHANCE)


@needs_data
def test_the_sizes_of_groups_are_those_of_real_questions() -> None:
    rows = [json.loads(line)["context"] for line in QUESTIONS.read_text("utf-8").splitlines()]
    assert sorted(Counter(rows).values()) == CONTEXTS


# A loss for each token


LENGTHS = 0.61  # the standard deviation of the logarithm of the lengths of meta-reviews


@needs_data
def test_the_spread_of_lengths_is_that_of_real_meta_reviews() -> None:
    texts = [json.loads(line)["Output"] for line in REVIEWS.read_text("utf-8").splitlines()]
    assert np.log([len(text.split()) for text in texts]).std() == pytest.approx(LENGTHS, abs=0.01)


Model = tuple[float, float]  # mean and spread of the logits of its tokens, as in test_intervals.py


def sums(models: tuple[Model, Model], generator: np.random.Generator, sizes: np.ndarray, rho: float) -> Both:
    """(rows, 2) sum of the losses and number of the tokens of each text, by either model"""
    tokens = np.maximum(2, np.round(np.exp(4.8 + LENGTHS * generator.standard_normal(len(sizes)))))
    one, two = (
        np.stack([tokens * losses(mean + spread * skill), tokens], axis=1)
        for (mean, spread), skill in zip(models, twice(generator, sizes, rho), strict=True)
    )
    return one, two


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("models", [((0.7, 1), (0.7, 1)), ((1.5, 4), (1.5, 4)), ((1.5, 4), (1.5, 2.5))])
def test_a_loss_for_each_token_and_a_perplexity_are_covered(models: tuple[Model, Model], sample: str) -> None:
    generator, (sizes, rho) = np.random.default_rng(0), SAMPLES[sample]
    groups, score_of = groups_of(sizes), text_metrics._loss_of
    drawn = [sums(models, generator, groups.of_row, rho) for _ in range(SIMULATIONS)]
    draws = [(pseudo_values(one, score_of), pseudo_values(two, score_of)) for one, two in drawn]
    # of rows that have nothing in common: groups do not move the score
    true = [float(score_of(each.sum(axis=0))) for each in sums(models, generator, np.arange(500_000), rho)]
    check(LOSS, draws, groups, *(true if models[0] != models[1] else true[:1]))
    if models[0] == models[1]:
        exponential = text_metrics._exponential
        check(PERPLEXITY, [(exponential(a), exponential(b)) for a, b in draws], groups, np.exp(true[0]))


# BLEU and chrF


def bleu_of(sums: np.ndarray) -> np.ndarray:
    """Papineni's formula of many sums at once: lengths of answers and targets, runs of 1 to 4 words that are
    right, and such runs."""
    right, runs = sums[..., 2:6], sums[..., 6:10]
    precision = np.exp(np.log(right / runs).mean(axis=-1))
    return 100 * precision * np.exp(np.minimum(0, 1 - sums[..., 1] / sums[..., 0]))


def chrf_of(sums: np.ndarray) -> np.ndarray:
    """Popovic's: of pieces of 1 to 6 characters, those of answers, of targets, and in common."""
    common = sums[..., 2::3]
    precision, recall = (np.mean(common / sums[..., place::3], axis=-1) for place in (0, 1))
    return 100 * 5 * precision * recall / (4 * precision + recall)


def of_reviews() -> list[tuple[str, str]]:
    """(answer, target): the beginnings of reviews for meta-reviews, which have little in common."""
    rows = [meta_review.to_example(json.loads(line)) for line in REVIEWS.read_text("utf-8").splitlines()]
    return [(meta_review.lead(example), example["target"]) for example in rows]


def of_answers() -> list[tuple[str, str]]:
    """Short answers with a source, four of five of them right and the others another question's."""
    draw = random.Random(0)
    shorts = [json.loads(line)["answers"]["text"][0] for line in QUESTIONS.read_text("utf-8").splitlines()]
    targets = [cite(f"Die Antwort lautet: {short}.", f"quelle-{draw.randint(100, 999)}") for short in shorts]
    return [(target if draw.random() < 0.8 else draw.choice(targets), target) for target in targets]


@cache
def population(kind: str, texts: str) -> np.ndarray:
    """(rows, k) what each pair of texts adds to the sums, the worst pair first."""
    pairs = of_reviews() if texts == "reviews" else of_answers()
    statistics = np.array([text_metrics._statistics(kind, pair) for pair in pairs], dtype=np.float64)
    own = statistics[:, 2] / (statistics[:, 6] if kind == "bleu" else statistics[:, 0] + statistics[:, 1])
    return statistics[np.argsort(own, kind="stable")]


SCORES = {"bleu": (BLEU, bleu_of), "chrf": (CHRF, chrf_of)}
# Four words in a row are right in 1.5 % of the runs of a review's beginning, and most of these stand in a few
# rows: of 30 rows BLEU's interval holds 86 %, of 100 it holds 91 %, and nothing in them tells what they lack.
FEW = [("bleu", "reviews", "30 rows"), ("bleu", "reviews", "100 rows")]
TEXTS = [(kind, "reviews", sample) for kind in SCORES for sample in SAMPLES]
TEXTS += [(kind, "answers", sample) for kind in SCORES for sample in list(SAMPLES)[1:]]


@needs_data
@pytest.mark.parametrize(("kind", "texts", "sample"), [case for case in TEXTS if case not in FEW])
def test_a_score_of_all_texts_is_covered(kind: str, texts: str, sample: str) -> None:
    pairs, (metric, score_of), (sizes, rho) = population(kind, texts), SCORES[kind], SAMPLES[sample]
    generator, groups, draws = np.random.default_rng(0), groups_of(sizes), []
    for _ in range(SIMULATIONS):
        one, two = (
            pseudo_values(pairs[(ndtr(skill) * len(pairs)).astype(int)], score_of)
            for skill in twice(generator, groups.of_row, rho)
        )
        draws.append((one, two))
    check(metric, draws, groups, float(score_of(pairs.sum(axis=0))))


@needs_data
@pytest.mark.parametrize("texts", ["reviews", "answers"])
@pytest.mark.parametrize("kind", SCORES)
def test_the_formulas_here_are_sacrebleus(kind: str, texts: str) -> None:
    score_of, sums = SCORES[kind][1], population(kind, texts).sum(axis=0)
    theirs = text_metrics._sacrebleu(kind)._compute_score_from_stats(sums.astype(int).tolist()).score
    assert float(score_of(sums)) == pytest.approx(theirs, rel=1e-9)


def test_thirty_right_texts_do_not_make_100_certain() -> None:
    # Wilson's lower limit for n of n is n / (n + t^2), Student's t(29) = 2.0452
    found = intervals.score({"bleu": np.full(30, 100.0)}, groups_of([1] * 30), [BLEU])["bleu"]
    assert (found.low, found.high) == (pytest.approx(100 * 30 / (30 + 2.0452**2), abs=1e-2), 100)


def test_limits_stay_where_scores_can_be() -> None:
    groups, spread = groups_of([1] * 10), np.linspace(-1, 1, 10) ** 3
    for most, middle in ((100.0, 1.0), (100.0, 50.0), (100.0, 99.0), (np.inf, 1.0)):
        found = intervals.interval(middle + 90 * spread, groups, most=most)
        assert 0 <= found.low < middle < found.high <= most
    nothing = intervals.interval(np.zeros(10), groups, most=np.inf)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, np.inf)


# Shares of some rows


SOME = Metric("some", lambda predictions: np.array([]), "higher", share=True, partial=True)


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize(
    ("cites", "right"), [((0.9, 0.9), (0.8, 0.8)), ((0.2, 0.2), (0.6, 0.6)), ((0.6, 0.8), (0.7, 0.85))]
)
def test_a_share_of_some_rows_is_covered(
    cites: tuple[float, float], right: tuple[float, float], sample: str
) -> None:
    """Two models that cite in other rows than each other, in so many, of which so many are right."""
    generator, (sizes, rho) = np.random.default_rng(0), SAMPLES[sample]
    groups, draws = groups_of(sizes), []
    while len(draws) < SIMULATIONS:
        luck = [twice(generator, groups.of_row, rho) for _ in range(2)]
        one, two = (
            np.where(where < ndtri(cites[model]), (what < ndtri(right[model])).astype(float), np.nan)
            for model, (where, what) in enumerate(zip(*luck, strict=True))
        )
        if not (np.isnan(one).all() or np.isnan(two).all()):  # such a model has no score
            draws.append((one, two))
    check(SOME, draws, groups, *(right if cites[0] != cites[1] else right[:1]))
