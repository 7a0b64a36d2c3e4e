"""Sequences to few tensors: the cheapest grouping, every token back in its place."""

from itertools import combinations

import numpy as np
import pytest
import torch

from lib.data import collate
from lib.data.collate import CALL_TOKENS, GRAIN, _device

PAD = 0


def cost(lengths: np.ndarray, groups: list[np.ndarray]) -> int:
    """Padding when each group is one tensor as long as its longest sequence, and CALL_TOKENS a group."""
    padding = sum(int(lengths[group].max() * len(group) - lengths[group].sum()) for group in groups)
    return padding + CALL_TOKENS[_device()] * len(groups)


def by_trying_all(lengths: np.ndarray) -> int:
    """The least cost over all cuts between sequences of different grains."""
    order = np.argsort(-lengths, kind="stable")
    grains = np.ceil(lengths[order] / GRAIN)
    places = [place for place in range(1, len(order)) if grains[place] != grains[place - 1]]
    return min(
        cost(lengths, np.split(order, cuts))
        for num_cuts in range(len(places) + 1)
        for cuts in combinations(places, num_cuts)
    )


def sequences(lengths: list[int]) -> list[np.ndarray]:
    """Tokens that say where they belong: sequence 3 is 3001, 3002 ..."""
    return [1000 * number + 1 + np.arange(size, dtype=np.int32) for number, size in enumerate(lengths)]


@pytest.mark.parametrize("longest", [7, 60, 300, 2000])
def test_no_other_grouping_costs_less(longest: int) -> None:
    draw = np.random.default_rng(longest)
    for _ in range(60):
        lengths = draw.integers(1, longest + 1, draw.integers(1, 10))
        groups = collate.split_by_length(lengths)
        assert cost(lengths, groups) == by_trying_all(lengths), lengths
        assert sorted(np.concatenate(groups)) == list(range(len(lengths)))
        longest_of = [int(lengths[group].max()) for group in groups]
        assert longest_of == sorted(longest_of, reverse=True)


@pytest.mark.parametrize(
    ("lengths", "num_groups"),
    [
        ([20] * 9, 1),
        ([65] * 2 + [1], 1),  # 64 padded tokens against a call of 128
        ([129, 1], 1),  # 128 against 128: a tie goes to the fewer groups
        ([130, 1], 2),  # 129 against 128
        ([72, 8, 8], 1),  # 2 x 64 = 128
        ([73, 8, 8], 2),  # 2 x 65 = 130
        ([300, 299, 20, 19], 2),
        ([504] * 3 + [497] * 30, 1),  # 504 / 8 == ceil(497 / 8): one grain, never cut, though it pads 210
    ],
)
def test_groups_of_lengths_worked_out_by_hand(lengths: list[int], num_groups: int) -> None:
    assert len(collate.split_by_length(np.array(lengths))) == num_groups


@pytest.mark.parametrize(
    "lengths", [[5], [3, 3, 3], [40, 3, 40, 12, 3, 39, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9], [200, 1]]
)
def test_every_token_comes_back_in_its_place(lengths: list[int]) -> None:
    given = sequences(lengths)
    found = collate.group(given, PAD)
    rows: list[list[int]] = []
    for group in found.groups:
        assert group.ids.dtype == found.order.dtype == torch.int64
        mask = torch.ones_like(group.ids) if group.mask is None else group.mask
        rows += [ids[kept.bool()].tolist() for ids, kept in zip(group.ids, mask, strict=True)]
        assert (group.ids[mask == 0] == PAD).all()
    assert [rows[place] for place in found.order] == [ids.tolist() for ids in given]


def test_there_is_a_mask_exactly_where_something_is_padded() -> None:
    # 240 and 239 share a tensor (one grain), the two of 3 tokens another one that needs no mask: to pad them
    # would cost 2 x 237 tokens against a call of 128
    masked, plain = collate.group(sequences([240, 3, 239, 3]), PAD).groups
    assert plain.mask is None
    assert masked.mask is not None
    assert masked.mask.sum(1).tolist() == [240, 239]
    assert masked.mask[1].tolist() == [1] * 239 + [0]


def test_real_and_computed_tokens_are_counted() -> None:
    # real: 240 + 3 + 239 + 3 = 485; computed: 2 x 240 and 2 x 3 = 486
    found = collate.group(sequences([240, 3, 239, 3]), PAD)
    assert (found.amounts.real_tokens, found.computed_tokens) == (485, 486)
    assert found.computed_tokens == sum(group.ids.numel() for group in found.groups)


def test_the_padding_id_is_the_one_asked_for() -> None:
    (group,) = collate.group(sequences([9, 10]), 77).groups
    assert group.ids[1, -1] == 77


def test_moving_to_a_device_changes_no_value() -> None:
    found = collate.group(sequences([240, 3, 239, 3]), PAD)
    moved = found.to(torch.device("cpu"))
    assert (moved.amounts, moved.computed_tokens) == (found.amounts, found.computed_tokens)
    assert torch.equal(moved.order, found.order)
    for before, after in zip(found.groups, moved.groups, strict=True):
        assert torch.equal(before.ids, after.ids)
        assert (before.mask is None) == (after.mask is None)
    assert moved.groups[0].mask is not None
