"""Attention for bf16 on CPUs, made of blocked matrix products: the same function as SDPA, in less time.

torch's CPU flash kernel does not use the matrix unit (AMX) well at the head sizes of encoders: forward and
backward of 4,096 tokens (12 heads of 32, two cores) take 186, 203, 135, 167 ms at lengths 32, 128, 256, 512;
this takes 34, 42, 67, 110. Registered with transformers, so it serves every family that has no attention of
its own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models import attention_interface

NAME = "blocked_cpu"
# Scores handled at a time: 2**20 float32 numbers are 4 MiB, the L2 cache of two cores. Smaller blocks pay for
# the call of each product (2**17 doubles it), larger ones for memory traffic.
BLOCK_SCORES = 1 << 20
# Up to this length probabilities are kept for the backward pass. Beyond, they are computed again there and
# the forward pass is torch's: its kernel takes a third of the time of blocks, and nothing of the size
# heads * length**2 is kept.
KEPT_LENGTH = 256
MAX_LENGTH = 640  # at 768 torch's kernel has caught up (173 ms against 191)


class _BlockedAttention(torch.autograd.Function):
    """softmax(q k' * scaling + bias) v for bfloat16 inputs (batch, heads, length, head size) and a float32
    bias (batch, 1 or length, length).

    Scores and softmax are float32: bfloat16 scores would save 8-17 % of the time and make the error against a
    float32 reference 2-5 times that of SDPA. The products around them are bfloat16 with float32 sums.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float
    ) -> Tensor:
        batch, heads, length, size = ctx.shape = query.shape
        ctx.scaling = scaling
        if length > KEPT_LENGTH:
            ctx.save_for_backward(query, key, value, bias, None)
            mask = None if bias is None else bias[:, None].to(query.dtype)
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
        else:
            query, key, value = (tensor.reshape(-1, length, size) for tensor in (query, key, value))
            scores = _Scores(query, key, bias, scaling, heads)
            probabilities = torch.empty(batch * heads, length, length, dtype=torch.bfloat16)
            by_row = torch.empty_like(query)
            for part in scores.parts():
                scores.softmax(part, probabilities[part])
                torch.bmm(probabilities[part], value[part], out=by_row[part])
            ctx.save_for_backward(query, key, value, bias, probabilities)
            out = by_row.view(batch, heads, length, size)
        return out.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, bias, kept = ctx.saved_tensors
        batch, heads, length, size = ctx.shape
        query, key, value = (tensor.reshape(-1, length, size) for tensor in tensors)
        scores = _Scores(query, key, bias, ctx.scaling, heads)
        again = torch.empty(scores.block, length, length, dtype=torch.bfloat16)
        grad_scores = torch.empty_like(again)
        grad = grad_outputs[0].transpose(1, 2).reshape(-1, length, size)
        grads = [torch.empty_like(query) for _ in range(3)]  # of q, k, v
        for part in scores.parts():
            count = part.stop - part.start
            probability = scores.softmax(part, again[:count]) if kept is None else kept[part]
            score = grad_scores[:count]
            torch.bmm(probability.mT, grad[part], out=grads[2][part])
            torch.bmm(grad[part], value[part].mT, out=score)
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


class _Scores:
    """Attention probabilities, some rows at a time. A row is one head of one sequence; query and key are
    (rows, length, head size)."""

    def __init__(self, query: Tensor, key: Tensor, bias: Tensor | None, scaling: float, heads: int) -> None:
        self.rows, length, _ = query.shape
        self.block = min(self.rows, max(1, BLOCK_SCORES // (length * length)))
        self.query, self.key, self.scaling, self.bias, self.heads = query, key, scaling, bias, heads
        self.scores = torch.empty(self.block, length, length, dtype=torch.float32)

    def parts(self) -> list[slice]:
        return [slice(at, min(at + self.block, self.rows)) for at in range(0, self.rows, self.block)]

    def softmax(self, part: slice, out: Tensor) -> Tensor:
        """(rows of the part, length, length), written into `out`"""
        score = self.scores[: part.stop - part.start]
        torch.bmm(self.query[part].float().mul_(self.scaling), self.key[part].float().mT, out=score)
        if self.bias is not None:
            score.add_(self.bias[torch.arange(part.start, part.stop) // self.heads])
        torch._softmax(score, -1, False, out=score)
        return out.copy_(score)


def covers(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **words: Any) -> bool:
    """What is faster here than in torch; `words`: the others of transformers' attention interface."""
    return (
        query.device.type == "cpu"
        and (query.requires_grad or key.requires_grad or value.requires_grad)
        and query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.shape == key.shape == value.shape
        and words.get("dropout", 0.0) == 0.0
        and query.shape[2] <= MAX_LENGTH
        and (attention_mask is None or attention_mask.shape[1] == 1)
        and not any(words.get(name) is not None for name in ("position_bias", "cache", "softcap", "s_aux"))
    )


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
    covered = covers(query, key, value, attention_mask, dropout=dropout, **kwargs)
    if not covered or (causal and attention_mask is None):
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
    """Let `model` use it where it is faster. A family with an attention of its own (deberta) keeps that, and
    nothing else changes."""
    attention_interface.use(model, NAME, attention, attention_interface.mask)
