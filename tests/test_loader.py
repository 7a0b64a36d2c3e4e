"""Which rows make which step: every row once an epoch, pieces within the budget, nothing knows of ranks."""

from typing import Any

import numpy as np
import pytest

from lib.config import OptimConfig
from lib.data import loader
from lib.data.loader import Costs, Loader, MicroBatch, Step
from lib.data.rows import EncodedRow, Rows, pack


def rows_of(lengths: list[list[int]]) -> Rows:
    """One row for each list of sequence lengths; row i has i + 1 targets."""
    return pack(
        [
            EncodedRow(str(row), [np.zeros(size, np.int32) for size in sizes], 0, num_targets=row + 1)
            for row, sizes in enumerate(lengths)
        ]
    )


def draw_rows(num_rows: int, seed: int = 0, longest: int = 60) -> Rows:
    """Rows of two sequences with lengths as uneven as real ones."""
    draw = np.random.default_rng(seed)
    return rows_of((draw.integers(1, longest, (num_rows, 2)) ** 2 // longest + 3).tolist())


def make(rows: Rows, batch: int, **values: Any) -> Loader:
    given = {"epochs": 2, "max_steps": None, "token_budget": 400, "min_micro_batches": 4, "seed": 0}
    return Loader(Costs(rows), OptimConfig(batch=batch, **(given | values)))


def steps(loader: Loader) -> list[Step]:
    return [loader.step(number) for number in range(1, loader.num_steps + 1)]


def tokens(rows: Rows, piece: MicroBatch) -> int:
    return sum(len(sequence) for row in piece.rows for sequence in rows.sequences_of(row))


# steps


@pytest.mark.parametrize("batch", range(1, 10))
def test_every_row_is_in_exactly_one_step_of_every_epoch(batch: int) -> None:
    for num_rows in range(1, 41):
        made = make(draw_rows(num_rows), batch)
        assert made.steps_per_epoch == -(-num_rows // batch)
        assert made.num_steps == 2 * made.steps_per_epoch
        found = steps(made)
        for epoch in (found[: made.steps_per_epoch], found[made.steps_per_epoch :]):
            assert sorted(row for step in epoch for row in step.row_numbers()) == list(range(num_rows))


@pytest.mark.parametrize(("num_rows", "last"), [(15, 7), (16, 8), (17, 1)])
def test_the_last_batch_of_an_epoch_may_be_smaller(num_rows: int, last: int) -> None:
    sizes = [step.num_rows for step in steps(make(draw_rows(num_rows), 8, epochs=1))]
    assert sizes == [8] * (len(sizes) - 1) + [last]


def test_a_step_counts_its_own_rows_and_targets() -> None:
    # row i has i + 1 targets, so an epoch of 20 rows has 20 * 21 / 2 = 210
    found = steps(make(draw_rows(20), 8, epochs=1))
    for step in found:
        assert step.num_rows == len(step.row_numbers())
        assert step.num_targets == sum(row + 1 for row in step.row_numbers())
    assert sum(step.num_targets for step in found) == 210
    assert [step.epoch for step in found] == [1 / 3, 2 / 3, 1]
    assert [step.number for step in found] == [1, 2, 3]


@pytest.mark.parametrize(
    ("epochs", "max_steps", "num_steps"),
    # 200 rows in batches of 8 make 25 steps an epoch; in floating point 25 * 2.2 is 55.00000000000001
    [(1, None, 25), (2.2, None, 55), (0.01, None, 1), (2.21, None, 56), (3, 7, 7), (1, 25, 25), (1, 26, 25)],
)
def test_the_number_of_steps_follows_epochs_and_max_steps(
    epochs: float, max_steps: int | None, num_steps: int
) -> None:
    assert make(draw_rows(200), 8, epochs=epochs, max_steps=max_steps).num_steps == num_steps


def test_a_new_loader_at_step_n_is_where_another_one_walked_to() -> None:
    rows = draw_rows(37)
    walked = steps(make(rows, 5, epochs=3))
    for number in (24, 9, 8, 17, 1, 16):  # also backwards, and across the ends of epochs (8 steps each)
        assert make(rows, 5, epochs=3).step(number) == walked[number - 1]
    again = make(rows, 5, epochs=3)
    assert [again.step(step.number) for step in reversed(walked)] == walked[::-1]


def test_epochs_and_seeds_differ() -> None:
    rows = draw_rows(64)

    def order(seed: int, epoch: int) -> list[list[int]]:
        made = make(rows, 8, seed=seed)
        return [made.step(epoch * 8 + place).row_numbers() for place in range(1, 9)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(1, 0) != order(0, 1)  # seed and epoch are not simply added


def test_a_batch_holds_rows_of_like_length() -> None:
    rows = draw_rows(67)
    longest = rows.longest_by_row()
    full = [step.row_numbers() for step in steps(make(rows, 8, epochs=1))][:-1]
    spans = sorted((longest[batch].min(), longest[batch].max()) for batch in full)
    # sorted by length, then cut into batches: one batch ends where the next begins
    assert all(before[1] <= after[0] for before, after in zip(spans[:-1], spans[1:], strict=True))
    assert spans != [(longest[batch].min(), longest[batch].max()) for batch in full]  # in random order


# micro-batches


def cut(rows: Rows, token_budget: int, min_pieces: int) -> list[MicroBatch]:
    return loader.cut(np.arange(len(rows)), Costs(rows), token_budget, min_pieces)


@pytest.mark.parametrize("min_pieces", [1, 2, 3, 4, 5, 9])
def test_a_batch_is_cut_into_enough_pieces_within_the_budget(min_pieces: int) -> None:
    for num_rows in range(1, 30):
        for budget in (1, 100, 150, 400, 10**6):
            rows = draw_rows(num_rows, seed=num_rows)
            pieces = cut(rows, budget, min_pieces)
            assert len(pieces) >= min(min_pieces, num_rows)
            assert sorted(row for piece in pieces for row in piece.rows) == list(range(num_rows))
            assert [piece.number for piece in pieces] == list(range(len(pieces)))
            for piece in pieces:
                assert piece.rows and piece.weight == 1
                assert tokens(rows, piece) <= budget or len(piece.rows) == 1


@pytest.mark.parametrize(("budget", "pieces"), [(39, 4), (40, 2), (41, 2), (79, 2), (80, 1), (81, 1)])
def test_the_budget_is_used_to_its_last_token(budget: int, pieces: int) -> None:
    # four rows of 20 tokens: two of them are 40, all are 80
    assert len(cut(rows_of([[12, 8]] * 4), budget, 1)) == pieces


def test_one_row_above_the_budget_does_not_split_up_the_others() -> None:
    # 100 tokens are above the budget of 64; the twelve rows of 8 fit into two pieces of six (48 tokens)
    pieces = cut(rows_of([[100]] + [[8]] * 12), 64, 1)
    assert pieces[0].rows == (0,)
    assert len(pieces) < 8  # 13 if every row were by itself


def test_equal_rows_are_cut_into_equal_pieces() -> None:
    pieces = cut(rows_of([[20]] * 12), 10**6, 4)
    assert [len(piece.rows) for piece in pieces] == [3, 3, 3, 3]
    # 3 rows of 20 tokens: linear 20, attention 20**2 / 1024
    assert [piece.cost for piece in pieces] == pytest.approx([3 * (20 + 400 / 1024)] * 4)


def test_rows_of_like_length_stay_together_longest_first() -> None:
    rows = draw_rows(40)
    longest = rows.longest_by_row()
    order = [row for piece in cut(rows, 300, 4) for row in piece.rows]
    assert longest[order].tolist() == sorted(longest.tolist(), reverse=True)


class SharedContexts(Costs):
    """Rows 0, 1, 2 and 3, 4, 5 ... share a context of 20 tokens and have 5 tokens of their own."""

    def tokens(self, indices: np.ndarray) -> int:
        return 20 * len({int(row) // 3 for row in indices}) + 5 * len(indices)


def test_a_set_of_rows_that_share_a_context_costs_less_than_its_rows() -> None:
    costs = SharedContexts(rows_of([[25]] * 12))
    # alone 2 rows of 25 fit into 60; together 3 rows of a context (35) do, and a second context does not (60
    # with a row of it: 3 * 5 + 5 + 2 * 20)
    assert [piece.rows for piece in loader.evaluation_batches(costs, 59)] == [
        (0, 1, 2),
        (3, 4, 5),
        (6, 7, 8),
        (9, 10, 11),
    ]
    assert [len(piece.rows) for piece in loader.cut(np.arange(12), costs, 59, 1)] == [3, 3, 3, 3]
    assert [len(piece.rows) for piece in loader.evaluation_batches(Costs(costs.rows), 59)] == [2] * 6


def test_a_cut_depends_on_the_rows_and_not_on_their_order() -> None:
    rows = draw_rows(24)
    shuffled = np.random.default_rng(1).permutation(24)
    assert loader.cut(shuffled, Costs(rows), 300, 4) == cut(rows, 300, 4)


# ranks


def piece(number: int, cost: float) -> MicroBatch:
    return MicroBatch(number, (number,), cost)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 5])
def test_every_piece_is_computed_once_and_all_ranks_make_as_many_calls(num_ranks: int) -> None:
    for num_pieces in range(1, 14):
        # one costs more than all others together: the ranks without it still make only as many calls
        pieces = [piece(number, 99 if number == 1 else 3 + number * 7 % 5) for number in range(num_pieces)]
        shares = loader.deal(pieces, num_ranks)
        assert len(shares) == num_ranks
        assert {len(share) for share in shares} == {-(-num_pieces // num_ranks)}
        real = [piece for share in shares for piece in share if piece.weight]
        assert sorted(real, key=lambda piece: piece.number) == pieces
        cheapest = min(piece.cost for piece in pieces)
        fillers = [piece for share in shares for piece in share if not piece.weight]
        assert all((filler.weight, filler.cost) == (0, cheapest) for filler in fillers)


def test_the_costliest_pieces_go_to_the_rank_with_least_work() -> None:
    # 9 to the first rank, 7 to the second, 5 to the second (7 < 9), 3 to the first (9 < 12): 12 and 12
    shares = loader.deal([piece(number, cost) for number, cost in enumerate((3, 9, 5, 7))], 2)
    assert [[piece.cost for piece in share] for share in shares] == [[9, 3], [7, 5]]


def test_the_rows_of_a_step_never_depend_on_the_number_of_ranks() -> None:
    for step in steps(make(draw_rows(23), 7, epochs=1)):
        for num_ranks in range(1, 6):
            shares = loader.deal(step.micro_batches, num_ranks)
            computed = [row for share in shares for piece in share if piece.weight for row in piece.rows]
            assert sorted(computed) == sorted(step.row_numbers())


# evaluation


@pytest.mark.parametrize("token_budget", [1, 50, 400, 10**6])
def test_evaluation_takes_every_row_once_within_the_budget_longest_first(token_budget: int) -> None:
    for num_rows in (1, 2, 15, 16, 17, 40):
        rows = draw_rows(num_rows)
        batches = loader.evaluation_batches(Costs(rows), token_budget)
        order = [row for batch in batches for row in batch.rows]
        assert sorted(order) == list(range(num_rows))
        assert [batch.number for batch in batches] == list(range(len(batches)))
        assert rows.longest_by_row()[order].tolist() == sorted(rows.longest_by_row().tolist(), reverse=True)
        for batch in batches:
            assert tokens(rows, batch) <= token_budget or len(batch.rows) == 1
            assert batch.weight == 1


def test_evaluation_batches_are_filled_to_the_budget() -> None:
    # rows of 20 tokens: two are 40, three would be 60
    assert [len(batch.rows) for batch in loader.evaluation_batches(Costs(rows_of([[20]] * 5)), 59)] == [
        2,
        2,
        1,
    ]
    assert [len(batch.rows) for batch in loader.evaluation_batches(Costs(rows_of([[20]] * 5)), 60)] == [3, 2]


# rows


def test_packed_rows_give_back_their_sequences() -> None:
    sequences = [[[5, 6], [7]], [[8]], [[1], [2], [3, 4, 5]]]
    rows = pack(
        [
            EncodedRow(str(row), [np.array(ids, np.int32) for ids in parts], row)
            for row, parts in enumerate(sequences)
        ]
    )
    found = [[ids.tolist() for ids in rows.sequences_of(row)] for row in range(3)]
    assert found == sequences
    assert rows.sum_by_row(rows.sequence_lengths).tolist() == [3, 1, 5]
    assert rows.longest_by_row().tolist() == [2, 1, 3]
    assert (rows.labels.tolist(), len(rows)) == ([0, 1, 2], 3)


def test_rows_survive_the_disk(tmp_path: Any) -> None:
    from lib.data import rows as encoded

    before = draw_rows(9)
    encoded.save(before, tmp_path / "train")
    after = encoded.load(tmp_path / "train")
    assert after.ids == before.ids
    for name in encoded.ARRAYS:
        assert np.array_equal(getattr(after, name), getattr(before, name))
        assert getattr(after, name).dtype == getattr(before, name).dtype
    assert steps(make(after, 4)) == steps(make(before, 4))
