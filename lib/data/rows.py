"""Encoded rows as flat arrays: written once by one process, mapped into memory by all.

A row is one or more sequences of token ids and a label. Arrays are plain .npy files, read without pickle.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

NO_LABEL = -1  # of rows that are only to be predicted


@dataclass(frozen=True)
class EncodedRow:
    """What a task's `encode` makes of one example."""

    id: str
    sequences: list[np.ndarray]
    """Token ids of each sequence, int32."""
    label: int
    num_targets: int = 1
    """How many targets carry loss (1 for a class, the completion's tokens for a text)."""
    num_cut: int = 0
    """Tokens that the row lost to the length limit."""


@dataclass(frozen=True)
class Rows:
    """All encoded rows of a split."""

    ids: list[str]
    labels: np.ndarray  # (rows,) int64
    num_targets: np.ndarray  # (rows,) int64
    num_cut: np.ndarray  # (rows,) int64
    # one start more than there are rows or sequences: the end of the last one is found like every other
    row_starts: np.ndarray  # (rows + 1,) index of each row's first sequence
    sequence_starts: np.ndarray  # (sequences + 1,) index of each sequence's first token
    tokens: np.ndarray  # (tokens,) int32

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sequence_lengths(self) -> np.ndarray:
        """(sequences,) tokens of each sequence"""
        return np.diff(self.sequence_starts)

    def sequences_of(self, row: int) -> list[np.ndarray]:
        """Token ids of each sequence of one row."""
        starts = self.sequence_starts[self.row_starts[row] : self.row_starts[row + 1] + 1]
        return [self.tokens[begin:end] for begin, end in zip(starts[:-1], starts[1:], strict=True)]

    def __iter__(self) -> Iterator[EncodedRow]:
        return map(self.row, range(len(self)))

    def row(self, number: int) -> EncodedRow:
        """One row as `encode` made it."""
        numbers = (int(column[number]) for column in (self.labels, self.num_targets, self.num_cut))
        return EncodedRow(self.ids[number], self.sequences_of(number), *numbers)

    def with_first(self, number: int) -> "Rows":
        """Of each row its first so many sequences alone."""
        if (np.diff(self.row_starts) <= number).all():
            return self
        return pack([replace(row, sequences=row.sequences[:number]) for row in self])

    def sum_by_row(self, per_sequence: np.ndarray) -> np.ndarray:
        """(rows,) sums of a value of each sequence."""
        totals = np.concatenate([[0], np.cumsum(per_sequence)])
        return totals[self.row_starts[1:]] - totals[self.row_starts[:-1]]

    def longest_by_row(self) -> np.ndarray:
        """(rows,) tokens of each row's longest sequence"""
        # reduceat gives an empty span its first element; there is none, a row has at least one sequence
        return np.maximum.reduceat(self.sequence_lengths, self.row_starts[:-1])


ARRAYS = ("labels", "num_targets", "num_cut", "row_starts", "sequence_starts", "tokens")


def pack(rows: list[EncodedRow]) -> Rows:
    """Flatten encoded rows."""
    sequences = [sequence for row in rows for sequence in row.sequences]
    return Rows(
        ids=[row.id for row in rows],
        labels=np.array([row.label for row in rows], dtype=np.int64),
        num_targets=np.array([row.num_targets for row in rows], dtype=np.int64),
        num_cut=np.array([row.num_cut for row in rows], dtype=np.int64),
        row_starts=np.concatenate([[0], np.cumsum([len(row.sequences) for row in rows])]).astype(np.int64),
        sequence_starts=np.concatenate([[0], np.cumsum([len(ids) for ids in sequences])]).astype(np.int64),
        # half of what torch wants: a batch widens them
        tokens=np.concatenate(sequences).astype(np.int32),
    )


def save(rows: Rows, folder: Path) -> None:
    """Write one split's arrays into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(rows, name), allow_pickle=False)
    (folder / "ids.json").write_text(json.dumps(rows.ids))


def load(folder: Path) -> Rows:
    """Map one split's arrays into memory; all ranks of a machine share the pages."""
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    return Rows(ids=json.loads((folder / "ids.json").read_text()), **arrays)
