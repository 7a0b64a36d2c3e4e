"""What a run trained, as one model of plain float32 weights: adapters added in, 4 and 8 bits written out.

A quantized run's forward pass multiplies with what its 4 or 8 bits stand for, so those numbers, and not the
full-precision ones they were made from, are the weights that its scores belong to.
"""

from typing import Any

import torch
from torch import nn

from lib.evaluation.trained import TrainedRun
from lib.models import adapters, backbone, frozen_weights
from lib.models.placement import settle
from lib.task import Task

CPU = torch.device("cpu")


def whole(model: Any, run: TrainedRun, task: Task, full: bool) -> Any:
    """The backbone of `model`, which was built from the run's checkpoint, in plain float32. Of a quantized
    one the weights that its bits stand for, or with `full` those they were made from. peft's own merge into 4
    bits would round once more, so bits are written out first and the adapter is added in float32."""
    merged, config, adapter = model.backbone, run.config, run.config.adapter
    settle(merged, CPU)
    if not full:
        frozen_weights.round_off(model, config)
    if adapter.quantize != "none":
        loaded = backbone.load(task.described, config.model, task.kind, config.optim.seed)
        plain = settle(loaded, CPU)
        if not full:
            _write_out_bits(adapters.plain(merged), plain)
        merged = plain
        if adapter.lora_rank:
            merged = adapters.add(plain, adapter, config.optim.seed)
            adapters.load(merged, run.checkpoint / "adapter")
    if adapter.lora_rank:
        merged = merged.merge_and_unload()
    return merged.eval()


def _write_out_bits(quantized: nn.Module, plain: nn.Module) -> None:
    """Put the weights that a quantized model stands for into a plain one."""
    from peft.utils.integrations import dequantize_bnb_weight

    count = 0
    for name, module in quantized.named_modules():
        weight: Any = getattr(module, "weight", None)
        if type(weight).__name__ not in ("Params4bit", "Int8Params") or ".modules_to_save." in name:
            continue
        if hasattr(module, "base_layer"):  # peft's layer shows the weight of the one inside it
            continue
        for wrapper in adapters.WRAPPERS:
            name = name.replace(wrapper, "")
        target: Any = plain.get_submodule(name).weight
        with torch.no_grad():
            target.copy_(dequantize_bnb_weight(weight, getattr(module, "state", None)))
        count += 1
    assert count, "a quantized model has quantized layers"
