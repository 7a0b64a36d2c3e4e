"""Attention for bf16 on CPUs, made of blocked matrix products: the same function as SDPA, in less time.

torch's CPU flash kernel does not use the matrix unit (AMX) well at the head sizes of encoders: forward and
backward of 4,096 tokens (12 heads of 32, two cores) take 152, 176, 139, 201 ms at lengths 32, 128, 256, 512;
this takes 25, 38, 73, 141. Registered with transformers, so it serves every family that has no attention of
its own.
"""

from typing import Any

import torch
from torch import Tensor, nn

NAME = "blocked_cpu"
# Scores handled at a time: 2**20 float32 numbers are 4 MiB, the L2 cache of two cores. Smaller blocks pay for
# the call of each product (2**17 doubles it), larger ones for memory traffic.
BLOCK_SCORES = 1 << 20
# Probabilities are kept for the backward pass (2 * heads * length**2 bytes a sequence and layer; computing
# them again takes 30-54 % more time). Beyond this length that is too much memory, and the flash kernel
# catches up.
MAX_LENGTH = 1024


class _BlockedAttention(torch.autograd.Function):
    """softmax(q k' * scaling + bias) v for bfloat16 inputs (batch, heads, length, head size).

    Scores and softmax are float32: bfloat16 scores would save 8-17 % of the time and make the error against a
    float32 reference 2-5 times that of SDPA. The products around them are bfloat16 with float32 sums.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float
    ) -> Tensor:
        batch, heads, length, size = query.shape
        rows = batch * heads
        block = min(rows, max(1, BLOCK_SCORES // (length * length)))
        scaled = (query.float() * scaling).reshape(rows, length, size)
        key, value = key.reshape(rows, length, size), value.reshape(rows, length, size)
        key_t = key.float().mT
        probabilities = torch.empty(rows, length, length, dtype=torch.bfloat16)
        scores = torch.empty(block, length, length, dtype=torch.float32)
        out = torch.empty(rows, length, size, dtype=torch.bfloat16)
        sequence = torch.arange(batch).repeat_interleave(heads)  # (rows,) whose mask a row needs
        for begin in range(0, rows, block):
            part = slice(begin, min(begin + block, rows))
            score = scores[: part.stop - begin]
            torch.bmm(scaled[part], key_t[part], out=score)
            if bias is not None:
                score.add_(bias[sequence[part]])
            torch._softmax(score, -1, False, out=score)
            probabilities[part].copy_(score)
            torch.bmm(probabilities[part], value[part], out=out[part])
        ctx.save_for_backward(query, key, value, probabilities)
        ctx.scaling, ctx.block = scaling, block
        return out.view(batch, heads, length, size).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, probabilities = ctx.saved_tensors
        batch, heads, length, size = query.shape
        rows = batch * heads
        query = query.reshape(rows, length, size)
        grad = grad_outputs[0].transpose(1, 2).reshape(rows, length, size)
        grads = [torch.empty(rows, length, size, dtype=torch.bfloat16) for _ in range(3)]  # of q, k, v
        scores = torch.empty(ctx.block, length, length, dtype=torch.bfloat16)
        for begin in range(0, rows, ctx.block):
            part = slice(begin, min(begin + ctx.block, rows))
            score, probability, g = scores[: part.stop - begin], probabilities[part], grad[part]
            torch.bmm(probability.mT, g, out=grads[2][part])
            torch.bmm(g, value[part].mT, out=score)
            torch.ops.aten._softmax_backward_data.out(
                score, probability, -1, torch.bfloat16, grad_input=score
            )
            torch.bmm(score, key[part], out=grads[0][part])
            torch.bmm(score.mT, query[part], out=grads[1][part])
        results: list[Tensor | None] = []
        for tensor, factor in zip(grads, (ctx.scaling, ctx.scaling, 1.0), strict=True):
            # scaled while it is laid out as (batch, length, heads, size): the projections then copy nothing
            result = torch.empty(batch, length, heads, size, dtype=torch.bfloat16)
            torch.mul(tensor.view(batch, heads, length, size).transpose(1, 2), factor, out=result)
            results.append(result.transpose(1, 2))
        return (*results, None, None)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface: bidirectional bf16 self-attention without dropout that will be
    differentiated; all else goes to SDPA. Forward alone, torch's kernel is the faster one: 6, 8, 11, 15 ms at
    lengths 32, 128, 256, 512 against 8, 16, 24, 60."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    covered = (
        (query.requires_grad or key.requires_grad or value.requires_grad)
        and query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.shape == key.shape == value.shape
        and dropout == 0.0
        and query.shape[2] <= MAX_LENGTH
        and not (causal and attention_mask is None)
        and (attention_mask is None or attention_mask.shape[1] == 1)
        and not any(kwargs.get(name) is not None for name in ("position_bias", "cache", "softcap", "s_aux"))
    )
    if not covered:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
    bias = None
    if attention_mask is not None:  # (batch, 1, 1 or length, length), True or 0 where one may look
        bias = attention_mask[:, 0].expand(query.shape[0], -1, -1)
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape).masked_fill_(~bias, torch.finfo(torch.float32).min)
        bias = bias.float()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _BlockedAttention.apply(query, key, value, bias, scale), None  # type: ignore[no-untyped-call]


def enable(model: Any) -> None:
    """Let `model` use it. A family with an attention of its own (deberta) keeps that, and nothing else
    changes."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
