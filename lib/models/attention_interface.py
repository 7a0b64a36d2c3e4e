"""How attention of this project gets into models of transformers."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def use(model: Any, name: str, attention: Callable[..., Any], mask: Callable[..., Any]) -> None:
    """Let every layer of `model` without an attention of its own call `attention`, with masks from `mask`."""
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)
    model.set_attn_implementation(name)
    if model.config._attn_implementation == name:
        for part in model.modules():  # transformers 5.17 forgets both halves of a T5
            if isinstance(part, PreTrainedModel) and part.config._attn_implementation != name:
                part.set_attn_implementation(name)


def mask(**words: Any) -> Tensor | None:
    """transformers' mask interface: SDPA's mask, and where only padding is hidden one line of it for all
    queries, (batch, 1, 1, length). Nothing looks at a mask's numbers, for which a GPU would be waited for: a
    padding mask is only given where something is padded."""
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    if words.get("attention_mask") is not None:
        words["allow_is_bidirectional_skip"] = False
    full = sdpa_mask(**words)
    padding_only = words["mask_function"] is bidirectional_mask_function
    return full[:, :, :1] if full is not None and padding_only else full
