"""Passages from a file or the hub, one after the other, and passages of an index, read at random.

Nobody holds all of them: an encyclopedia has millions.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lib.base import hub
from lib.base.files import sha256_of
from lib.corpus import readers
from lib.corpus.readers import SUFFIXES, RawRow, Rejected
from lib.recipe import Row
from lib.retrieval.shards import Shards


@dataclass(frozen=True)
class Passage:
    id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """What is embedded."""
        return f"{self.title}. {self.text}" if self.title else self.text


def to_passage(row: RawRow) -> Passage:
    """Raises ValueError with the reason when a row is no passage."""
    text, title, identity = (row.values.get(name) for name in ("text", "title", "id"))
    if "text" not in row.values:
        raise ValueError(f"the column text is missing; there is {', '.join(map(str, row.values)) or 'none'}")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the text is {text!r}, expected words")
    if title is not None and not isinstance(title, str):
        raise ValueError(f"the title is {title!r}, expected text")
    if identity in (None, ""):
        identity = row.where.rpartition(":")[2]
    return Passage(str(identity), (title or "").strip(), text.strip())


@dataclass(frozen=True)
class PassageFile:
    """A .jsonl, .csv or .parquet file with the column text (title, id), or a .txt file with a passage a
    line."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def identity(self) -> dict[str, Any]:
        """Where the passages come from, and what they were."""
        stat = self.path.stat()
        return {
            "path": str(self.path),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": sha256_of(self.path),
        }

    def items(self, begin: int) -> Iterator[Passage | Rejected]:
        """What stands in the file from the row number `begin` on."""
        rows = _read_txt(self.path) if self.path.suffix.lower() == ".txt" else readers.stream(self.path)
        return map(_convert, islice(rows, begin, None))


@dataclass(frozen=True)
class HubPassages:
    """A data set of the hub at a commit, read as a stream."""

    name: str
    configuration: str | None
    split: str
    commit: str

    def identity(self) -> dict[str, Any]:
        return {"hub": self.name, "config": self.configuration, "split": self.split, "commit": self.commit}

    def items(self, begin: int) -> Iterator[Passage | Rejected]:
        """Raises ValueError when the hub does not give them."""
        import datasets
        from huggingface_hub.errors import HTTPError

        try:
            rows: Any = datasets.load_dataset(
                self.name, self.configuration, split=self.split, revision=self.commit, streaming=True
            )
            for number, row in enumerate(rows.skip(begin), begin):
                yield _convert(RawRow(f"{self.name}/{self.split}:{number}", dict(row)))
        except (RuntimeError, ValueError, OSError, HTTPError, datasets.exceptions.DatasetsError) as error:
            raise ValueError(
                f"hub data set {self.name} at {self.commit[:12]} cannot be read: {hub.first_line(error)} "
                f"({hub.CONFIGURATIONS}; the same command goes on)"
            ) from error


def find(words: str, split: str, revision: str) -> PassageFile | HubPassages:
    """What PASSAGES names. Raises ValueError when there is no such thing."""
    path = Path(words)
    if path.is_file():
        if path.suffix.lower() not in (*SUFFIXES, ".txt"):
            raise ValueError(
                f"{words} is no file of passages; use one of {', '.join(SUFFIXES)}, .txt, a hub id"
            )
        return PassageFile(Path(os.path.abspath(path)))  # not resolve(): a cache's files may have no suffix
    if (
        path.exists()
        or path.suffix.lower() in (*SUFFIXES, ".txt")
        or words.count("/") != 1
        or words[0] in "./~"
    ):
        raise ValueError(
            f"{words} is no file; PASSAGES is a .jsonl, .csv, .parquet or .txt file, or a hub id"
        )
    name, configuration = hub.parts_of(words)
    try:
        return HubPassages(name, configuration, split, hub.commit_of("dataset", name, revision))
    except hub.UnreachableError as error:
        raise ValueError(
            f"{words} is no file here, and the hub cannot be reached ({error}); give a .jsonl, .csv, "
            ".parquet or .txt file"
        ) from error


def _convert(row: RawRow | Rejected) -> Passage | Rejected:
    if isinstance(row, Rejected):
        return row
    try:
        return to_passage(row)
    except ValueError as error:
        return Rejected.of(row.where, error, row.values)


def _read_txt(file: Path) -> Iterator[RawRow | Rejected]:
    with file.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            where = f"{file.name}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                yield Rejected.of(where, "not UTF-8", line.decode("utf-8", "replace").strip())
                continue
            if text.strip():
                yield RawRow(where, {"text": text})


class PassageStore:
    """The passages of an index by their numbers."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def read(self, numbers: list[int]) -> dict[int, Passage]:
        """Raises CheckError when a shard's texts are not what they were when the index was built."""
        passages: dict[int, Passage] = {}
        by_shard: dict[int, list[int]] = {}
        for number in sorted(set(numbers)):
            by_shard.setdefault(number // self.shards.size, []).append(number)
        for shard, wanted in by_shard.items():
            offsets = np.load(self.shards.file(shard, "offsets"), mmap_mode="r")
            with self.shards.file(shard, "texts").open("rb") as file:
                for number in wanted:
                    file.seek(int(offsets[number % self.shards.size]))
                    values: Row = json.loads(file.readline())
                    passages[number] = Passage(**values)
        return passages
