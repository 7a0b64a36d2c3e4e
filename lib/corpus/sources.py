"""Rows from anywhere: a hub data set, csv/jsonl/parquet files, a folder with one file a split, or a sample.

What comes out is raw rows with the place each came from ("train.csv:17"), and the lines that could not be
read at all. No row disappears: rows in = rows out + broken lines.
"""

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.base import hub
from lib.base.files import sha256_of
from lib.config import DataConfig
from lib.corpus import columns
from lib.corpus.readers import SUFFIXES, RawRow, Rejected, named_classes, read_file
from lib.recipe import Recipe

SAMPLE_SEED = 0  # not the run's: two seeds of one experiment train on the same rows
SPLITS = ("train", "validation", "test")
NAMES = {"validation": ("validation", "valid", "val", "dev")}  # what files of a folder are called


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
    places: dict[str, str] = field(default_factory=dict)
    """Split -> where its rows come from, for people."""
    notes: list[str] = field(default_factory=list)
    """What people should know of the reading."""


def load(config: DataConfig, recipe: Recipe, with_label: bool = True) -> Source:
    """Read what `config.data` names. Raises ValueError for anything a user can cause."""
    path = Path(config.data)
    names = columns.mapping(config.columns)
    if config.data == "sample":
        if names:
            raise ValueError(f"--columns {config.columns}: the sample has the recipe's names; leave it out")
        rows = recipe.sample(config.sample_rows, SAMPLE_SEED)
        return Source("sample", {"train": [RawRow(f"sample row {i}", row) for i, row in enumerate(rows)]})
    if path.is_dir():
        files = _files_of_folder(path)
        source = _load_files(config.data, files)
        source.notes += _passed_over(path, files)
    elif path.exists() or path.suffix.lower() in SUFFIXES:
        source = _load_files(config.data, {"train": path})
    else:
        source = _load_hub(config, recipe)
    answers = () if with_label else recipe.label_columns
    forms = tuple(tuple(column for column in form if column not in answers) for form in recipe.columns)
    for split, raw in source.splits.items():
        where = source.places[split]
        source.splits[split] = columns.renamed(where, raw, names, recipe) if names else raw
        columns.refuse_nearly(where, source.splits[split], recipe)
        columns.require(where, source.splits[split], forms)
    return source


def sums(data: str) -> dict[str, str] | None:
    """File name -> sha256 of the files that `data` names; None where it names none that are here."""
    path = Path(data)
    if not path.exists():
        return None
    try:
        files = _files_of_folder(path) if path.is_dir() else {"train": path}
    except ValueError:
        return None
    return {file.name: sha256_of(file) for file in files.values()}


def _files_of_folder(folder: Path) -> dict[str, Path]:
    by_split: dict[str, Path] = {}
    for split in SPLITS:
        files = [
            file
            for file in sorted(folder.iterdir())
            if file.stem.lower() in NAMES.get(split, (split,))
            and file.suffix.lower() in SUFFIXES
            and file.is_file()
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


def _passed_over(folder: Path, files: dict[str, Path]) -> list[str]:
    """Other things there that are called as splits are."""
    words = [word for split in SPLITS for word in NAMES.get(split, (split,))]
    others = [
        path.name
        for path in sorted(folder.iterdir())
        if path not in files.values() and re.match(rf"({'|'.join(words)})(?![a-z])", path.name.lower())
    ]
    return [f"WARNING: not read, though called as a split is: {', '.join(others)}"] if others else []


def _load_files(name: str, files: dict[str, Path]) -> Source:
    source = Source(name, {})
    for split, file in files.items():
        rows, rejected = read_file(file)
        source.splits[split], source.places[split] = rows, str(file)
        source.rejected += rejected
        source.files[file.name] = sha256_of(file)
    return source


def _load_hub(config: DataConfig, recipe: Recipe) -> Source:
    """A data set of the Hugging Face hub at a resolved commit."""
    if config.data.count("/") > 1 or config.data.startswith((".", "/", "~")):
        raise ValueError(f"{config.data} does not exist; --data takes a file, a folder, a hub id or sample")
    name, configuration = hub.parts_of(config.data)
    meant = "did you mean sample? Or " if difflib.get_close_matches(config.data, ["sample"]) else ""
    try:
        revision = config.revision or (recipe.revisions or {}).get(name, "main")
        commit = hub.commit_of("dataset", name, revision)
    except hub.UnreachableError as error:
        earlier = hub.remembered("dataset", name, revision)
        if earlier is None:
            raise ValueError(
                f"{config.data} is no file here, and the hub cannot be reached ({error}); {meant}"
                "give a .csv, .jsonl or .parquet file, or --data sample"
            ) from error
        commit = earlier
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
    called = {split: next((n for n in NAMES.get(split, (split,)) if n in loaded), "") for split in SPLITS}
    for split in (split for split in SPLITS if called[split]):
        classes = {
            name: feature.names
            for name, feature in loaded[called[split]].features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        rows = [
            RawRow(f"{config.data}/{called[split]}:{i}", named_classes(dict(row), classes))
            for i, row in enumerate(loaded[called[split]])
        ]
        source.splits[split], source.places[split] = rows, f"{config.data}/{split}"
    if "train" not in source.splits:
        raise ValueError(f"hub data set {config.data} has no split train; it has {', '.join(loaded)}")
    return source
