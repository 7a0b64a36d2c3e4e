"""Rows from anywhere: a hub data set, csv/jsonl/parquet files, a folder with one file a split, or a sample.

What comes out is raw rows with the place each came from ("train.csv:17"), and the lines that could not be
read at all. No row disappears: rows in = rows out + broken lines.
"""

import codecs
import csv
import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.base import hub
from lib.base.files import sha256_of
from lib.config import DataConfig
from lib.recipe import Recipe, Row

SUFFIXES = (".csv", ".jsonl", ".parquet")
SAMPLE_SEED = 0  # not the run's: two seeds of one experiment train on the same rows
SPLITS = ("train", "validation", "test")
NAMES = {"validation": ("validation", "valid", "val", "dev")}  # what files of a folder are called
Forms = tuple[tuple[str, ...], ...]  # sets of columns, of which every row must have one


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


@dataclass
class Source:
    """Everything that was read, by split; `train` alone when the splits are still to be made."""

    name: str
    splits: dict[str, list[RawRow]]
    rejected: list[Rejected] = field(default_factory=list)
    revision: str | None = None
    """The resolved commit of a hub data set."""
    files: dict[str, str] = field(default_factory=dict)
    """File name -> sha256 of its bytes."""


def load(config: DataConfig, recipe: Recipe, with_label: bool = True) -> Source:
    """Read what `config.data` names. Raises ValueError for anything a user can cause."""
    path = Path(config.data)
    answers = () if with_label else recipe.label_columns
    forms = tuple(tuple(column for column in form if column not in answers) for form in recipe.columns)
    if config.data == "sample":
        rows = recipe.sample(config.sample_rows, SAMPLE_SEED)
        return Source("sample", {"train": [RawRow(f"sample row {i}", row) for i, row in enumerate(rows)]})
    if path.is_dir():
        return _load_files(config.data, _files_of_folder(path), forms)
    if path.exists() or path.suffix.lower() in SUFFIXES:
        return _load_files(config.data, {"train": path}, forms)
    return _load_hub(config, recipe, forms)


def _files_of_folder(folder: Path) -> dict[str, Path]:
    by_split: dict[str, Path] = {}
    for split in SPLITS:
        files = [
            file
            for file in sorted(folder.iterdir())
            if file.stem in NAMES.get(split, (split,)) and file.suffix.lower() in SUFFIXES and file.is_file()
        ]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise ValueError(
                f"{folder} has two files for the split {split}: {names}; keep one of them, or name one file"
            )
        if files:
            by_split[split] = files[0]
    if "train" not in by_split:
        raise ValueError(
            f"{folder} has no train.csv, train.jsonl or train.parquet; it holds: "
            + (", ".join(sorted(item.name for item in folder.iterdir())[:10]) or "nothing")
        )
    return by_split


def _load_files(name: str, files: dict[str, Path], forms: Forms) -> Source:
    source = Source(name, {})
    for split, file in files.items():
        rows, rejected = read_file(file)
        _require_columns(str(file), [row.values for row in rows], forms)
        source.splits[split] = rows
        source.rejected += rejected
        source.files[file.name] = sha256_of(file)
    return source


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
                values = json.loads(line.decode("utf-8"))
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


def _read_parquet(file: Path) -> Iterator[RawRow | Rejected]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
            for values in batch.to_pylist():
                yield RawRow(f"{file.name}:{number}", values)
                number += 1
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # damaged, or dates Python lacks
        raise ValueError(f"{file} cannot be read as parquet: {error}") from error


def _require_columns(name: str, rows: list[Row], forms: Forms) -> None:
    """A column that no row has is missing from the file; one that some rows lack is those rows' fault."""
    seen: set[str] = set().union(*(row.keys() for row in rows[:1000]))
    missing = min(([column for column in form if column not in seen] for form in forms), key=len)
    if rows and missing:
        raise ValueError(
            f"{name} lacks the column {', '.join(missing)}; it has "
            f"{', '.join(sorted(map(str, seen))) or 'none'}; "
            f"needed are {' -- or '.join(', '.join(form) for form in forms)}"
        )


def _load_hub(config: DataConfig, recipe: Recipe, forms: Forms) -> Source:
    """A data set of the Hugging Face hub at a resolved commit."""
    if config.data.count("/") > 1 or config.data.startswith((".", "/", "~")):
        raise ValueError(f"{config.data} does not exist; --data takes a file, a folder, a hub id or sample")
    name, configuration = hub.parts_of(config.data)
    meant = "did you mean sample? Or " if difflib.get_close_matches(config.data, ["sample"]) else ""
    try:
        revision = config.revision or (recipe.revisions or {}).get(name, "main")
        commit = hub.commit_of("dataset", name, revision)
    except hub.UnreachableError as error:
        raise ValueError(
            f"{config.data} is no file here, and the hub cannot be reached ({error}); {meant}"
            "give a .csv, .jsonl or .parquet file, or --data sample"
        ) from error
    import datasets
    from huggingface_hub.errors import HTTPError

    try:
        loaded: Any = datasets.load_dataset(name, configuration, revision=commit)
    # a script instead of files, several configurations, columns that differ, a connection that breaks
    except (RuntimeError, ValueError, OSError, HTTPError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"hub data set {config.data} at {commit[:12]} cannot be loaded: {hub.first_line(error)} "
            f"({hub.CONFIGURATIONS}; instead of a script try --revision refs/convert/parquet)"
        ) from error
    source = Source(config.data, {}, revision=commit)
    for split in (name for name in SPLITS if name in loaded):
        rows = [RawRow(f"{config.data}/{split}:{i}", dict(row)) for i, row in enumerate(loaded[split])]
        _require_columns(f"{config.data}/{split}", [row.values for row in rows], forms)
        source.splits[split] = rows
    if "train" not in source.splits:
        raise ValueError(f"hub data set {config.data} has no split train; it has {', '.join(loaded)}")
    return source
