"""Sequences -> a few tensors of like length: padding is computed only where a further tensor would cost more.

A tensor whose sequences are equally long needs no mask at all.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lib.data.amounts import Amounts, attended

# What a further call of the encoder costs, in tokens. Measured with MiniLM on two cores: 60 ms a call (small
# products, a gradient of every weight to add up), 200 tokens' worth; a step took 0.74 times as long as with
# padding held under 5 %. 192 was no faster and wastes more. A GPU computes the tokens of a whole micro-batch
# in the time that launching a call's kernels takes (BERT-base, H200: 39 rows/s in one tensor, 22 at 128).
CALL_TOKENS = {"cpu": 128, "cuda": 8192}
ONE_CALL = 1 << 40
"""A call that costs more than any padding. Where ranks gather a model's weights for each call together, all
must call it equally often, whatever rows they have."""
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
    amounts: Amounts
    computed_tokens: int

    def to(self, device: torch.device) -> "Grouped":
        return Grouped(
            [group.to(device) for group in self.groups],
            self.order.to(device, non_blocking=True),
            self.amounts,
            self.computed_tokens,
        )


@cache
def _device() -> str:
    """Where models run in this process."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def split_by_length(lengths: np.ndarray, one_call: bool = False) -> list[np.ndarray]:
    """Indices of `lengths` in the groups that cost least (padding, CALL_TOKENS a group), longest first; or
    all in one."""
    call = ONE_CALL if one_call else CALL_TOKENS[_device()]
    order = np.argsort(-lengths, kind="stable")  # stable: the same rows give the same tensors, to the bit
    ordered = lengths[order]
    grains = -(-ordered // GRAIN)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(grains)) + 1])  # first place of each distinct grain
    ends = np.concatenate([starts[1:], [len(ordered)]])
    tokens = np.concatenate([[0], np.cumsum(ordered)])
    least, begins = [0.0], []  # least[n]: cost of the first n grains; begins[n]: where grain n's group begins
    # A group is a run of the sorted grains. Whichever run comes last, what stands before it is cut at least
    # cost already: so n grains take n looks back, and 2,048 tokens are 256 grains at most.
    for end in range(len(starts)):
        begin = np.arange(end + 1)
        padding = ordered[starts[begin]] * (ends[end] - starts[begin]) - (
            tokens[ends[end]] - tokens[starts[begin]]
        )
        costs = np.array(least) + padding + call
        begins.append(int(costs.argmin()))
        least.append(float(costs.min()))
    groups, last = [], len(starts) - 1  # the cheapest cut is read off backwards
    while last >= 0:
        groups.append(order[starts[begins[last]] : ends[last]])
        last = begins[last] - 1
    return groups[::-1]


def matrix(sequences: list[np.ndarray], pad: int) -> np.ndarray:
    """(sequences, longest) int64 ids, padded on the right"""
    ids = np.full((len(sequences), max(map(len, sequences))), pad, dtype=np.int64)
    for place, sequence in enumerate(sequences):
        ids[place, : len(sequence)] = sequence
    return ids


def group(sequences: list[np.ndarray], pad: int, causal: bool = False, one_call: bool = False) -> Grouped:
    """Pad sequences of token ids into few tensors, or into one. `causal`: a token looks back only."""
    lengths = np.array([len(ids) for ids in sequences])
    groups: list[TokenGroup] = []
    placed: list[np.ndarray] = split_by_length(lengths, one_call)
    computed = 0
    for indices in placed:
        ids = matrix([sequences[index] for index in indices], pad)
        width = ids.shape[1]
        mask = None
        if (lengths[indices] < width).any():
            mask = torch.from_numpy((np.arange(width)[None, :] < lengths[indices][:, None]).astype(np.int64))
        groups.append(TokenGroup(torch.from_numpy(ids), mask))
        computed += ids.size
    # outputs come group by group; this brings them back into the order of the rows
    order = np.empty(len(sequences), dtype=np.int64)
    order[np.concatenate(placed)] = np.arange(len(sequences))
    # a head is given one vector a sequence
    amounts = Amounts(int(lengths.sum()), attended(lengths, causal), len(sequences))
    return Grouped(groups, torch.from_numpy(order), amounts, computed)
