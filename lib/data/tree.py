"""A prefix and its continuations in one sequence: what they share is computed once.

Each continuation sees the prefix and itself, and its positions go on where the prefix ended; so for causal
models every token has the same state as in a sequence of its own (Krell et al. 2021, section 3.2.4, for the
mask; Wang & Hegde 2024, https://arxiv.org/abs/2410.20305, for the shared prefix).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.data.amounts import Amounts, attended
from lib.data.collate import matrix, split_by_length

PADDING = -1  # the document that padding belongs to


@dataclass(frozen=True)
class Tree:
    """Sequences of like length. A token belongs to a part of a document: a prefix and its continuations are
    the parts of one, and several documents may stand in one sequence."""

    ids: Tensor  # (sequences, length) int64
    positions: Tensor  # (sequences, length) int64
    documents: Tensor  # (sequences, length) int64: 0 .., PADDING
    parts: Tensor  # (sequences, length) int64: 0 prefix, 1 .. continuations
    begin: int = 0  # so many tokens at least does each sequence's first prefix have

    def to(self, device: torch.device) -> "Tree":
        ids, positions, documents, parts = (
            each.to(device, non_blocking=True)
            for each in (self.ids, self.positions, self.documents, self.parts)
        )
        return Tree(ids, positions, documents, parts, self.begin)

    def mask(self) -> Tensor:
        """(sequences, 1, length, length) True where a token (row) may look at a token (column): one before it
        in the same document, of the prefix or of the token's own part"""
        key, query = self.parts[:, None, None, :], self.parts[:, None, :, None]
        # padding is a document too: a row of the mask without any True would make NaN
        together = self.documents[:, None, None, :] == self.documents[:, None, :, None]
        length = self.parts.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=self.parts.device).tril()
        return before & together & ((key == 0) | (key == query))


@dataclass(frozen=True)
class Widths:
    """How many options each row has, which the host knows, and where each option stands."""

    by_row: tuple[int, ...]
    places: Tensor  # (options,) int64, in a flattened table (rows, most options)

    @staticmethod
    def of(by_row: Sequence[int]) -> "Widths":
        inside = np.arange(max(by_row))[None] < np.array(by_row)[:, None]
        return Widths(tuple(by_row), torch.from_numpy(np.flatnonzero(inside)))

    def to(self, device: torch.device) -> "Widths":
        return replace(self, places=self.places.to(device, non_blocking=True))

    def table(self, of_options: Tensor) -> Tensor:
        """(options,) -> (rows, most options), -inf where a row has fewer"""
        rows, most = len(self.by_row), max(self.by_row)
        flat = of_options.new_full((rows * most,), -torch.inf)
        return flat.index_copy(0, self.places, of_options).view(rows, most)


@dataclass(frozen=True)
class Continuations:
    """The tokens of all continuations, row after row: what they are and whose."""

    targets: Tensor  # (tokens,) int64 ids
    option_of: Tensor  # (tokens,) int64 which continuation of the micro-batch a token belongs to
    place_of: Tensor  # (tokens,) int64 which token of it
    sizes: Tensor  # (options,) int64 tokens of each
    longest: int
    """The largest of them."""
    widths: Widths

    @staticmethod
    def of(rows: list[list[np.ndarray]]) -> "Continuations":
        """Of rows that are each a prefix and its continuations."""
        options = [option for row in rows for option in row[1:]]
        sizes = [len(option) for option in options]
        places = np.concatenate([np.arange(size) for size in sizes])
        widths = Widths.of([len(row) - 1 for row in rows])
        return Continuations(
            torch.from_numpy(np.concatenate(options).astype(np.int64)),
            torch.from_numpy(np.repeat(np.arange(len(options)), sizes)),
            torch.from_numpy(places),
            torch.tensor(sizes),
            max(sizes),
            widths,
        )

    def to(self, device: torch.device) -> "Continuations":
        names = ("targets", "option_of", "place_of", "sizes")
        moved: dict[str, Any] = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, widths=self.widths.to(device), **moved)


@dataclass(frozen=True)
class Trees:
    """All rows of a micro-batch, and where each continuation token's probability is to be read."""

    groups: list[Tree]
    predictors: Tensor  # (tokens,) places of the tokens before, in the groups' flattened and joined states
    options: Continuations
    amounts: Amounts
    computed_tokens: int

    @property
    def widths(self) -> Widths:
        return self.options.widths

    def to(self, device: torch.device) -> "Trees":
        return replace(
            self,
            groups=[group.to(device) for group in self.groups],
            predictors=self.predictors.to(device, non_blocking=True),
            options=self.options.to(device),
        )


@dataclass(frozen=True)
class Grown:
    """Prefixes and their continuations in a few tensors."""

    groups: list[Tree]
    offsets: np.ndarray  # (rows,) where each begins in the groups' flattened and joined states
    amounts: Amounts
    computed_tokens: int


def grow(rows: list[list[np.ndarray]], pad: int, one_call: bool = False) -> Grown:
    """Rows, each the ids of a prefix and of its continuations, none of them empty."""
    lengths = np.array([sum(map(len, row)) for row in rows])
    groups: list[Tree] = []
    offsets = np.zeros(len(rows), dtype=np.int64)
    computed = 0
    for indices in split_by_length(lengths, one_call):
        members = [rows[index] for index in indices]
        ids = matrix([np.concatenate(row) for row in members], pad)
        positions = matrix([_positions(row) for row in members], 0)
        parts = matrix([_parts(row) for row in members], 0)
        documents = matrix([np.zeros(sum(map(len, row)), np.int64) for row in members], PADDING)
        offsets[indices] = computed + np.arange(len(indices)) * ids.shape[1]
        groups.append(
            Tree(
                torch.from_numpy(ids),
                torch.from_numpy(positions),
                torch.from_numpy(documents),
                torch.from_numpy(parts),
                begin=min(len(row[0]) for row in members),
            )
        )
        computed += ids.size
    amounts = Amounts(int(lengths.sum()), sum(map(_attended, rows)))
    return Grown(groups, offsets, amounts, computed)


def plant(rows: list[list[np.ndarray]], pad: int, one_call: bool = False) -> Trees:
    """Rows, each the ids of a prefix and of its continuations (none of them empty), into few tensors, or into
    one."""
    grown = grow(rows, pad, one_call)
    predictors = np.concatenate(
        [offset + _predictors(row) for offset, row in zip(grown.offsets, rows, strict=True)]
    )
    return Trees(
        grown.groups,
        torch.from_numpy(predictors),
        Continuations.of(rows),
        grown.amounts + Amounts(scored=len(predictors)),
        grown.computed_tokens,
    )


def _attended(row: list[np.ndarray]) -> int:
    """How many tokens each looks at, summed: of its own part those before it, of a continuation the prefix
    too."""
    sizes = np.array([len(part) for part in row])
    return attended(sizes, causal=True) + int(sizes[0] * sizes[1:].sum())


def _parts(row: list[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(row)), [len(part) for part in row])


def _positions(row: list[np.ndarray]) -> np.ndarray:
    begin = len(row[0])
    return np.concatenate([np.arange(begin), *(np.arange(begin, begin + len(part)) for part in row[1:])])


def _predictors(row: list[np.ndarray]) -> np.ndarray:
    """For each continuation token, in order, the place in the row of the token that it follows."""
    ends = np.cumsum([len(part) for part in row])
    last = ends[0] - 1  # of the prefix: every continuation's first token follows it
    bounds = zip(ends[:-1], ends[1:], strict=True)
    return np.concatenate([[last, *range(begin, end - 1)] for begin, end in bounds])
