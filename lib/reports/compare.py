"""Finished runs, or groups of seeds: what differs between them, and whether one is better on the rows both
scored.

Each side is held against the first, row by row; a difference is its score minus the first side's. Only what
the run folders hold is read, and what cannot be compared is refused with the reason.
"""

from dataclasses import dataclass
from string import ascii_uppercase

from lib import recipe as recipes
from lib.answers import intervals
from lib.answers import load as answers_of
from lib.answers.intervals import Groups, Interval
from lib.base.exits import CheckError
from lib.reports.sides import SEED, Run, Side, changed_settings, paths_of, read, what_differs

ENOUGH_IN_COMMON = 0.9  # share of either side's rows


@dataclass(frozen=True)
class Scored:
    """One score of both sides, and the paired difference."""

    first: Interval
    other: Interval
    difference: Interval


@dataclass(frozen=True)
class Seeds:
    """The first score of each run of both sides, where one is a group."""

    first: list[float]
    other: list[float]
    difference: Interval | None
    """None: one side has a single seed, so nobody knows how much is luck."""


@dataclass(frozen=True)
class Pair:
    """A side held against the first one."""

    first: str
    other: str
    num_rows: int
    num_groups: int
    scores: dict[str, Scored]
    seeds: Seeds | None
    verdict: str
    why: str
    notes: list[str]


@dataclass(frozen=True)
class Comparison:
    split: str
    runs: dict[str, list[str]]
    """Letter -> paths."""
    differing: dict[str, dict[str, list[str]]]
    """Section -> fact -> its value for each side."""
    equal: list[str]
    """Sections in which nothing differs."""
    pairs: list[Pair]
    refused: dict[str, str]
    """Letter -> why it cannot be held against the first side."""
    all_seeds: list[float]
    """First scores, where all sides are single runs that differ in their seed only; else empty."""

    def refuse(self) -> None:
        """Raises CheckError when something is not comparable."""
        if self.refused:
            first = next(iter(self.runs))
            lines = [f"{b} is not comparable with {first}: {why}" for b, why in self.refused.items()]
            raise CheckError("\n".join(lines))


def compare(words: tuple[str, ...], split: str, common_rows: bool, runs_dir: str) -> Comparison:
    """A word is a run, several runs between commas, or the seeds.json that `--seeds` wrote. Raises ValueError
    for what is no finished run of these rows."""
    if not 2 <= len(words) <= len(ascii_uppercase):
        raise ValueError(f"{len(words)} runs given; give 2 to {len(ascii_uppercase)}")
    paths = [paths_of(word, runs_dir) for word in words]
    if len({path.resolve() for group in paths for path in group}) < sum(map(len, paths)):
        raise ValueError("a run is given twice; give every run once")
    lettered = zip(ascii_uppercase, paths, strict=False)
    sides = [Side([read(letter, path, split) for path in group]) for letter, group in lettered]
    first, pairs, refused = sides[0], [], {}
    for side in sides[1:]:
        try:
            pairs.append(_pair(first, side, _common(first, side, common_rows)))
        except CheckError as error:
            refused[side.letter] = str(error)
    differing, equal = what_differs(sides)
    runs = {side.letter: [str(run.path) for run in side.runs] for side in sides}
    return Comparison(split, runs, differing, equal, pairs, refused, _all_seeds(sides, pairs))


def _common(first: Side, other: Side, common_rows: bool) -> list[str]:
    """Ids of the rows both scored. Raises CheckError with the reason when the two are not comparable."""
    a, b = first.letter, other.letter
    if problem := first.problem or other.problem:
        raise CheckError(problem)
    recipe = first.first.config["recipe"]
    if recipe != other.first.config["recipe"]:
        raise CheckError(f"the recipe of {a} is {recipe}, of {b} {other.first.config['recipe']}")
    labels = first.first.labels, other.first.labels
    if all(labels) and labels[0] != labels[1]:
        raise CheckError(f"the labels of {a} are {labels[0]}, of {b} {labels[1]}")
    scored = set(other.ids)
    ids = [identity for identity in first.ids if identity in scored]
    if not ids:
        raise CheckError("no row was scored by both")
    target = answers_of(recipes.load(recipe)).target
    changed = []
    for identity in ids:
        old, *new = (target(run.rows[identity]) for run in (*first.runs, *other.runs))
        if another := [value for value in new if value != old]:
            changed.append(f"row {identity}: {a} {old!s:.80}, {b} {another[0]!s:.80}")
    if changed:
        shown = ", ".join(changed[:3])
        data = [side.first.config.get("data.data") for side in (first, other)]
        of = "" if data[0] == data[1] else f"; {a} scored rows of {data[0]}, {b} of {data[1]}"
        raise CheckError(f"{len(changed)} of {len(ids)} common rows have two labels: {shown}{of}")
    if len(ids) < ENOUGH_IN_COMMON * max(len(first.ids), len(other.ids)) and not common_rows:
        sizes = f"{a} scored {len(first.ids)}, {b} {len(other.ids)}"
        raise CheckError(f"only {len(ids)} rows in common ({sizes}); --common-rows compares on those alone")
    return ids


def notes(first: Run, other: Run, num_rows: int, num_changed: int, equal_scores: bool) -> list[str]:
    """What to mind although the two are comparable."""
    settings, mind = changed_settings(first, other), []
    old, new = (run.record.get("fingerprints", {}) for run in (first, other))
    if num_rows < max(len(first.rows), len(other.rows)):
        sizes = " and ".join(f"{run.letter} scored {len(run.rows):,}" for run in (first, other))
        mind.append(f"compared only on the {num_rows:,} rows that both scored; {sizes}")
    if not any("group" in next(iter(run.rows.values())) for run in (first, other)):
        mind.append(
            "neither run's predictions say which rows belong together; scripts/evaluate.py writes such"
        )
    if old.get("split") != new.get("split"):
        mind.append("the split differs, so the two trained on different rows")
    if old.get("data") != new.get("data"):
        mind.append(
            "the data differ; these rows agree in id and label, but their texts may not: run.json has one "
            "sha256 for all rows, so an id whose text changed cannot be seen"
        )
    if settings == ["optim.seed"]:
        also = "" if old.get("data") == new.get("data") else ", and that of other data"
        mind.append(f"only --seed differs: the difference measures seed noise{also}, no setting")
    if not num_changed and settings:
        which = "the same" if first.weights == other.weights else "OTHER"
        evidence = f"the scored checkpoints hold {which} weights"
        if not (first.weights and other.weights):
            evidence = "they must be the same weights (a checkpoint is gone, so this is not checked)"
        mind.append(f"the same to the last digit though {', '.join(settings)} differ: {evidence}")
    elif num_changed and equal_scores:
        mind.append(f"all scores are equal, yet {num_changed:,} of {num_rows:,} predictions are not")
    return mind


def _pair(first: Side, other: Side, ids: list[str]) -> Pair:
    recipe = recipes.load(first.first.config["recipe"])
    one, two = ([side.first.rows[identity] for identity in ids] for side in (first, other))
    groups = Groups.of(one if "group" in one[0] else two)
    by_seed = [side.by_seed(recipe, ids) for side in (first, other)]
    before, after = (
        # one seed alone may lack a score: of answers that cite, where it cites nowhere
        {
            name: intervals.of_all_seeds([values[name] for values in each])
            for name in each[0]
            if all(name in values for values in each)
        }
        for each in by_seed
    )
    scores = [intervals.score(values, groups, recipe.metrics) for values in (before, after)]
    # a loss for each token says something else where another tokenizer or --letters-only makes other tokens
    num_other = sum(old.get("num_tokens") != new.get("num_tokens") for old, new in zip(one, two, strict=True))
    of_tokens = [metric.name for metric in recipe.metrics if num_other and metric.reads == "loss"]
    compared = {
        metric.name: Scored(
            scores[0][metric.name],
            scores[1][metric.name],
            intervals.difference(before[metric.name], after[metric.name], groups, metric.partial),
        )
        for metric in recipe.metrics
        if metric.name in before and metric.name in after and metric.name not in of_tokens
    }
    deciding = [
        (m.name, m.better) for m in recipe.metrics if m.name in compared and not m.partial and m.better
    ]
    if not deciding:
        raise CheckError(f"{', '.join(of_tokens)} are of other tokens, and both scored nothing else")
    name, better = deciding[0]
    word, why = intervals.verdict(compared[name].difference, groups, better)
    seeds = _seeds([[float(values[name].mean()) for values in each] for each in by_seed])
    if seeds is not None and word in ("better", "worse"):
        word, why = _beyond_seeds(seeds, word, better)
    distance = answers_of(recipe).distance
    num_changed = sum(distance(new, old) != 0 for old, new in zip(one, two, strict=True))
    if not num_changed and seeds is None:
        word, why = "the same", " in every prediction"
    equal = all(scored.difference.value == 0 for scored in compared.values())
    mind = [] if seeds else notes(first.first, other.first, len(ids), num_changed, equal)
    if of_tokens:
        mind.append(f"{', '.join(of_tokens)} are left out: in {num_other:,} rows they are of other tokens")
    return Pair(first.letter, other.letter, len(ids), len(groups), compared, seeds, word, why, mind)


def _seeds(values: list[list[float]]) -> Seeds | None:
    """None where both sides are single runs."""
    first, other = values
    if len(first) == len(other) == 1:
        return None
    return Seeds(first, other, intervals.of_seeds(first, other) if min(len(first), len(other)) > 1 else None)


def _beyond_seeds(seeds: Seeds, word: str, better: str) -> tuple[str, str]:
    """A verdict that the rows allow, if the seeds do too."""
    if seeds.difference is None:
        return word, " (on rows like these; one side has a single seed, so how much is luck is unknown)"
    if word == "better":
        certain = intervals.beyond(seeds.difference, better)
    else:
        certain = intervals.beyond(seeds.difference, "higher" if better == "lower" else "lower")
    if certain:
        return word, " (beyond the rows' interval and the seeds')"
    return "cannot tell", ": beyond the rows' interval, but not beyond the seeds'; more seeds may tell"


def _all_seeds(sides: list[Side], pairs: list[Pair]) -> list[float]:
    singles = all(len(side.runs) == 1 for side in sides) and len(pairs) == len(sides) - 1
    if not singles or any(changed_settings(sides[0].first, side.first) != SEED for side in sides[1:]):
        return []
    firsts = [next(iter(pair.scores.values())) for pair in pairs]
    return [firsts[0].first.value, *(scored.other.value for scored in firsts)]
