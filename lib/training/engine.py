"""What the loop asks of a way to train: one optimizer step on one or many processes.

A gradient is the gradient of (sum of losses over all ranks) / (targets over all ranks): never a mean of
means. lib.training.ddp and lib.training.zero are such ways; nobody but lib.training.strategies names them.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from lib.training.checkpoint import Snapshot

Loss = Callable[[Any, Any], Tensor]  # (output, batch) -> the SUM of the losses of all targets
MakeBatch = Callable[[int], tuple[Any, str]]  # token budget -> the costliest batch within it, in words too


@dataclass(frozen=True)
class Fitted:
    """What was found out before step 1."""

    token_budget: int
    """The largest of the budget asked for, its half, its quarter ... that fits on every rank."""
    unused: list[str]
    """Parameters that no gradient reaches; they are frozen now."""


@dataclass(frozen=True)
class Turn:
    """What a micro-batch is within its step, whoever computes it."""

    draw: int
    """Seeds dropout."""
    last: bool
    """Of this rank's: engines that exchange gradients while they are computed do so in this one alone."""
    number: int = 0
    of: int = 1
    """Number 0 .. of - 1, of so many over all ranks."""


class Engine(Protocol):
    """All ranks call every verb, in the same order: a strategy may have to gather what ranks share out.

    The order: `fit`, perhaps a change of the module (torch.compile), `start`, then steps, each some `forward`
    and `backward`, one `norm` and one `step` (or `forget`); between steps `snapshot` and predictions, these
    within `whole`.
    """

    module: nn.Module
    """The model as the task built it: for predictions."""
    whole_on_each_rank: bool
    """True: one rank alone can take a snapshot, when the others may be gone."""
    one_call: bool
    """True: ranks call each part of the model together, so a batch must be collated for one call of each."""
    in_order: bool
    """True: each rank must have neighbouring micro-batches, in their order."""

    def fit(self, costliest: MakeBatch, loss: Loss, token_budget: int) -> Fitted:
        """Try a forward and a backward pass of the costliest micro-batch with room held for gradients and
        optimizer, halve the token budget until it fits, freeze what no gradient reaches. Raises CheckError
        when nothing fits."""

    def start(self, batch: Any, loss: Loss, optimizer: Mapping[str, Tensor] | None) -> None:
        """Make everything ready for step 1, or for the step after a snapshot whose optimizer's state is
        given. `batch` is a cheap one for passes without effect."""

    def forward(self, batch: Any, turn: Turn) -> Any:
        """Outputs of a training pass."""

    def backward(self, loss_sum: Tensor, scale: float) -> None:
        """Add the gradient of `loss_sum * scale`, of the pass before."""

    def norm(self) -> Tensor:
        """() of the whole gradient, the same on all ranks, after the last `backward` of a step. Still on the
        device: nobody waits for it here."""

    def step(self, learning_rate: float) -> None:
        """Clip, update, forget the gradient, whose norm is finite."""

    def forget(self) -> None:
        """Drop the gradient."""

    def whole(self) -> AbstractContextManager[bool]:
        """For predictions. True: within, each rank holds all of the module, and may call it as often as it
        wants to. False: there is no room for it; ranks must call each part together, without
        torch.inference_mode, so a batch must be collated for one call of each."""

    def end(self) -> None:
        """Nothing trains any more: let go of what the device holds, and of the other ranks, before the group
        is left. Not called by all ranks together: some may be gone."""

    def snapshot(self, kept: Mapping[str, Tensor], alone: bool = False) -> Snapshot:
        """`kept`: the part of module.state_dict() that a checkpoint keeps. Rank 0 gets the copies, or the
        rank that takes one `alone`. Raises RepeatsError rather than keep a NaN or infinity."""
