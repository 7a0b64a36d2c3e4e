"""--reduce ordered: a sum that does not depend on who computed what."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib.data.loader import blocks
from lib.training.ordered import Node, add_up, root, subtrees
from tests.tools import SHORT, losses, only_run, run, weights_hash, wide_model

EXACT = [*SHORT, "--init", "random", "--min-micro-batches", "7", "--reduce", "ordered"]


def leaves(number: int) -> dict[Node, torch.Tensor]:
    """Of sizes so different that any other order gives other bits."""
    torch.manual_seed(number)
    return {Node(0, place): torch.randn(64) * 10.0 ** (place % 5) for place in range(number)}


def sum_of(there: dict[Node, torch.Tensor], node: Node, number: int) -> torch.Tensor:
    return add_up(node, {key: value.clone() for key, value in there.items()}, number)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 7, 8, 9, 13])
def test_the_tree_gives_the_same_bits_whoever_has_its_leaves(number: int) -> None:
    gradients = leaves(number)
    whole = sum_of(gradients, root(number), number)
    for ranks in range(1, 7):
        nodes = [node for mine in blocks(number, ranks) for node in subtrees(mine, number)]
        assert sorted(leaf for node in nodes for leaf in node.leaves(number)) == list(range(number))
        parts = {node: sum_of(gradients, node, number) for node in nodes}
        assert torch.equal(sum_of(parts, root(number), number), whole)


def test_another_order_would_give_other_bits() -> None:
    gradients = leaves(7)
    chain = gradients[Node(0, 0)].clone()
    for place in range(1, 7):
        chain += gradients[Node(0, place)]
    assert not torch.equal(chain, sum_of(gradients, root(7), 7))


def test_a_rank_adds_up_what_is_wholly_its_own() -> None:
    # of 7 leaves it has 2 .. 5: 2 and 3 are one node, 4 and 5 another; above them leaves 0 and 6 are not its
    assert subtrees(range(2, 6), 7) == [Node(1, 1), Node(1, 2)]
    # 4 .. 6 are all there is under the node of 4 .. 7
    assert subtrees(range(4, 7), 7) == [Node(2, 1)]
    assert subtrees(range(7, 7), 7) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    model = wide_model(tmp_path_factory.mktemp("models") / "wide")

    def train(folder: Path, ranks: int, *words: str, code: int = 0) -> Path:
        flags = ["--model", model, "--devices", str(ranks), "--runs-dir", str(folder), *words]
        done = run("arena", *EXACT, *flags)
        assert done.returncode == code, done.stderr
        return only_run(folder)

    return train


@pytest.mark.parametrize("steps", [6, pytest.param(50, marks=pytest.mark.faults)])
def test_weights_are_the_same_bits_on_1_2_3_and_4_ranks_and_when_ranks_leave(
    trained: Callable[..., Path], tmp_path: Path, steps: int
) -> None:
    """Dropout is on; four ranks, of which two leave after a third of the steps and one more after two."""
    length = ["--max-steps", str(steps), "--epochs", str(steps), "--eval-every", str(steps // 2)]
    runs = [
        trained(tmp_path / str(ranks), ranks, *length)
        for ranks in ((1, 2, 3) if steps == 6 else (1, 2, 3, 4))
    ]
    trained(tmp_path / "leaving", 4, *length, "--stop-at", str(steps // 3), code=75)
    trained(tmp_path / "leaving", 2, *length, "--stop-at", str(steps * 2 // 3), code=75)
    runs.append(trained(tmp_path / "leaving", 1, *length))
    assert len({weights_hash(folder, steps) for folder in runs}) == 1
    assert all(losses(folder) == losses(runs[0]) for folder in runs)
