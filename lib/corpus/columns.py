"""Which columns a recipe's rows need, what they may be called in a file, and which of them hold lists."""

import json
from collections.abc import Sequence
from dataclasses import replace

from lib.config_keys import nearest
from lib.corpus.readers import RawRow
from lib.recipe import Recipe

Forms = tuple[tuple[str, ...], ...]  # sets of columns, of which every row must have one


def mapping(words: str | None) -> dict[str, str]:
    """question=q,passage=text -> {"question": "q", "passage": "text"}. Raises ValueError."""
    columns: dict[str, str] = {}
    for word in words.split(",") if words else ():
        ours, is_pair, theirs = word.partition("=")
        ours = ours.strip()
        if not (ours and is_pair and theirs.strip()):
            raise ValueError(f"--columns {words}: {word!r} is no pair; type it like question=q,passage=text")
        if ours in columns:
            raise ValueError(f"--columns {words}: {ours} stands there twice")
        columns[ours] = theirs
    return columns


def names_of(recipe: Recipe) -> list[str]:
    """Every column that a recipe reads."""
    return list(dict.fromkeys([*(name for form in recipe.columns for name in form), *recipe.optional]))


def renamed(name: str, rows: list[RawRow], columns: dict[str, str], recipe: Recipe) -> list[RawRow]:
    """Rows by the recipe's names; what a file has under one of these names itself is left out. Raises
    ValueError for a name that the recipe does not read, and for a column that no row of `name` has, unless it
    holds answers: a caller who wants them misses them by their own name."""
    there = _there(rows)
    for ours in sorted(columns.keys() - set(names_of(recipe))):
        if ours in there and columns[ours].strip() in names_of(recipe):
            raise ValueError(
                f"--columns {ours}={columns[ours]}: the recipe's name stands first, the file's behind"
            )
        raise ValueError(f"--columns: {ours} is no column of this recipe; {nearest(ours, names_of(recipe))}")
    # blanks behind a comma are nobody's, unless a column is called so
    columns = {ours: theirs if theirs in there else theirs.strip() for ours, theirs in columns.items()}
    spare = recipe.label_columns
    missing = [theirs for ours, theirs in columns.items() if theirs not in there and ours not in spare]
    if rows and missing:
        raise ValueError(
            f"--columns names {', '.join(missing)}, which {name} lacks; {_it_has(there)} (where rows have "
            "the recipe's names, unlike the run's: --columns '')"
        )
    gone = columns.keys() | columns.values()
    return [
        replace(
            row,
            values={key: value for key, value in row.values.items() if key not in gone}
            | {ours: row.values[theirs] for ours, theirs in columns.items() if theirs in row.values},
        )
        for row in rows
    ]


def refuse_nearly(name: str, rows: list[RawRow], recipe: Recipe) -> None:
    """Raises ValueError for a column that differs from one the recipe reads in capitals or blanks only: it
    would be passed over without a word."""
    there, known = _there(rows), names_of(recipe)
    plain = {one.casefold(): one for one in known}
    for column in sorted(map(str, there - set(known))):
        meant = plain.get(column.strip().casefold())
        if meant is not None and meant not in there:
            raise ValueError(
                f"{name} has a column {column!r}, which is not read; if {meant} is meant, add "
                f"--columns '{meant}={column}', else call it otherwise"
            )


def lists_in(rows: Sequence[RawRow], recipe: Recipe) -> list[str]:
    """Which columns hold JSON lists of turns: those most of whose texts are. A column of plain texts may hold
    some that begin with a bracket, even some that are JSON lists. Raises ValueError for one of lists that are
    no JSON, as pandas writes them into a csv."""
    lists = []
    for name in recipe.list_columns:
        texts = [value for row in rows if isinstance(value := row.values.get(name), str) and value.strip()]
        if 2 * sum(map(_is_list, texts)) > len(texts):
            lists.append(name)
        elif 2 * sum(text.strip().startswith("[") and text.strip().endswith("]") for text in texts) > len(
            texts
        ):
            raise ValueError(
                f"{name} looks like lists, but most are no JSON, {texts[0][:60]!r} for one (pandas writes "
                "lists so into a csv); write them with json.dumps, or the rows as .jsonl or .parquet"
            )
    return lists


def with_lists(rows: list[RawRow], recipe: Recipe, lists: Sequence[str]) -> list[RawRow]:
    """Rows whose other columns of texts hold one turn each, whatever it begins with."""
    plain = [name for name in recipe.list_columns if name not in lists]
    return [
        replace(
            row,
            values=row.values
            | {name: [value] for name in plain if isinstance(value := row.values.get(name), str)},
        )
        for row in rows
    ]


def _is_list(text: str) -> bool:
    try:
        return text.lstrip().startswith("[") and isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


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
    return set().union(*(row.values.keys() for row in rows))


def _it_has(there: set[str]) -> str:
    return f"it has {', '.join(sorted(map(str, there))) or 'none'}"
