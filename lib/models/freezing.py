"""Which parts of a backbone stay as they are.

`bottom` is what a token passes first: the input embeddings with their projection, norm and relative-position
tables, and the first floor(L/2) blocks of each stack.
"""

from typing import Any

from torch import nn

# Modules beside the blocks that come before them, by the names transformers gives them. encoder.LayerNorm is
# deberta-v2's norm of its relative-position table; conv is its convolution after the first block.
BEFORE_BLOCKS = (
    "embeddings",
    "embeddings_project",
    "embed_tokens",
    "embed_in",
    "wte",
    "wpe",
    "shared",
    "encoder.rel_embeddings",
    "encoder.LayerNorm",
    "encoder.conv",
    "encoder.embed_tokens",
    "decoder.embed_tokens",
)


def stacks(backbone: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The lists of blocks (two in an encoder-decoder). Raises ValueError where blocks share their weights."""
    config: Any = backbone.config
    counts = {
        getattr(config, key, None)
        for key in ("num_hidden_layers", "n_layers", "num_layers", "num_decoder_layers")
    }
    stacks = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) in counts
        and any(True for _ in module.parameters())
    ]
    outer = [
        (name, module)
        for name, module in stacks
        if not any(name.startswith(f"{other}.") for other, _ in stacks)
    ]
    if not outer or getattr(config, "num_hidden_groups", None) is not None:  # ALBERT: groups of shared blocks
        raise ValueError(
            f"--freeze bottom, --lora-layers: the blocks of {config.model_type} share their weights, so "
            "there is no lower half; use --freeze none or --freeze all"
        )
    return outer


def freeze(backbone: nn.Module, what: str) -> list[nn.Module]:
    """Freeze `none`, `bottom` or `all`; returns the frozen modules, which are to run without dropout."""
    if what == "none":
        return []
    if what == "all":
        frozen = [backbone]
    else:
        inner = getattr(backbone, "base_model", backbone)  # without a language model's output layer
        frozen = [module for name, module in inner.named_modules() if name in BEFORE_BLOCKS]
        frozen += [block for _, blocks in stacks(inner) for block in list(blocks)[: len(blocks) // 2]]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def frozen_names(model: nn.Module) -> list[str]:
    """Frozen parameters, runs of like names written once ("encoder.layer.0.* (16)")."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            parts = name.split(".")
            depth = next(
                (place + 1 for place, part in enumerate(parts) if part.isdigit()), min(2, len(parts) - 1)
            )
            key = ".".join(parts[:depth]) + ".*"
            counts[key] = counts.get(key, 0) + 1
    return [f"{key} ({count})" for key, count in counts.items()]
