"""Review sheets that people filled in -> their grades, by model. What is not as it was written, or is no
grade, is refused with its cell: a row that lost its neighbours would count for the other text without a
word."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from openpyxl import load_workbook

from lib.base.files import sha256_of
from lib.recipe import as_word
from lib.reports import sheet as layout
from lib.reports.sheet import ABOUT, GRADED, GRADES, HEADER, REVIEW, Origin, fingerprint

MOST_SHOWN = 10  # problems
FIRST_TEXT, FIRST_GRADE = 1, 1 + len(layout.TEXTS)  # places in a row
NO_GRADE = float("nan")

Grades = dict[str, np.ndarray]
"""Model -> (rows,) with NaN where a cell is empty."""


@dataclass(frozen=True)
class Written:
    """What the hidden tab says of a sheet as it was written."""

    origin: Origin
    groups: dict[str, str]
    """id -> group, by id."""
    fingerprints: dict[str, str]
    """id -> that of its texts."""


@dataclass
class Filled:
    """One reviewer's sheet."""

    path: Path
    written: Written
    cells: dict[str, dict[str, float]] = field(default_factory=dict)
    """id -> column -> grade."""
    comments: dict[str, str] = field(default_factory=dict)
    """id -> what was said of the row."""
    problems: list[str] = field(default_factory=list)

    def grades(self, criterion: str) -> Grades:
        """By model: here the order of each row's texts is undone."""
        by_model: dict[str, list[float]] = {model: [] for model in ("base", "tuned")}
        for identity in self.written.groups:
            for model, place in zip(self.written.origin.models(identity), layout.PLACES, strict=True):
                by_model[model].append(self.cells[identity][f"{criterion} {place}"])
        return {model: np.array(values) for model, values in by_model.items()}


def read_sheets(paths: Sequence[Path]) -> list[Filled]:
    """One a reviewer, all of the same rows. Raises ValueError with what is wrong in any of them."""
    _refuse_copies(paths)
    sheets = [_read(path) for path in paths]
    problems = [line for other in sheets[1:] for line in _unlike(sheets[0], other)]
    problems += [line for sheet in sheets for line in sheet.problems]
    if problems:
        more = len(problems) - MOST_SHOWN
        shown = problems[:MOST_SHOWN] + ([f"... and {more} more"] if more > 0 else [])
        raise ValueError("\n".join([f"{len(problems)} problems in the sheets:", *shown]))
    return sheets


def _refuse_copies(paths: Sequence[Path]) -> None:
    """One sheet that stands for two reviewers would agree with itself."""
    known: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        content = sha256_of(path)
        if content in known:
            raise ValueError(
                f"{path} is {known[content]} once more, byte for byte; give each reviewer's sheet once"
            )
        known[content] = path


def _unlike(first: Filled, other: Filled) -> list[str]:
    """Why two sheets cannot be read together."""
    one, two = first.written, other.written
    if one.origin != two.origin:
        return [f"{other.path} is of {_named(two.origin)}, {first.path} of {_named(one.origin)}"]
    if one != two:
        sizes = f"{len(two.groups)} rows, {first.path} has {len(one.groups)}"
        return [f"{other.path} has other rows or texts than {first.path} ({sizes}); give copies of one sheet"]
    return []


def _named(origin: Origin) -> str:
    return f"the run {origin.run}, split {origin.split}, seed {origin.seed}"


def _read(path: Path) -> Filled:
    """With the problems of its cells. Raises ValueError when it is no review sheet."""
    book = _open(path)
    for name in (ABOUT, REVIEW):
        if name not in book.sheetnames:
            raise ValueError(
                f"{path} has no tab {name!r} (it has: {', '.join(book.sheetnames)}); give files that "
                "scripts/sheet.py made and people filled in"
            )
    sheet, tab = Filled(path, _written(path, book[ABOUT])), book[REVIEW]
    sheet.problems += _changed_header(path, tab)
    if not sheet.problems:
        _read_rows(sheet, tab)
    return sheet


def _open(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of parts of other programs that openpyxl leaves out
        try:
            return load_workbook(path)  # formulas as such: what they came to may never have been computed
        except Exception as error:  # openpyxl may stumble anywhere in a damaged file
            raise ValueError(f"{path} cannot be read as an .xlsx file: {error}") from error


def _written(path: Path, tab: Any) -> Written:
    lines = [tuple(as_word(value) or "" for value in line[:3]) for line in tab.values if any(line)]
    try:
        (run, split, seed, seal), names, rows = (line[1] for line in lines[:4]), lines[4], sorted(lines[5:])
        origin = Origin(run, split, int(seed))
        groups = {identity: group for identity, group, _ in rows}
        texts = {identity: digest for identity, _, digest in rows}
        whole = names == layout.ABOUT_ROWS and bool(rows) and seal == origin.seal
    except (ValueError, IndexError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: its hidden tab {ABOUT!r} was changed; give a sheet that has it as written")
    return Written(origin, groups, texts)


def _changed_header(path: Path, tab: Any) -> list[str]:
    cells = [tab.cell(1, column) for column in range(1, len(HEADER) + 1)]
    return [
        f"{_where(path, cell)}: the header is {cell.value!r}; it was {name!r}, and must be"
        for cell, name in zip(cells, HEADER, strict=True)
        if cell.value != name
    ]


def _where(path: Path, cell: Any) -> str:
    return f"{path}, tab {REVIEW}, cell {cell.coordinate}"


def _read_rows(sheet: Filled, tab: Any) -> None:
    """Into the sheet: grades, comments, and what is wrong."""
    seen: dict[str, str] = {}  # id -> its cell
    for whole_line in tab.iter_rows(min_row=2):
        line, beside = whole_line[: len(HEADER)], whole_line[len(HEADER) :]
        sheet.problems += [
            f"{_where(sheet.path, cell)}: {cell.value!r} stands beside the table, where nothing is read"
            for cell in beside
            if not _blank(cell.value)
        ]
        if all(_blank(cell.value) for cell in line):
            continue
        identity, where = as_word(line[0].value), _where(sheet.path, line[0])
        if identity not in sheet.written.groups:
            sheet.problems.append(f"{where}: {identity or ''!r} is no row of this sheet; put its id back")
            continue
        if identity in seen:
            sheet.problems.append(f"{where}: row {identity!r} stands in {seen[identity]} too; remove one")
            continue
        seen[identity] = line[0].coordinate
        _read_row(sheet, identity, line)
    lacking = [identity for identity in sheet.written.groups if identity not in seen]
    if lacking:
        named = ", ".join(map(repr, lacking[:3])) + (", ..." if len(lacking) > 3 else "")
        sheet.problems.append(
            f"{sheet.path}, tab {REVIEW}: {len(lacking)} of {len(sheet.written.groups)} rows were removed "
            f"({named}); put them back (their grades may be empty)"
        )


def _read_row(sheet: Filled, identity: str, line: Sequence[Any]) -> None:
    texts = line[FIRST_TEXT:FIRST_GRADE]
    if fingerprint([as_word(cell.value) or "" for cell in texts]) != sheet.written.fingerprints[identity]:
        sheet.problems.append(
            f"{_where(sheet.path, texts[0])} to {texts[-1].coordinate}: these are not the texts of row "
            f"{identity!r} as they were written; undo the change (only whole rows may be sorted)"
        )
    grades = {}
    for name, cell in zip(GRADED, line[FIRST_GRADE:], strict=False):
        try:
            grades[name] = _grade(cell.value)
        except ValueError as error:
            sheet.problems.append(f"{_where(sheet.path, cell)}: {error}")
    sheet.cells[identity] = grades
    if not _blank(line[-1].value):
        sheet.comments[identity] = str(line[-1].value).strip()


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _grade(value: Any) -> float:
    """Raises ValueError for what is none. Programs keep a 1 as 1, as 1.0 or as the text "1"."""
    if _blank(value):
        return NO_GRADE
    word = str(as_word(value)).strip()  # True is "True", which is no grade
    if word not in map(str, GRADES):
        raise ValueError(f"{value!r}; allowed are 0, 1, 2 or empty")
    return float(word)
