"""The rows of an experiment as it reads them -> a data set of parquet files, one a split, that `--data` takes
by the folder's name or by the hub's."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.config import CompleteConfig, Config
from lib.corpus.corpus import Corpus
from lib.data.prompts import letters_only, vanished
from lib.recipe import Example, Recipe


@dataclass(frozen=True)
class Written:
    """What came of it."""

    folder: Path
    rows: dict[str, int]
    num_rejected: int

    def in_words(self) -> str:
        sizes = ", ".join(f"{split} {size}" for split, size in self.rows.items())
        left_out = f"; {self.num_rejected} rows that cannot be used left out" if self.num_rejected else ""
        return f"{self.folder}: {sizes} rows{left_out}; read them with --data {self.folder}"


def write(config: Config, recipe: Recipe, folder: Path) -> Written:
    """With --letters-only the rows are cleaned. Raises ValueError: bad rows, a folder in the way, a recipe
    without a form to write."""
    import pyarrow
    import pyarrow.parquet

    if recipe.to_row is None:
        raise ValueError(f"{config.recipe} has no form to write; its rows are read from their own files")
    if folder.exists():
        raise ValueError(f"{folder} is there and is not overwritten; name a new folder")
    corpus = Corpus.read(config.data, recipe).complete()
    clean = isinstance(config.task, CompleteConfig) and config.task.letters_only
    if clean:
        corpus = corpus.usable(_without_letters, config.task)
    beside = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for split, examples in corpus.splits.items():
            rows = [_encodable(recipe.to_row(_cleaned(row) if clean else row)) for row in examples]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), beside / f"{split}.parquet")
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Written(folder, corpus.sizes(), len(corpus.rejected))


def _without_letters(rows: list[Example]) -> dict[str, str]:
    """Rows that cleaning leaves nothing of -> why."""
    gone = {row["id"]: vanished(row["fields"], row["target"]) for row in rows}
    return {identity: f"nothing is left of its {what}" for identity, what in gone.items() if what}


def _encodable(row: dict[str, Any]) -> dict[str, Any]:
    """Without halves of emoji, which parquet cannot hold."""
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


def _cleaned(row: Example) -> Example:
    fields = {name: [letters_only(piece) for piece in pieces] for name, pieces in row["fields"].items()}
    return Example(**{**row, "fields": fields, "target": letters_only(row["target"])})  # type: ignore[typeddict-item]
