"""What the reviewers of a sheet found: each model's grades, their difference, and how far reviewers agree.

A row's value is the mean over the reviewers who graded both of its texts by that criterion, so base, tuned
and their difference are of the same grades.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.answers import intervals
from lib.answers.agreement import Agreement
from lib.answers.intervals import Groups, Interval, signed
from lib.reports.compare_words import columns
from lib.reports.sheet import CRITERIA, GRADES, Origin
from lib.reports.sheet_read import Filled


@dataclass(frozen=True)
class Reviewer:
    """How much of a sheet one person filled in."""

    path: Path
    full: int
    """Rows with all grades."""
    partly: int
    """Rows with some."""
    empty: int
    """Rows with none."""
    empty_cells: int
    """Grades that are lacking, of all rows."""
    comments: int


@dataclass(frozen=True)
class Graded:
    """Both models by one criterion."""

    num_rows: int
    """With both texts graded by at least one reviewer."""
    num_groups: int
    num_halves: int
    """Times that a reviewer graded one text of a row and not the other; these count for agreement only."""
    base: Interval
    tuned: Interval
    difference: Interval
    """tuned - base"""
    verdict: str
    why: str


@dataclass(frozen=True)
class Comment:
    reviewer: str
    row: str
    text_1: str
    """Whose it is."""
    text_2: str
    comment: str


@dataclass(frozen=True)
class Review:
    origin: Origin
    num_rows: int
    num_groups: int
    reviewers: dict[str, Reviewer]
    scores: dict[str, Graded | None]
    """By criterion. None: nobody graded both texts of any row."""
    agreement: dict[str, Agreement]
    """By criterion and whose texts; empty where there is one reviewer."""
    comments: list[Comment]


def review(sheets: list[Filled]) -> Review:
    """Of at least one sheet; all are of the same rows."""
    written = sheets[0].written
    names = _names([sheet.path for sheet in sheets])
    scores, agreement = {}, {}
    for criterion in CRITERIA:
        of_each = [sheet.grades(criterion) for sheet in sheets]
        base, tuned = (np.array([grades[model] for grades in of_each]) for model in ("base", "tuned"))
        scores[criterion] = _graded(base, tuned, list(written.groups.values()))
        if len(sheets) > 1:
            both = np.concatenate([base, tuned], axis=1)
            for texts, grades in (("base", base), ("tuned", tuned), ("both", both)):
                agreement[f"{criterion} of {texts}"] = Agreement.of(grades)
    return Review(
        written.origin,
        len(written.groups),
        len(set(written.groups.values())),
        {name: _reviewer(sheet) for name, sheet in zip(names, sheets, strict=True)},
        scores,
        agreement,
        [comment for name, sheet in zip(names, sheets, strict=True) for comment in _comments(name, sheet)],
    )


def _names(paths: list[Path]) -> list[str]:
    """File names, where these tell reviewers apart."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _reviewer(sheet: Filled) -> Reviewer:
    lacking = [int(np.isnan(list(grades.values())).sum()) for grades in sheet.cells.values()]
    num_grades = 2 * len(CRITERIA)
    full, empty = lacking.count(0), lacking.count(num_grades)
    return Reviewer(sheet.path, full, len(lacking) - full - empty, empty, sum(lacking), len(sheet.comments))


def _graded(base: np.ndarray, tuned: np.ndarray, groups: list[str]) -> Graded | None:
    """Of (reviewers, rows) grades."""
    pairs = ~np.isnan(base) & ~np.isnan(tuned)
    num_halves = int((np.isnan(base) != np.isnan(tuned)).sum())
    rows = np.flatnonzero(pairs.any(axis=0))
    if not len(rows):
        return None
    before, after = (
        np.where(pairs, grades, 0).sum(axis=0)[rows] / pairs.sum(axis=0)[rows] for grades in (base, tuned)
    )
    of_rows = Groups(groups[row] for row in rows)
    difference = intervals.difference(before, after, of_rows)
    word, why = intervals.verdict(difference, of_rows, "higher")
    scores = [_interval(values, of_rows) for values in (before, after)]
    return Graded(len(rows), len(of_rows), num_halves, scores[0], scores[1], difference, word, why)


def _interval(values: np.ndarray, groups: Groups) -> Interval:
    """Grades lie from 0 to 2, so half of one is a share: all rows at the top are no certainty."""
    most = max(GRADES)
    share = intervals.interval(values / most, groups, share=True)
    return Interval(most * share.value, most * share.low, most * share.high)


def _comments(name: str, sheet: Filled) -> list[Comment]:
    models = sheet.written.origin.models
    return [Comment(name, row, *models(row), comment) for row, comment in sheet.comments.items()]


def lines(found: Review) -> list[str]:
    """For people."""
    origin = found.origin
    said = [
        f"{origin.run}, split {origin.split}: {found.num_rows:,} rows in {found.num_groups:,} groups, "
        f"reviewers: {len(found.reviewers)}; grades from 0 to {max(GRADES)}",
        "",
        *columns(_reviewers(found)),
        "",
    ]
    table = [["mean [95 %]", "rows", "base", "tuned", "tuned - base"]]
    for criterion, graded in found.scores.items():
        if graded is None:
            table.append([f"  {criterion}", "0", *3 * ["-"]])
            continue
        scores = (str(graded.base), str(graded.tuned), signed(graded.difference))
        table.append([f"  {criterion}", str(graded.num_rows), *scores])
    said += columns(table)
    for criterion, graded in found.scores.items():
        said.append(f"verdict by {criterion}, tuned against base: {_verdict(graded)}")
    said += [
        f"mind: {graded.num_halves} times only one text of a row was graded by {criterion}; these are not in "
        "the means"
        for criterion, graded in found.scores.items()
        if graded is not None and graded.num_halves
    ]
    return said + _agreement(found)


def _verdict(graded: Graded | None) -> str:
    if graded is None:
        return "cannot tell: nobody graded both texts of a row"
    return f"{graded.verdict}{graded.why}"


def _reviewers(found: Review) -> list[list[str]]:
    table = [["reviewer", "full rows", "partly", "empty", "empty cells", "comments"]]
    for name, one in found.reviewers.items():
        counts = (one.full, one.partly, one.empty, one.empty_cells, one.comments)
        table.append([f"  {name}", *map(str, counts)])
    return table


def _agreement(found: Review) -> list[str]:
    if not found.agreement:
        return []
    table = [["agreement of reviewers", "texts", "same grade", "Krippendorff's alpha, ordinal"]]
    for name, one in found.agreement.items():
        same = "-" if one.same is None else f"{100 * one.same:.1f} %"
        table.append([f"  {name}", str(one.num_units), same, _alpha(one)])
    return ["", *columns(table)]


def _alpha(one: Agreement) -> str:
    if one.alpha is not None:
        return f"{one.alpha:.3f}"
    return "-" if one.same is None else "- (one grade only)"
