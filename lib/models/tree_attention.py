"""Attention over sequences that share what they begin with (lib.data.tree): that beginning is plain causal
attention, without a mask and with half of the arithmetic; only what stands behind it needs the tree's mask.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lib.models import attention_interface, cpu_attention

NAME = "trees"
KEYWORD = "shared_beginning"  # how many tokens each sequence of a group begins with, all of them shared


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface; what is no tree goes to the kernel that is best for it."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    begin = kwargs.pop(KEYWORD, 0)
    if not begin or cpu_attention.covers(query, key, value, attention_mask, **kwargs):
        return cpu_attention.attention(module, query, key, value, attention_mask, **kwargs)
    assert attention_mask is not None
    kwargs.pop("is_causal", None)
    first, rest = slice(0, begin), slice(begin, None)
    parts = [
        sdpa_attention_forward(
            module, query[:, :, first], key[:, :, first], value[:, :, first], None, is_causal=True, **kwargs
        ),
        sdpa_attention_forward(
            module, query[:, :, rest], key, value, attention_mask[:, :, rest], is_causal=False, **kwargs
        ),
    ]
    return torch.cat([out for out, _ in parts], dim=1), None


def mask(**words: Any) -> Tensor | None:
    """transformers' mask interface: padding stands on the right, where no token of a causal model looks."""
    return attention_interface.mask(**words | {"attention_mask": None})


def enable(model: Any) -> None:
    """Let a decoder of transformers use it."""
    attention_interface.use(model, NAME, attention, mask)
