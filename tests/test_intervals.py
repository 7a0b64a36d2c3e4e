"""Intervals and verdicts hold what they promise. Samples are drawn as the real data have them: rows of a
prompt or a passage are alike. Every count is of seeded draws; its bound is the promise's and chance's."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from lib import recipe as recipes
from lib.answers import intervals, metrics
from lib.answers.intervals import Groups, Interval
from lib.recipe import Prediction

DATA = Path(__file__).parents[2] / "shared/data"
SIMULATIONS = 1000
# 95 % minus the promised 2, and 6 %: with 1,000 draws a standard deviation is 0.7 %
LEAST_COVERED, MOST_FALSE = 0.93, 0.06 + 0.007
# rows in each prompt of 217, 379 in all, as lmsys-like data have them; passages of BoolQ are nearly all alone
PROMPTS = [1] * 168 + [2] * 14 + [3] * 10 + [4] * 6 + [5] * 4 + [6] * 4 + [7] * 7 + [8] + [9] * 2 + [10]
PASSAGES = [1] * 436 + [2] * 32 + [3] * 4 + [4] * 2 + [5] + [7]

Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def alike(generator: np.random.Generator, of_row: np.ndarray, correlation: float) -> np.ndarray:
    """(rows,) normal numbers, correlated within a group"""
    common = generator.standard_normal(of_row.max() + 1)[of_row]
    own = generator.standard_normal(len(of_row))
    return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own


def losses(logits: np.ndarray) -> np.ndarray:
    """-log of the probability of the right one of two answers"""
    return np.log1p(np.exp(-logits))


def right(share: float, correlation: float) -> Draw:
    from scipy.special import ndtri

    return lambda g, of_row: (alike(g, of_row, correlation) < ndtri(share)).astype(float)


def loss(mean: float, spread: float, correlation: float) -> Draw:
    return lambda g, of_row: losses(mean + spread * alike(g, of_row, correlation))


def pair(first: tuple[float, float], second: tuple[float, float], right: bool, correlation: float) -> Draw:
    """Differences of two models (mean and spread of their logits) that find the same rows hard."""

    def draw(g: np.random.Generator, of_row: np.ndarray) -> np.ndarray:
        hard = alike(g, of_row, correlation)
        one, two = (
            mean + spread * (hard + alike(g, of_row, correlation)) / np.sqrt(2)
            for mean, spread in (first, second)
        )
        return (two > 0).astype(float) - (one > 0) if right else losses(two) - losses(one)

    return draw


def truth(draw: Draw) -> float:
    """The mean of a million rows that have nothing in common: groups do not move it."""
    return float(draw(np.random.default_rng(1), np.arange(1_000_000)).mean())


def simulated(draw: Draw, sizes: Sequence[int], make: Callable[[np.ndarray, Groups], Interval]) -> np.ndarray:
    """(SIMULATIONS, 2) lower and upper limits"""
    generator = np.random.default_rng(0)
    groups = Groups(str(number) for number, size in enumerate(sizes) for _ in range(size))
    found = (make(draw(generator, groups.of_row), groups) for _ in range(SIMULATIONS))
    return np.array([(one.low, one.high) for one in found])


def covered(limits: np.ndarray, value: float) -> float:
    return float(((limits[:, 0] <= value) & (value <= limits[:, 1])).mean())


def of_difference(values: np.ndarray, groups: Groups) -> Interval:
    return intervals.difference(np.zeros(len(values)), values, groups)


def of_share(values: np.ndarray, groups: Groups) -> Interval:
    return intervals.interval(values, groups, share=True)


GROUPED = [(sizes, rho) for sizes in (PROMPTS, PASSAGES) for rho in (0.1, 0.3)]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("file", "key", "sizes"),
    [("lmsys/validation.jsonl", "prompt", PROMPTS), ("boolq/validation.jsonl", "passage", PASSAGES)],
)
def test_the_sizes_of_groups_are_those_of_real_rows(file: str, key: str, sizes: list[int]) -> None:
    rows = [json.loads(line)[key] for line in (DATA / file).read_text().splitlines()]
    assert sorted(Counter(rows).values()) == sizes


@pytest.mark.parametrize(("sizes", "correlation"), GROUPED)
@pytest.mark.parametrize("share", [0.6, 0.9, 0.976])
def test_a_share_is_covered(sizes: list[int], correlation: float, share: float) -> None:
    assert covered(simulated(right(share, correlation), sizes, of_share), share) >= LEAST_COVERED


@pytest.mark.parametrize(("sizes", "correlation"), GROUPED)
@pytest.mark.parametrize(("mean", "spread"), [(0.7, 1), (1.5, 4), (4, 3)])
def test_a_log_loss_is_covered(sizes: list[int], correlation: float, mean: float, spread: float) -> None:
    draw = loss(mean, spread, correlation)
    assert covered(simulated(draw, sizes, intervals.interval), truth(draw)) >= LEAST_COVERED


# another mean, another confidence, both
PAIRS = [((0.3, 1), (0.6, 1)), ((1.5, 4), (0.7, 1)), ((4, 3), (2, 1))]


@pytest.mark.parametrize(("sizes", "correlation"), GROUPED)
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_difference_is_covered(
    sizes: list[int],
    correlation: float,
    right: bool,
    first: tuple[float, float],
    second: tuple[float, float],
) -> None:
    draw = pair(first, second, right, correlation)
    assert covered(simulated(draw, sizes, of_difference), truth(draw)) >= LEAST_COVERED


SMALL = [([1] * rows, 0.0) for rows in (30, 50, 100, 300)]
MODELS = [(0.3, 1), (2, 1), (1.5, 4), (4, 3)]


@pytest.mark.parametrize(("sizes", "correlation"), [*GROUPED, (PROMPTS, 0.9), *SMALL, ([1] * 10, 0.0)])
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_two_models_of_one_kind_are_rarely_called_different(
    sizes: list[int], correlation: float, right: bool, model: tuple[float, float]
) -> None:
    limits = simulated(pair(model, model, right, correlation), sizes, of_difference)
    assert 1 - covered(limits, 0) <= MOST_FALSE


@pytest.mark.parametrize("right", [True, False])
def test_models_that_trade_places_prompt_by_prompt_are_rarely_called_different(right: bool) -> None:
    apart = pair((0.3, 1), (1, 1), right, 0.3)
    fixed = apart(np.random.default_rng(3), np.repeat(np.arange(len(PROMPTS)), PROMPTS))

    def draw(generator: np.random.Generator, of_row: np.ndarray) -> np.ndarray:
        return fixed * generator.choice([-1, 1], of_row.max() + 1)[of_row]

    assert 1 - covered(simulated(draw, PROMPTS, of_difference), 0) <= MOST_FALSE


@pytest.mark.parametrize(("rows", "share"), [(82, 0.976), (325, 0.99), (30, 0.9), (30, 0.99)])
def test_a_share_near_one_is_covered_on_few_rows(rows: int, share: float) -> None:
    limits = simulated(right(share, 0.0), [1] * rows, of_share)
    assert covered(limits, share) >= LEAST_COVERED
    assert (limits[:, 0] >= 0).all() and (limits[:, 1] <= 1).all()


@pytest.mark.parametrize(("mean", "spread"), [(0.7, 1), (1.5, 4)])
def test_a_log_loss_of_thirty_rows_is_covered(mean: float, spread: float) -> None:
    draw = loss(mean, spread, 0.0)
    assert covered(simulated(draw, [1] * 30, intervals.interval), truth(draw)) >= LEAST_COVERED


def test_rows_that_are_taken_for_independent_are_not_covered() -> None:
    """What these tests are for: without groups the same intervals cover too little."""
    draw = loss(1.5, 4, 0.3)
    grouped = np.repeat(np.arange(len(PROMPTS)), PROMPTS)
    generator, value, hits = np.random.default_rng(0), truth(draw), 0
    alone = Groups(map(str, range(len(grouped))))
    for _ in range(SIMULATIONS):
        found = intervals.interval(draw(generator, grouped), alone)
        hits += found.low <= value <= found.high
    assert hits / SIMULATIONS < 0.9


def test_without_groups_the_intervals_are_those_of_the_books() -> None:
    values = np.array([1.0] * 27 + [0.0] * 3)
    groups = Groups(map(str, range(30)))
    found = intervals.interval(values, groups, share=True)
    # Wilson for p = 0.9 and n = 29, with Student's t(29) = 2.0452: k = t^2 / n = 0.14424, the middle
    # (0.9 + k / 2) / (1 + k) = 0.8496, the half sqrt(0.09 k + k^2 / 4) / (1 + k) = 0.1178
    assert (found.low, found.high) == pytest.approx((0.8496 - 0.1178, 0.8496 + 0.1178), abs=2e-4)
    one, two = np.array([0.0, 0.2, 0.4, 0.6] * 5), np.array([1.05, 0.05, 1.15, 0.75] * 5)
    difference = intervals.difference(one, two, Groups(map(str, range(20))))
    # differences 1.05, -0.15, 0.75, 0.15: mean 0.45, on both sides of it 0.6 and 0.3, so not skewed; variance
    # 5 (0.36 + 0.36 + 0.09 + 0.09) / 19, error sqrt(variance / 20) = 0.10882, t(19) = 2.0930
    half = 2.0930 * 0.10882
    assert vars(difference) == pytest.approx(
        {"value": 0.45, "low": 0.45 - half, "high": 0.45 + half}, abs=1e-4
    )


def test_four_equal_rows_of_a_group_say_as_much_as_one() -> None:
    values = np.random.default_rng(0).exponential(size=50)
    once = intervals.interval(values, Groups(map(str, range(50))))
    four = intervals.interval(np.repeat(values, 4), Groups(str(n) for n in range(50) for _ in range(4)))
    assert vars(four) == pytest.approx(vars(once))


def test_a_perfect_score_is_not_certain() -> None:
    found = intervals.interval(np.ones(30), Groups(map(str, range(30))), share=True)
    # Wilson's lower limit for n of n is n / (n + t^2): 30 / (30 + 2.0452^2)
    assert (found.low, found.high) == (pytest.approx(30 / (30 + 2.0452**2), abs=1e-4), 1.0)


def test_one_group_says_nothing() -> None:
    one = Groups(["a"] * 8)
    assert intervals.interval(np.arange(8.0), one) == Interval(3.5, -np.inf, np.inf)
    assert intervals.interval(np.ones(8), one, share=True) == Interval(1.0, 0.0, 1.0)
    assert (
        intervals.verdict(intervals.difference(np.zeros(8), np.ones(8), one), one, "higher")[0]
        == "cannot tell"
    )


def test_models_that_find_the_same_rows_hard_differ_by_less_than_two_unpaired_intervals() -> None:
    generator, groups = np.random.default_rng(0), Groups(map(str, range(400)))
    hard = generator.normal(0, 1.5, 400)
    one, two = (losses(0.5 + hard + generator.normal(0, 0.3, 400)) for _ in range(2))
    single = [intervals.interval(values, groups) for values in (one, two)]
    unpaired = float(np.hypot(*(found.high - found.low for found in single)))
    paired = intervals.difference(one, two, groups)
    assert paired.high - paired.low < unpaired / 2
    assert paired.value == float(two.mean()) - float(one.mean())


@pytest.mark.parametrize(
    ("interval", "better", "num_groups", "said"),
    [
        (Interval(-0.02, -0.03, -0.01), "lower", 100, "better"),
        (Interval(-0.02, -0.03, -0.01), "higher", 100, "worse"),
        (Interval(0.02, 0.01, 0.03), "lower", 100, "worse"),
        (Interval(0.02, 0.01, 0.03), "higher", 100, "better"),
        (Interval(0.02, 0.01, 0.03), "higher", 9, "cannot tell: fewer than 10 groups"),
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
def test_verdicts_follow_from_the_interval(
    interval: Interval, better: str, num_groups: int, said: str
) -> None:
    groups = Groups(map(str, range(num_groups)))
    assert "".join(intervals.verdict(interval, groups, better)).startswith(said)


def test_a_tiny_difference_keeps_its_size() -> None:
    assert intervals.signed(Interval(0.0, -2e-6, 0.00314)) == "+0.0000 [-2.0e-06, +0.0031]"


def test_predictions_say_their_groups() -> None:
    rows = [Prediction(id=str(n), group="a" if n < 3 else "b") for n in range(5)]
    assert Groups.of(rows).sizes.tolist() == [3, 2]
    assert len(Groups.of([Prediction(id=str(n)) for n in range(5)])) == 5  # of runs before they did


def test_every_recipe_says_which_way_its_first_score_is_better() -> None:
    for name in recipes.names():
        recipe = recipes.load(name)
        assert recipe.better == recipe.metrics[0].better
        assert metrics.SWAP_AGREEMENT.better is None


def test_the_difference_of_seeds_has_welchs_interval() -> None:
    # means 2 and 5; variances 1 / 3 and 4 / 3 of the means; df = (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.941
    found = intervals.of_seeds([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    other = scipy.stats.ttest_ind([3.0, 5.0, 7.0], [1.0, 2.0, 3.0], equal_var=False)
    limits = other.confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((3.0, limits.low, limits.high))
    assert intervals.of_seeds([1.0, 1.0], [2.0, 2.0]) == intervals.Interval(1.0, 1.0, 1.0)


def test_specks_beside_one_large_group_give_a_finite_interval_and_one_group_none() -> None:
    values = np.linspace(0.0, 2.0, 101)
    found = intervals.interval(values, Groups(["a"] * 100 + ["b"]))
    assert -100 < found.low < found.value < found.high < 100
    alone = intervals.as_values({"x": intervals.interval(values, Groups(["a"] * 101))})["x"]
    assert (alone["low"], alone["high"]) == (None, None)  # infinity is no JSON
    assert intervals.of_value(alone).high == np.inf
