"""Prompts and the texts behind them -> a few tensors for a decoder.

What prompts of a micro-batch begin with alike is computed once (exact, for no token of a decoder looks
ahead); other rows stand in groups of like length, padded on the right, and need no mask. Only the texts'
tokens are targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lib.data.amounts import Amounts, attended
from lib.data.collate import TokenGroup, matrix, split_by_length
from lib.data.loader import QUADRATIC, Costs, equal_bounds
from lib.data.rows import Rows
from lib.data.tree import Tree, grow

# A row joins those before it when at least so much of its prompt is theirs (below that the mask, without
# which the fast kernels work, costs about what is saved), and when with it more is shared than without it.
SHARED = 0.5

Pair = tuple[np.ndarray, np.ndarray]  # (prompt, text), token ids


@dataclass(frozen=True)
class Texts:
    """Rows of a micro-batch, and where each of their texts' tokens is predicted."""

    trees: list[Tree]
    """Rows that share how they begin."""
    groups: list[TokenGroup]
    """Rows that do not."""
    predictors: Tensor  # (tokens,) places in the trees' and groups' flattened and joined states
    targets: Tensor  # (tokens,) int64
    amounts: Amounts
    computed_tokens: int

    def to(self, device: torch.device) -> "Texts":
        return replace(
            self,
            trees=[tree.to(device) for tree in self.trees],
            groups=[group.to(device) for group in self.groups],
            predictors=self.predictors.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Cluster:
    """Rows that begin with the same tokens."""

    rows: list[int]
    shared: int
    """Tokens that all their prompts begin with; fewer than any of them has. 0 for a row alone."""


def common(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens both begin with."""
    size = min(len(first), len(second))
    different = np.flatnonzero(first[:size] != second[:size])
    return int(different[0]) if len(different) else size


def clusters(prompts: Sequence[np.ndarray]) -> list[Cluster]:
    """Every row in one of them, neighbours in the order of their tokens; a pure function of the prompts."""
    # as bytes of big-endian numbers they sort as the lists of numbers do
    keys = [prompt.astype(">u4").tobytes() for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda row: (keys[row], row))
    found: list[Cluster] = []
    for row in order:
        if found:
            last = found[-1]
            alike = min(common(prompts[last.rows[-1]], prompts[row]), len(prompts[row]) - 1)
            alike = min(alike, last.shared or len(prompts[last.rows[0]]) - 1)
            saved = len(last.rows) * alike  # with this row; without it:
            before = (len(last.rows) - 1) * last.shared
            if alike >= SHARED * len(prompts[row]) and saved > before:
                found[-1] = Cluster([*last.rows, row], alike)
                continue
        found.append(Cluster([row], 0))
    return found


def lay(pairs: Sequence[Pair], pad: int, one_call: bool = False) -> Texts:
    """Rows as a decoder reads them, all in one tensor if it is to be called once; targets in the order of the
    rows."""
    together = clusters([prompt for prompt, _ in pairs])
    if one_call and any(cluster.shared for cluster in together):  # then a row alone is a tree of one branch
        together = [c if c.shared else Cluster(c.rows, len(pairs[c.rows[0]][0])) for c in together]
    shared, single = [c for c in together if c.shared], [c.rows[0] for c in together if not c.shared]
    places: dict[int, np.ndarray] = {}  # row -> where its text's tokens are predicted
    grown = grow([_parts(pairs, cluster) for cluster in shared], pad, one_call) if shared else None
    for cluster, offset in zip(shared, grown.offsets if grown else (), strict=True):
        begin = int(offset) + cluster.shared
        for row in cluster.rows:
            prompt, text = pairs[row]
            begin += len(prompt) - cluster.shared + len(text)
            places[row] = np.arange(begin - len(text) - 1, begin - 1)
    computed = grown.computed_tokens if grown else 0
    groups, wholes = [], [np.concatenate(pairs[row]) for row in single]
    lengths = np.array([len(ids) for ids in wholes], dtype=np.int64)
    for members in split_by_length(lengths, one_call) if single else ():
        ids = matrix([wholes[member] for member in members], pad)
        for line, member in enumerate(members):
            row = single[member]
            end = computed + line * ids.shape[1] + len(wholes[member])
            places[row] = np.arange(end - len(pairs[row][1]) - 1, end - 1)
        groups.append(TokenGroup(torch.from_numpy(ids), None))
        computed += ids.size
    targets = np.concatenate([text for _, text in pairs]).astype(np.int64)
    amounts = Amounts(int(lengths.sum()), attended(lengths, causal=True), len(targets))
    return Texts(
        grown.groups if grown else [],
        groups,
        torch.from_numpy(np.concatenate([places[row] for row in range(len(pairs))])),
        torch.from_numpy(targets),
        amounts + grown.amounts if grown else amounts,
        computed,
    )


def _parts(pairs: Sequence[Pair], cluster: Cluster) -> list[np.ndarray]:
    """What they share, and how each goes on."""
    first = pairs[cluster.rows[0]][0][: cluster.shared]
    return [
        first,
        *(np.concatenate([pairs[row][0][cluster.shared :], pairs[row][1]]) for row in cluster.rows),
    ]


class SharedCosts(Costs):
    """Of rows that share how their prompts begin: that is computed once for those of a micro-batch."""

    def __init__(self, rows: Rows, draw_together: bool) -> None:
        super().__init__(rows)
        self.longest_by_row = self.tokens_by_row
        lengths = self.tokens_by_row.astype(np.float64)
        self.time_by_row = lengths + lengths**2 / QUADRATIC
        self.draw_together = draw_together
        self.clusters = clusters([rows.sequences_of(row)[0] for row in range(len(rows))])
        self.cluster_of, self.shared = np.zeros((2, len(rows)), dtype=np.int64)
        for number, cluster in enumerate(self.clusters):
            self.cluster_of[cluster.rows] = number
            self.shared[cluster.rows] = cluster.shared
        largest = [self.tokens_by_row[cluster.rows].max() for cluster in self.clusters]
        self.largest = np.array(largest)[self.cluster_of]  # (rows,) tokens of the longest row of its cluster

    def tokens(self, indices: np.ndarray) -> int:
        return int(self.tokens_by_row[indices].sum() - self.shared[self._repeats(indices)].sum())

    def time(self, indices: np.ndarray) -> float:
        return float(self._added_times(indices).sum())

    def bounds(self, ordered: np.ndarray, pieces: int) -> np.ndarray:
        """Between clusters, as long as there are enough of them."""
        times = self._added_times(ordered)
        starts = np.flatnonzero(np.diff(self.cluster_of[ordered], prepend=-1))
        if pieces > len(starts):
            return equal_bounds(times, pieces)
        return np.append(starts, len(ordered))[equal_bounds(np.add.reduceat(times, starts), pieces)]

    def _added_times(self, ordered: np.ndarray) -> np.ndarray:
        """(rows,) what each takes beside those before it."""
        times = self.time_by_row[ordered].copy()
        repeats = np.isin(ordered, self._repeats(ordered))
        saved = self.shared[ordered[repeats]].astype(np.float64)
        times[repeats] -= saved + saved**2 / QUADRATIC
        return times

    def in_order(self, indices: np.ndarray) -> np.ndarray:
        keys = (indices, -self.tokens_by_row[indices], self.cluster_of[indices], -self.largest[indices])
        return indices[np.lexsort(keys)]

    def evaluation_order(self) -> np.ndarray:
        return self.in_order(np.arange(len(self.rows)))

    def drawn_together(self) -> list[np.ndarray] | None:
        return [np.array(cluster.rows) for cluster in self.clusters] if self.draw_together else None

    def _repeats(self, indices: np.ndarray) -> np.ndarray:
        """Those of the rows whose beginning another one before them has."""
        _, firsts = np.unique(self.cluster_of[indices], return_index=True)
        return np.delete(indices, firsts)
