"""Models of a real shape with random weights, made on the device layer by layer, and rows of real lengths
with random ids: what a GPU is measured with where no model and no data can be had."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib import recipe as recipes
from lib.bench import models
from lib.bench.flops import Work, flops_of
from lib.bench.setting import Setting
from lib.config_keys import with_values
from lib.data.rows import EncodedRow, Rows, pack
from lib.models import adapters, backbone, offload
from lib.tasks import make as make_task
from lib.training.unused import freeze_unused

FIRST = 300  # ids below are the toy tokenizer's; each label has one of the first of them
EVERY = 16  # such an id stands at every 16th place, so that there is something to learn


@dataclass
class Shaped(Setting):
    """A setting whose model is made out of numbers."""

    quantize: str
    frozen_dtype: torch.dtype
    """Of what stays as it is and is not quantized."""

    def model(self) -> Any:
        task, config = self.task, self.config
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        base = offload.empty(lambda: backbone.random(task.described, task.kind))
        dtype = self.frozen_dtype if config.adapter.lora_rank else torch.float32
        torch.manual_seed(config.optim.seed)
        fill(base, device, dtype, self.quantize)
        adapters.keep_as_loaded(base)
        if config.adapter.lora_rank:
            base = adapters.add(base, config.adapter, config.optim.seed)
        model = task.assemble(base, [])  # type: ignore[attr-defined]
        if not config.adapter.lora_rank:
            freeze_unused(model, [p for name, p in model.named_parameters() if "pooler" not in name])
        return model.to(device)

    def work(self) -> dict[str, float]:
        """Real tokens of all rows, and the FLOPs that they need."""
        task, rows = self.task, self.train
        config = task.described.config
        with torch.device("meta"):
            base: Any = backbone.random(task.described, task.kind)
        linear = [part for part in base.modules() if isinstance(part, nn.Linear)]
        head = base.get_output_embeddings()
        joined = rows.sum_by_row(rows.sequence_lengths) if task.writes else rows.sequence_lengths
        work = Work(
            weights=sum(part.weight.numel() for part in linear if part is not head),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            causal=backbone.is_causal(config),
            frozen=bool(self.config.adapter.lora_rank),
            lengths=joined,
            words=config.vocab_size if task.writes else 0,
            num_logits=int(rows.num_targets.sum()) if task.writes else 0,
        )
        return {"tokens": float(joined.sum()), "flops": flops_of(work)}


def prepare(order: dict[str, Any]) -> Shaped:
    """`order` names the recipe, a shape, values of the configuration, deciles of the lengths, and how many
    rows to make. The model is made of no files but these: its configuration and the toy's tokenizer."""
    recipe = recipes.load(order["recipe"])
    with tempfile.TemporaryDirectory() as folder:
        models.without_weights(order["shape"], None, Path(folder))
        values = order["values"] | {"model.model": folder, "model.init": "random"}
        values |= {"optim.seed": order["seed"], "optim.precision": order["precision"]}
        config = with_values(recipe.config, values)
        task = make_task(recipe, config)
    words, draw = task.described.config.vocab_size, np.random.default_rng(order["seed"])
    make = _text if task.writes else _labelled
    sizes = order["rows"], order["validation_rows"]
    train, validation = (rows_of(make, order["lengths"], size, words, draw) for size in sizes)
    dtype = torch.float32 if order["arm"] == "ours" else torch.bfloat16
    return Shaped(config, task, train, validation, task.specials.pad, order["quantize"], dtype)  # type: ignore[attr-defined]


Draw = np.random.Generator
MakeRow = Callable[[str, list[np.ndarray], int], EncodedRow]


def rows_of(make: MakeRow, deciles: list[list[int]], size: int, words: int, draw: Draw) -> Rows:
    """Rows of sequences with random ids; each sequence's lengths spread as `deciles` (11 of them) say."""
    rows = []
    for number in range(size):
        lengths = [round(float(np.interp(draw.uniform(0, 10), range(11), one))) for one in deciles]
        sequences = [draw.integers(FIRST, words, max(1, length), dtype=np.int32) for length in lengths]
        rows.append(make(str(number), sequences, int(draw.integers(2))))
    return pack(rows)


def _labelled(name: str, sequences: list[np.ndarray], label: int) -> EncodedRow:
    sequences[0][::EVERY] = 4 + label
    return EncodedRow(name, sequences, label)


def _text(name: str, sequences: list[np.ndarray], label: int) -> EncodedRow:
    """The prompt says which of two texts follows."""
    prompt, text = sequences
    prompt[::EVERY] = 4 + label
    text[:] = FIRST + 2 * np.arange(len(text)) + label
    return EncodedRow(name, [prompt, text], 0, num_targets=len(text))


@torch.no_grad()
def fill(base: Any, device: torch.device, dtype: torch.dtype, quantize: str) -> None:
    """Give an empty model random weights, one layer at a time: never more than one matrix in float32 besides
    what is kept. Linear layers but the output's are quantized (bitsandbytes, as transformers loads them)."""
    spread, head = getattr(base.config, "initializer_range", 0.02), base.get_output_embeddings()
    made: dict[int, nn.Parameter] = {}  # weights that are tied are one object

    def numbers(name: str, empty: Tensor) -> Tensor:
        if empty.ndim < 2:  # of norms; biases are 0
            return torch.full(empty.shape, float(name == "weight"), dtype=dtype, device=device)
        return torch.randn(empty.shape, device=device).mul_(spread).to(dtype)

    for path, module in list(base.named_modules()):
        for name, empty in module._parameters.items():
            if empty is not None:
                if id(empty) not in made:
                    made[id(empty)] = nn.Parameter(numbers(name, empty))
                module._parameters[name] = made[id(empty)]
        if quantize != "none" and isinstance(module, nn.Linear) and module is not head:
            above, _, own = path.rpartition(".")
            setattr(base.get_submodule(above), own, _in_4_bits(module, quantize))
            made = {key: value for key, value in made.items() if value is not module.weight}
            del module.weight  # the list above still holds the layer that was replaced
    if quantize != "none":
        base.is_loaded_in_4bit = True  # so that peft knows what it wraps


def _in_4_bits(layer: nn.Linear, kind: str) -> nn.Module:
    import bitsandbytes

    few = bitsandbytes.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        torch.bfloat16,
        True,
        kind,
        device="meta",
    )
    weight = layer.weight.data.to(torch.bfloat16)
    words: dict[str, Any] = {"quant_type": kind, "compress_statistics": True, "module": few}
    kept: Any = bitsandbytes.nn.Params4bit(weight, requires_grad=False, **words)
    few.weight, few.bias = kept.to(weight.device), layer.bias  # the move quantizes
    return few
