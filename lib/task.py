"""The verbs of a task, and what passes between them. Words end at `encode`, tensors end at `predict`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from lib.data.amounts import Amounts
from lib.data.loader import Costs, MicroBatch
from lib.data.rows import EncodedRow, Rows
from lib.process.world import World
from lib.recipe import Example, Prediction


class Batch(Protocol):
    """What `collate` makes: tensors of one micro-batch."""

    @property
    def inputs(self) -> Any:
        """What the model's forward takes."""

    @property
    def amounts(self) -> Amounts: ...

    @property
    def computed_tokens(self) -> int:
        """Real tokens and padding."""

    def to(self, device: Any) -> "Batch": ...


class Task(Protocol):
    """One shape of problem: a module of lib/tasks."""

    tokenizer: Any
    model_type: str
    """The family, as transformers names it."""
    described: Any
    """What is known of the model (lib.models.backbone.Described)."""
    kind: Any
    """What is taken of it: the token vectors of an encoder, or the words of a language model."""
    counts: dict[str, int]
    """What `encode` cut and counted."""
    writes: bool
    """Whether its answers are texts, which `write` makes."""

    def check(self) -> None:
        """Raise ValueError when the configuration cannot work with this model."""

    def fingerprints(self) -> dict[str, str]:
        """sha256 of what turns words into ids and of the model's shape."""

    def checkpoint_bytes(self) -> int:
        """The size of one checkpoint, known before any weight is loaded."""

    def unusable(self, examples: list[Example], between: Callable[[], None]) -> dict[str, str]:
        """Ids of rows that can be neither learned nor scored -> why."""

    def encode(
        self, examples: list[Example], between: Callable[[], None], refuse: bool = True
    ) -> list[EncodedRow]:
        """Words -> ids. `between` is called now and then and may raise to stop. A row that would
        lose what is never cut is refused with a ValueError; not `refuse`: it is cut and counted."""

    def lengths(self, row: EncodedRow) -> list[int]:
        """Tokens of each sequence that the model reads of the row, as --max-length counts them."""

    def shown(self, row: EncodedRow) -> list[str]:
        """The row's sequences as words, special tokens included; tokens that carry loss in [[ ]]."""

    def costs(self, rows: Rows) -> Costs:
        """What sets of these rows take to compute together."""

    def build(self, folder: Path | None) -> nn.Module:
        """The model: fresh, or with the weights of a checkpoint's folder."""

    def build_on_disk(self, folder: Path, index: Path, world: World) -> nn.Module:
        """The model of a checkpoint for predictions alone, its backbone's weights on the disk."""

    def assemble(self, base: Any, frozen: list[nn.Module]) -> nn.Module:
        """The whole model on a backbone; `frozen` modules stay in evaluation mode."""

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """What of the model a checkpoint keeps, by name, as it is (no copies): all of it, or what trains."""

    def save(self, model: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
        """Write the model's weights, given as a copy of `state`, into a checkpoint's folder."""

    def collate(self, rows: Rows, indices: tuple[int, ...], one_call: bool = False) -> Batch:
        """Rows -> tensors of like length; `one_call`: so that each part of the model is called once."""

    def loss(self, output: Any, batch: Any) -> Tensor:
        """SUM of the losses of all targets in the batch, in float32."""

    def hits(self, output: Any, batch: Any) -> Tensor:
        """() int64, how many targets of a training batch the output has right; nobody waits for it here."""

    def predict(self, model: nn.Module, batch: Any) -> list[Prediction]:
        """One plain record a row, without its id."""

    def writing_batches(self, rows: Rows, which: Sequence[int], token_budget: int) -> list[MicroBatch]:
        """Those of the rows in pieces whose texts are written together: a pure function of them."""

    def write(
        self, model: nn.Module, rows: Rows, indices: tuple[int, ...], between: Callable[[], None]
    ) -> list[Prediction]:
        """The text of each row, as a plain record without its id; `between` runs often and may raise to
        stop."""
