"""How attention of this project gets into models of transformers."""

from collections.abc import Callable
from typing import Any


def use(model: Any, name: str, attention: Callable[..., Any], mask: Callable[..., Any]) -> None:
    """Let every layer of `model` without an attention of its own call `attention`, with masks from `mask`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)
    model.set_attn_implementation(name)
