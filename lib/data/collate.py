"""Sequences -> a few tensors of like length, with as little padding as asked for.

The number of tensors is the smallest that keeps padding within PADDING; a tensor whose sequences are equally
long needs no mask at all.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PADDING = (
    0.05  # largest share of computed tokens that may be padding; each tensor more costs a call of the encoder
)
GRAIN = 8  # lengths are grouped in steps of this many tokens, which keeps the search small


@dataclass(frozen=True)
class TokenGroup:
    """Sequences of like length."""

    ids: Tensor  # (sequences, length) int64
    mask: Tensor | None  # (sequences, length) int64, 1 on tokens; None when nothing is padded

    def to(self, device: torch.device) -> "TokenGroup":
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        return TokenGroup(self.ids.to(device, non_blocking=True), mask)


@dataclass(frozen=True)
class Grouped:
    """All sequences of a micro-batch. `order[i]` is the place of sequence i among the groups' concatenated
    rows."""

    groups: list[TokenGroup]
    order: Tensor  # (sequences,) int64
    real_tokens: int
    computed_tokens: int

    def to(self, device: torch.device) -> "Grouped":
        return Grouped(
            [group.to(device) for group in self.groups],
            self.order.to(device, non_blocking=True),
            self.real_tokens,
            self.computed_tokens,
        )


def split_by_length(lengths: np.ndarray) -> list[np.ndarray]:
    """Indices of `lengths` in as few groups as keep padding within PADDING, longest group first."""
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    grains = -(-ordered // GRAIN)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(grains)) + 1])  # first place of each distinct grain
    ends = np.concatenate([starts[1:], [len(ordered)]])
    tokens = np.concatenate([[0], np.cumsum(ordered)])
    # waste[i, j]: padding when the grains i..j share one tensor as long as its longest sequence
    count = ends[None, :] - starts[:, None]
    waste = (ordered[starts][:, None] * count - (tokens[ends][None, :] - tokens[starts][:, None])).astype(
        float
    )
    waste[np.tril_indices(len(starts), -1)] = np.inf
    bounds = _fewest_groups(waste, allowed=PADDING * tokens[-1])
    return [order[starts[begin] : ends[end]] for begin, end in bounds]


def _fewest_groups(waste: np.ndarray, allowed: float) -> list[tuple[int, int]]:
    """Cut 0..n-1 into the fewest runs whose waste is at most `allowed` in sum (dynamic programming)."""
    size = len(waste)
    best = waste[0]  # best[j]: least waste of 0..j with the current number of runs
    choices: list[np.ndarray] = []
    while best[-1] > allowed and len(choices) < size - 1:
        # a run that begins at i > 0 follows the best cut of 0..i-1
        joined = np.concatenate([[np.inf], best[:-1]])[:, None] + waste
        choices.append(joined.argmin(axis=0))
        best = joined.min(axis=0)
    bounds, end = [], size - 1
    for choice in reversed(choices):
        begin = int(choice[end])
        bounds.append((begin, end))
        end = begin - 1
    bounds.append((0, end))
    return bounds[::-1]


def group(sequences: list[np.ndarray], pad: int) -> Grouped:
    """Pad sequences of token ids into few tensors."""
    lengths = np.array([len(ids) for ids in sequences])
    groups: list[TokenGroup] = []
    placed: list[np.ndarray] = split_by_length(lengths)
    computed = 0
    for indices in placed:
        width = int(lengths[indices].max())
        ids = np.full((len(indices), width), pad, dtype=np.int64)
        for place, index in enumerate(indices):
            ids[place, : lengths[index]] = sequences[index]
        mask = None
        if (lengths[indices] < width).any():
            mask = torch.from_numpy((np.arange(width)[None, :] < lengths[indices][:, None]).astype(np.int64))
        groups.append(TokenGroup(torch.from_numpy(ids), mask))
        computed += ids.size
    order = np.empty(len(sequences), dtype=np.int64)
    order[np.concatenate(placed)] = np.arange(len(sequences))
    return Grouped(groups, torch.from_numpy(order), int(lengths.sum()), computed)
