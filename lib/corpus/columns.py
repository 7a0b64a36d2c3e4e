"""Which columns a recipe's rows need, and what they may be called in a file."""

from collections.abc import Sequence
from dataclasses import replace

from lib.corpus.readers import RawRow

Forms = tuple[tuple[str, ...], ...]  # sets of columns, of which every row must have one


def mapping(words: str | None) -> dict[str, str]:
    """question=q,passage=text -> {"question": "q", "passage": "text"}. Raises ValueError."""
    columns: dict[str, str] = {}
    for word in words.split(",") if words else ():
        ours, is_pair, theirs = (part.strip() for part in word.partition("="))
        if not (ours and is_pair and theirs):
            raise ValueError(f"--columns {words}: {word!r} is no pair; type it like question=q,passage=text")
        if ours in columns:
            raise ValueError(f"--columns {words}: {ours} stands there twice")
        columns[ours] = theirs
    return columns


def renamed(name: str, rows: list[RawRow], columns: dict[str, str], spare: Sequence[str]) -> list[RawRow]:
    """Rows by the recipe's names; what a file has under one of these names itself is left out. Raises
    ValueError for a column that no row of `name` has, unless nobody needs it (`spare`)."""
    there = _there(rows)
    missing = [theirs for ours, theirs in columns.items() if theirs not in there and ours not in spare]
    if rows and missing:
        raise ValueError(f"--columns names {', '.join(missing)}, which {name} lacks; {_it_has(there)}")
    gone = columns.keys() | columns.values()
    return [
        replace(
            row,
            values={key: value for key, value in row.values.items() if key not in gone}
            | {ours: row.values[theirs] for ours, theirs in columns.items() if theirs in row.values},
        )
        for row in rows
    ]


def require(name: str, rows: list[RawRow], forms: Forms) -> None:
    """A column that no row has is missing from the file, so ValueError; one that some rows lack is their
    fault."""
    there = _there(rows)
    missing = min(([column for column in form if column not in there] for form in forms), key=len)
    if rows and missing:
        raise ValueError(
            f"{name} lacks the column {', '.join(missing)}; {_it_has(there)}; "
            f"needed are {' -- or '.join(', '.join(form) for form in forms)} "
            f"(where one has another name: --columns {missing[0]}=NAME)"
        )


def _there(rows: list[RawRow]) -> set[str]:
    return set().union(*(row.values.keys() for row in rows[:1000]))


def _it_has(there: set[str]) -> str:
    return f"it has {', '.join(sorted(map(str, there))) or 'none'}"
