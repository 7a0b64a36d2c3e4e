"""A csv, jsonl or parquet file -> rows with the place each stands at, and the lines that could not be read.
No row disappears: lines in = rows out + broken lines. Whatever could turn an answer without a word (two
columns of one name, numbers that stand for classes) is refused or read by its name."""

import codecs
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from lib.recipe import Row

SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be used: where it stands, why, and what was there (shortened)."""

    where: str
    reason: str
    value: str

    @staticmethod
    def of(where: str, reason: object, value: object) -> "Rejected":
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return Rejected(where, str(reason), text if len(text) <= 2000 else text[:2000] + " ...")


@dataclass(frozen=True)
class RawRow:
    where: str
    """File and line, or data set and row number."""
    values: Row


def read_file(file: Path) -> tuple[list[RawRow], list[Rejected]]:
    """Rows and broken lines of one .csv, .jsonl or .parquet file. Raises ValueError when it cannot be read at
    all."""
    rows: list[RawRow] = []
    rejected: list[Rejected] = []
    for item in stream(file):
        if isinstance(item, RawRow):
            rows.append(item)
        else:
            rejected.append(item)
    if not rows and not rejected:
        raise ValueError(f"{file} holds no rows")
    return rows, rejected


def stream(file: Path) -> Iterator[RawRow | Rejected]:
    """The same one by one, for files that are too large to be held."""
    readers: dict[str, Callable[[Path], Iterator[RawRow | Rejected]]] = {
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    if file.suffix.lower() not in readers:
        raise ValueError(f"{file} is no data file; use one of {', '.join(SUFFIXES)}, a folder, or a hub id")
    try:
        yield from readers[file.suffix.lower()](file)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error


def _read_jsonl(file: Path) -> Iterator[RawRow | Rejected]:
    with file.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            where = f"{file.name}:{number}"
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8"), object_pairs_hook=_row_of)
            except (ValueError, RecursionError) as error:  # bytes, syntax, a number of 5,000 digits, nesting
                yield Rejected.of(where, f"broken JSON: {error}", line.decode("utf-8", "replace").strip())
                continue
            if isinstance(values, dict):
                yield RawRow(where, values)
            else:
                yield Rejected.of(where, f"a {type(values).__name__}, expected an object of columns", values)


def _read_csv(file: Path) -> Iterator[RawRow | Rejected]:
    csv.field_size_limit(2**31 - 1)  # the module's own limit is 128 KiB; a text of 10 MB is a legal row
    with file.open("r", encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        reader = csv.reader(handle, strict=True)
        header: list[str] | None = None
        end = 0  # a row of a csv spans lines: its place is the line it begins on
        while True:
            where = f"{file.name}:{end + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if header is None:
                    raise ValueError(f"{file}: the line with the columns is broken csv: {error}") from error
                for number in range(end + 1, reader.line_num + 1):  # all lines that a stray quote swallowed
                    yield Rejected.of(f"{file.name}:{number}", f"broken csv: {error}", "")
                end = reader.line_num
                continue
            end = reader.line_num
            if cells is None:
                return
            if not cells:
                continue
            if header is None:
                header = _header(file, cells)
            elif len(cells) != len(header):
                yield Rejected.of(where, f"{len(cells)} cells under {len(header)} columns", cells)
            elif not _is_utf8(cells):
                shown = [cell.encode("utf-8", "replace").decode() for cell in cells]
                yield Rejected.of(where, "not UTF-8", shown)
            else:
                yield RawRow(where, dict(zip(header, cells, strict=True)))


def _header(file: Path, cells: list[str]) -> list[str]:
    """The names of the columns. Raises ValueError when a row could not be read by them."""
    if not _is_utf8(cells):
        raise ValueError(f"{file} is not UTF-8; save it as UTF-8")
    doubled = [name for name, count in Counter(cells).items() if name and count > 1]
    if doubled:
        raise ValueError(f"{file} has more than one column named {doubled[0]!r}; keep one of them")
    return cells


def _is_utf8(cells: list[str]) -> bool:
    """False where reading had to keep a foreign byte as a surrogate."""
    try:
        for cell in cells:
            cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _row_of(pairs: list[tuple[str, Any]]) -> Row:
    """Raises ValueError when a key stands twice: Python would take the last without a word."""
    doubled = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if doubled:
        raise ValueError(f"the key {doubled[0]!r} stands twice")
    return dict(pairs)


def _read_parquet(file: Path) -> Iterator[RawRow | Rejected]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        schema = table.schema_arrow
        doubled = [name for name, count in Counter(schema.names).items() if count > 1]
        if doubled:
            raise ValueError(f"it has more than one column named {doubled[0]!r}; keep one of them")
        classes = _classes_of(schema.metadata or {})
        for batch in table.iter_batches():
            for values in batch.to_pylist():
                yield RawRow(f"{file.name}:{number}", named_classes(values, classes))
                number += 1
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # damaged, or dates Python lacks
        raise ValueError(f"{file} cannot be read as parquet: {error}") from error


def _classes_of(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """The names of the classes in columns of numbers, as `datasets` keeps them in the files it writes."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError):  # somebody else's metadata: it names nothing
        return {}
    classes = {
        name: feature.get("names")
        for name, feature in features
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
    return {name: names for name, names in classes.items() if isinstance(names, list)}


def named_classes(row: Row, classes: Mapping[str, Sequence[str]]) -> Row:
    """The row with the names of its classes for their numbers: 0 may well be the class `true`."""
    # also 1.0: a column with gaps is one of floats after some tools
    found = {
        column: int(row[column])
        for column in classes
        if isinstance(row.get(column), int | float | Decimal) and row[column] == row[column] // 1
    }
    # -1 is how `datasets` writes that there is none
    return row | {
        column: classes[column][number] if 0 <= number < len(classes[column]) else None
        for column, number in found.items()
    }
