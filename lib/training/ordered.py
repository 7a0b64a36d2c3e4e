"""The engine whose sums are the same bits on any number of ranks.

Floating-point sums depend on their order, and an all-reduce adds up what happens to be where. Here the
gradients of a step's micro-batches are the leaves of one binary tree, which depends on their number alone: 0
and 1 are added, 2 and 3, then both sums, and so on, whoever computed them. A rank has neighbouring leaves and
adds up the subtrees that are wholly its own; what is left of the tree is added up by the ranks together, each
for its share of the numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn

from lib.config import OptimConfig
from lib.data.loader import blocks
from lib.process.world import World
from lib.training import optim
from lib.training.ddp import Ddp
from lib.training.engine import Loss, Turn


@dataclass(frozen=True, order=True)
class Node:
    """The sum of the leaves `place * 2**level` up to the next node's, as far as there are so many."""

    level: int
    place: int

    @property
    def parent(self) -> "Node":
        return Node(self.level + 1, self.place // 2)

    def leaves(self, num_leaves: int) -> range:
        size = 2**self.level
        return range(self.place * size, min((self.place + 1) * size, num_leaves))

    def children(self, num_leaves: int) -> list["Node"]:
        """One, where the second would have no leaf."""
        both = [Node(self.level - 1, 2 * self.place), Node(self.level - 1, 2 * self.place + 1)]
        return [child for child in both if child.leaves(num_leaves)]


def root(num_leaves: int) -> Node:
    return Node((num_leaves - 1).bit_length(), 0)


def subtrees(mine: range, num_leaves: int) -> list[Node]:
    """The largest nodes whose leaves are all among `mine`, from left to right."""

    def within(node: Node) -> list[Node]:
        leaves = node.leaves(num_leaves)
        if not leaves or leaves[-1] < mine.start or leaves[0] >= mine.stop:
            return []
        if mine.start <= leaves[0] and leaves[-1] < mine.stop:
            return [node]
        return [found for child in node.children(num_leaves) for found in within(child)]

    return within(root(num_leaves))


def add_up(node: Node, there: Mapping[Node, Tensor], num_leaves: int) -> Tensor:
    """The sum at a node, of the sums that are there. Those may be changed."""
    if node in there:
        return there[node]
    first, *second = [add_up(child, there, num_leaves) for child in node.children(num_leaves)]
    return first.add_(second[0]) if second else first


class Ordered(Ddp):
    """The verbs of lib.training.engine.Engine, as Ddp has them; the sums are our own."""

    in_order = True

    def __init__(self, module: nn.Module, config: OptimConfig, world: World) -> None:
        super().__init__(module, config, world)
        self.sums: dict[Node, Tensor] = {}  # of this step so far, each the whole gradient, flat
        self.turn = Turn(0, True)

    def start(self, batch: Any, loss: Loss, optimizer: Mapping[str, Tensor] | None) -> None:
        self.trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.sizes = [parameter.numel() for parameter in self.trained]
        self.optimizer = optim.make(self.module, self.config)
        if optimizer is not None:
            optim.load_state_tensors(self.module, self.optimizer, optimizer)

    def forward(self, batch: Any, turn: Turn) -> Any:
        self.turn = turn
        return super().forward(batch, turn)

    def backward(self, loss_sum: Tensor, scale: float) -> None:
        if scale == 0:  # a filler: nobody waits for its pass
            return
        flat = torch.zeros(sum(self.sizes), device=self.world.device)
        self._let_gradients_be(flat)
        (loss_sum * scale).backward()
        node = Node(0, self.turn.number)
        self.sums[node] = flat
        while node != root(self.turn.of):  # leaves come in order, so that few sums are open at once
            children = node.parent.children(self.turn.of)
            if not all(child in self.sums for child in children):
                break
            first, *second = [self.sums.pop(child) for child in children]
            node = node.parent
            self.sums[node] = first.add_(second[0]) if second else first

    def _let_gradients_be(self, flat: Tensor) -> None:
        """Views of one tensor."""
        for parameter, part in zip(self.trained, flat.split(self.sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    def forget(self) -> None:
        self.sums = {}
        self.optimizer.zero_grad(set_to_none=True)

    def norm(self) -> Tensor:
        whole = self._exchanged(self.turn.of) if self.world.size > 1 else self.sums[root(self.turn.of)]
        self.sums = {}
        # minus zero is what a sum without a summand may be, and another bit
        self._let_gradients_be(whole.add_(0.0))
        return super().norm()

    def _exchanged(self, num_leaves: int) -> Tensor:
        """Each rank adds up its share of the numbers, and gives it to all."""
        size, device = self.world.size, self.world.device
        share = -(-sum(self.sizes) // size)
        nodes = [subtrees(mine, num_leaves) for mine in blocks(num_leaves, size)]
        mine = torch.zeros(size, len(nodes[self.world.rank]), share, device=device)
        for place, node in enumerate(nodes[self.world.rank]):
            for owner, part in enumerate(self.sums[node].split(share)):
                mine[owner, place, : len(part)] = part
        theirs = torch.empty(sum(map(len, nodes)), share, device=device)
        torch_dist.all_to_all_single(
            theirs,
            mine.view(-1, share),
            output_split_sizes=[len(there) for there in nodes],
            input_split_sizes=[len(nodes[self.world.rank])] * size,
        )
        there = dict(zip((node for some in nodes for node in some), theirs, strict=True))
        whole = torch.empty(size * share, device=device)
        torch_dist.all_gather_into_tensor(whole, add_up(root(num_leaves), there, num_leaves))
        return whole[: sum(self.sizes)]
