"""What every task does with its model, whatever the shape of the problem: check it, build it, keep it in a
checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.base.heap import give_back_at_once
from lib.config import Config
from lib.data import text
from lib.data.amounts import Amounts
from lib.data.loader import Costs, MicroBatch
from lib.data.rows import NO_LABEL as NO_LABEL  # for tasks
from lib.data.rows import EncodedRow, Rows
from lib.models import adapters, backbone, frozen_weights, heads, offload, placement
from lib.models.freezing import freeze
from lib.process.world import World
from lib.recipe import Example, Prediction, Recipe


@dataclass(frozen=True)
class LabelledBatch:
    """Some rows as the model takes them, and their labels (NO_LABEL where one is not known)."""

    inputs: Any
    labels: Tensor  # (rows,) int64

    @property
    def amounts(self) -> Amounts:
        return self.inputs.amounts

    @property
    def computed_tokens(self) -> int:
        return self.inputs.computed_tokens

    def to(self, device: torch.device) -> "LabelledBatch":
        return LabelledBatch(self.inputs.to(device), self.labels.to(device, non_blocking=True))


class ModelTask:
    """The verbs of lib.task.Task that need no rows. A task adds `assemble` and the rest."""

    def __init__(
        self, recipe: Recipe, config: Config, described: backbone.Described, kind: backbone.Kind
    ) -> None:
        self.recipe, self.config, self.described, self.kind = recipe, config, described, kind
        self.tokenizer, self.model_type = described.tokenizer, described.config.model_type
        self.specials = text.specials_of(self.tokenizer)
        self.counts: dict[str, int] = {}
        self.writes = False
        self.base_stays = bool(config.adapter.lora_rank) or config.adapter.quantize != "none"
        """The backbone's own weights never change, and a checkpoint keeps only what trains."""

    def check(self) -> None:
        length, limit = self.config.data.max_length, self.described.max_positions
        if limit is not None and length > limit:
            raise ValueError(
                f"--max-length {length} is more than {self.described.name} takes; use at most {limit}"
            )
        if length < text.smallest_length(self.specials):
            raise ValueError(
                f"--max-length {length} is too short; use at least {text.smallest_length(self.specials)}"
            )

    def fingerprints(self) -> dict[str, str]:
        return {"tokenizer": text.fingerprint(self.tokenizer), "model": self.described.fingerprint()}

    def checkpoint_bytes(self) -> int:
        with torch.device("meta"):
            model = self._adapted(backbone.random(self.described, self.kind))
        sizes = {name: value.numel() * value.element_size() for name, value in model.named_parameters()}
        trains = sum(sizes[name] for name, value in model.named_parameters() if value.requires_grad)
        # weights, and Adam's two moments of what trains
        return (trains if self.base_stays else sum(sizes.values())) + 2 * trains

    def lengths(self, row: EncodedRow) -> list[int]:
        return [len(sequence) for sequence in row.sequences]

    def shown(self, row: EncodedRow) -> list[str]:
        return [self.tokenizer.decode(sequence.tolist()) for sequence in row.sequences]

    def costs(self, rows: Rows) -> Costs:
        return Costs(rows)

    def unusable(self, examples: list[Example], between: Callable[[], None]) -> dict[str, str]:
        return {}

    def writing_batches(self, rows: Rows, which: Sequence[int], token_budget: int) -> list[MicroBatch]:
        raise NotImplementedError

    def write(
        self, model: nn.Module, rows: Rows, indices: tuple[int, ...], between: Callable[[], None]
    ) -> list[Prediction]:
        raise NotImplementedError

    def build(self, folder: Path | None = None) -> nn.Module:
        settings, described = self.config.model, self.described
        if folder is not None and not self.base_stays:
            settings = replace(settings, init="pretrained")
            described = replace(described, source=str(folder / "backbone"))
        quantization = adapters.quantization(self.config.adapter, self.config.optim.precision)
        base = backbone.load(described, settings, self.kind, self.config.optim.seed, quantization)
        adapters.keep_as_loaded(base)
        model = self._adapted(base)
        if folder is not None:
            heads.load_head(model, folder)
            if self.config.adapter.lora_rank:
                adapters.load(model.backbone, folder / "adapter")
        return model

    def build_on_disk(self, folder: Path, index: Path, world: World) -> nn.Module:
        """The model of a checkpoint for predictions alone: its backbone's weights stay on the disk."""
        adapter = self.config.adapter
        if adapter.quantize != "none":
            raise ValueError(
                f"--offload reads float weights from the disk, this run's base is in {adapter.quantize}; it "
                "takes little memory as it is, so predict without --offload"
            )
        give_back_at_once()
        base = offload.empty(lambda: backbone.random(self.described, self.kind))
        if adapter.lora_rank:
            base = offload.empty(lambda: adapters.add(base, adapter, self.config.optim.seed))
        files = backbone.files(folder / "backbone" if not self.base_stays else self.described)
        added = folder / "adapter" / adapters.WEIGHTS if adapter.lora_rank else None
        rounded = frozen_weights.names(base) if frozen_weights.wanted(self.config) else ()
        offload.run_from_disk(base, offload.Stored(files, added, rounded), index, world.device)
        model = self.assemble(base, [])
        placement.attend(model)
        heads.load_head(model, folder)
        if hasattr(model, "head"):
            model.head.to(world.device)
        return model

    def _adapted(self, base: Any) -> nn.Module:
        """Adapter or frozen parts in a backbone, and the task's head on it."""
        if self.config.adapter.lora_rank:
            return self.assemble(adapters.add(base, self.config.adapter, self.config.optim.seed), [])
        return self.assemble(base, freeze(base, self.config.model.freeze))

    def assemble(self, base: Any, frozen: list[nn.Module]) -> nn.Module:
        """The whole model on a backbone; `frozen` modules stay in evaluation mode."""
        raise NotImplementedError

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        state = model.state_dict()
        if not self.base_stays:
            return state
        kept = {name for name, value in model.named_parameters() if value.requires_grad}
        if adapters.is_adapted(model.backbone):
            names = adapters.kept_names(model.backbone, heads.of_backbone(state))
            kept |= {heads.BACKBONE + name for name in names}
        return {name: value for name, value in state.items() if name in kept}

    def save(self, model: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
        heads.save(model, state, folder)
        if not self.base_stays:
            self.tokenizer.save_pretrained(folder / "backbone")


def describe(recipe: Recipe, config: Config, folder: Path | None) -> backbone.Described:
    """The model's configuration and tokenizer, of `--model` or of a checkpoint that keeps its own."""
    model = config.model
    if folder is not None and (folder / "backbone").is_dir():
        model = replace(model, model=str(folder / "backbone"))
    return replace(backbone.describe(model, recipe.family), name=config.model.model)
