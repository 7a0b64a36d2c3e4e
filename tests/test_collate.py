"""Sequences to few tensors: little padding, as few of them as that allows, every token back in its place."""

from itertools import combinations

import numpy as np
import pytest
import torch

from lib.data import collate
from lib.data.collate import GRAIN, PADDING

PAD = 0


def waste(lengths: np.ndarray, groups: list[np.ndarray]) -> int:
    """Padding when each group is one tensor as long as its longest sequence."""
    return sum(int(lengths[group].max() * len(group) - lengths[group].sum()) for group in groups)


def by_trying_all(lengths: np.ndarray) -> tuple[int, int]:
    """(fewest groups, their least padding) over all cuts between sequences of different grains; where no cut
    keeps padding within bounds, every grain is a group of its own."""
    order = np.argsort(-lengths, kind="stable")
    grains = np.ceil(lengths[order] / GRAIN)
    places = [place for place in range(1, len(order)) if grains[place] != grains[place - 1]]
    for num_cuts in range(len(places) + 1):
        tried = [waste(lengths, np.split(order, cuts)) for cuts in combinations(places, num_cuts)]
        if min(tried) <= PADDING * lengths.sum() or num_cuts == len(places):
            return num_cuts + 1, min(tried)
    raise AssertionError


def sequences(lengths: list[int]) -> list[np.ndarray]:
    """Tokens that say where they belong: sequence 3 is 3001, 3002 ..."""
    return [1000 * number + 1 + np.arange(size, dtype=np.int32) for number, size in enumerate(lengths)]


@pytest.mark.parametrize("longest", [7, 20, 60, 300])
def test_the_groups_are_the_fewest_that_keep_padding_within_bounds(longest: int) -> None:
    draw = np.random.default_rng(longest)
    for _ in range(60):
        lengths = draw.integers(1, longest + 1, draw.integers(1, 10))
        groups = collate.split_by_length(lengths)
        assert (len(groups), waste(lengths, groups)) == by_trying_all(lengths), lengths
        assert sorted(np.concatenate(groups)) == list(range(len(lengths)))


@pytest.mark.parametrize("num_sequences", [1, 2, 64, 500])
def test_padding_stays_within_its_share_for_lengths_like_real_ones(num_sequences: int) -> None:
    # From 160 tokens on, a grain's own padding is at most 7 of 160, which is below 5 %.
    lengths = 160 + np.random.default_rng(0).geometric(0.01, num_sequences)
    groups = collate.split_by_length(lengths)
    assert waste(lengths, groups) <= PADDING * lengths.sum()
    assert [lengths[group].max() for group in groups] == sorted(
        (lengths[group].max() for group in groups), reverse=True
    )


@pytest.mark.parametrize(
    ("lengths", "num_groups"),
    [
        ([20] * 9, 1),
        ([21] * 20 + [1], 1),  # 20 wasted of 421 real: 21.05 are allowed
        ([21] * 19 + [1], 1),  # 20 wasted of 400 real: 20 are allowed
        ([21] * 18 + [1], 2),  # 20 wasted of 379 real: 18.95 are allowed
        ([16, 9], 1),  # ceil(16 / 8) == ceil(9 / 8): one grain, never cut
        ([17, 9], 2),
        ([8] * 8 + [1], 1),
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
    # 40 and 39 share a tensor (one grain), the two of 3 tokens another one that needs no mask
    masked, plain = collate.group(sequences([40, 3, 39, 3]), PAD).groups
    assert plain.mask is None
    assert masked.mask is not None
    assert masked.mask.sum(1).tolist() == [40, 39]
    assert masked.mask[1].tolist() == [1] * 39 + [0]


def test_real_and_computed_tokens_are_counted() -> None:
    # real: 40 + 3 + 39 + 3 = 85; computed: 2 x 40 and 2 x 3 = 86
    found = collate.group(sequences([40, 3, 39, 3]), PAD)
    assert (found.real_tokens, found.computed_tokens) == (85, 86)
    assert found.computed_tokens == sum(group.ids.numel() for group in found.groups)


def test_the_padding_id_is_the_one_asked_for() -> None:
    (group,) = collate.group(sequences([9, 10]), 77).groups
    assert group.ids[1, -1] == 77


def test_moving_to_a_device_changes_no_value() -> None:
    found = collate.group(sequences([40, 3, 39, 3]), PAD)
    moved = found.to(torch.device("cpu"))
    assert (moved.real_tokens, moved.computed_tokens) == (found.real_tokens, found.computed_tokens)
    assert torch.equal(moved.order, found.order)
    for before, after in zip(found.groups, moved.groups, strict=True):
        assert torch.equal(before.ids, after.ids)
        assert (before.mask is None) == (after.mask is None)
    assert moved.groups[0].mask is not None
