"""What the loop asks of a way to train: one optimizer step on one or many processes.

A gradient is the gradient of (sum of losses over all ranks) / (targets over all ranks): never a mean of
means. lib.training.ddp is one such way; nobody but lib.run names it.
"""

from collections.abc import Callable, Iterable, Mapping
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


class Engine(Protocol):
    """All ranks call every verb, in the same order: a strategy may have to gather what ranks share out.

    The order: `fit`, perhaps a change of the module (torch.compile), `start`, then steps, each some `forward`
    and `backward`, one `norm` and one `step` (or `forget`); between steps `snapshot`.
    """

    module: nn.Module
    """The model as the task built it: for predictions."""
    whole_on_each_rank: bool
    """True: one rank alone can take a snapshot, when the others may be gone."""

    def fit(self, costliest: MakeBatch, loss: Loss, token_budget: int) -> Fitted:
        """Try a forward and a backward pass of the costliest micro-batch with room held for gradients and
        optimizer, halve the token budget until it fits, freeze what no gradient reaches. Raises CheckError
        when nothing fits."""

    def start(self, batch: Any, loss: Loss, optimizer: Mapping[str, Tensor] | None) -> None:
        """Make everything ready for step 1, or for the step after a snapshot whose optimizer's state is
        given. `batch` is a cheap one for passes without effect."""

    def forward(self, batch: Any, draw: int, last: bool) -> Any:
        """Outputs of a training pass. `draw` seeds dropout: keyed by what is computed, not by who computes
        it. `last` micro-batch of a step: ranks exchange gradients in its backward pass only."""

    def backward(self, loss_sum: Tensor, scale: float) -> None:
        """Add the gradient of `loss_sum * scale`."""

    def norm(self) -> Tensor:
        """() of the whole gradient, the same on all ranks, after the last `backward` of a step. Still on the
        device: nobody waits for it here."""

    def step(self, learning_rate: float) -> None:
        """Clip, update, forget the gradient, whose norm is finite."""

    def forget(self) -> None:
        """Drop the gradient."""

    def snapshot(self, kept: Mapping[str, Tensor], alone: bool = False) -> Snapshot:
        """`kept`: the part of module.state_dict() that a checkpoint keeps. Rank 0 gets the copies, or the
        rank that takes one `alone`. Raises RepeatsError rather than keep a NaN or infinity."""


def freeze_unused(model: nn.Module, used: Iterable[nn.Parameter]) -> list[str]:
    """Freeze the parameters that no gradient reaches (a pooler that nobody reads); returns their names."""
    reached = {id(parameter) for parameter in used}
    names = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in reached:
            parameter.requires_grad_(False)
            names.append(name)
    return names
