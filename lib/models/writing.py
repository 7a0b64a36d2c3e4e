"""Language models write: a token at a time, with keys and values of what stands before kept.

A text is a function of its prompt alone. Numbers of a row differ in their last bits with the rows that are
computed beside it, and where two tokens are nearly equally likely that could turn one into the other; so
where the best two come close, the token is the one that a forward pass of this row alone, with nothing kept,
says. All other tokens are the same either way. In bf16 nearly every text of 12 tokens would have such a
place, so texts are written in float32, whatever the precision of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.base.exits import RepeatsError
from lib.models import decoding
from lib.models.adapters import has_int8, in_float32, plain
from lib.models.language import LanguageModel

# How near the best two logits may come before a row is looked at alone, as a share of the largest of the
# row's logits: this many rounding errors of float32 times the root of hidden size and layers, as errors of
# long sums grow (Higham & Mary 2019), and no less than LEAST. Differences of the five best logits in batches
# of 1, 3 and 8 were at most 1.2e-6 of that from those of the row alone (a T5, a GPT-NeoX and Llamas of hidden
# 384 to 768 and 4 to 16 layers; 8 rows, tokens 1, 6 and 24), and 1.4e-5, where 5.3e-5 is allowed, with
# weights five times too large.
CLOSE = 4.0
LEAST = 3e-5
NUCLEUS = 1e-5  # how near to its border a word's membership in the nucleus counts as open


@dataclass(frozen=True)
class How:
    """How texts are written."""

    max_new_tokens: int
    ends: tuple[int, ...]
    """Tokens that end a text."""
    pad: int
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass
class Written:
    """One text."""

    ids: list[int] = field(default_factory=list)
    """The end token included, if it came."""
    ended: bool = False
    again: bool = False
    """Some of its tokens were computed a second time, alone."""


def write(
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    how: How,
    seeds: Sequence[int],
    between: Callable[[], None] = lambda: None,
) -> list[Written]:
    """The texts behind the prompts; `seeds`: of each row's draws; `between` runs before each token and may
    raise to stop. Raises RepeatsError for a model whose outputs are no numbers."""
    # products in 8 bits look at all rows of a batch to choose what they keep whole: no two together
    size = 1 if has_int8(model.backbone) else max(1, len(prompts))
    texts: list[Written] = []
    with (
        torch.inference_mode(),
        in_float32(model.backbone, model.device),
        decoding.installed(model),
    ):
        for begin in range(0, len(prompts), size):
            piece = slice(begin, begin + size)
            texts += _write(model, prompts[piece], how, seeds[piece], between)
    return texts


def _write(
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    how: How,
    seeds: Sequence[int],
    between: Callable[[], None],
) -> list[Written]:
    """The texts of one batch."""
    texts, going = [Written() for _ in prompts], list(range(len(prompts)))
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    state, close = decoding.begin(model, prompts, how.pad, how.max_new_tokens), closeness(model)
    for left in reversed(range(how.max_new_tokens)):
        between()
        logits = state.logits().float()  # (rows that go on, words)
        noise = _noise(logits, [draws[row] for row in going]) if how.temperature else None
        tokens, near = _chosen(logits, noise, how, close)
        for line in near:
            text, prompt = texts[going[line]], prompts[going[line]]
            alone = state.alone(prompt, text.ids).float()
            (tokens[line],), _ = _chosen(alone, None if noise is None else noise[line : line + 1], how, close)
            text.again = True
        for row, token in zip(going, tokens, strict=True):
            texts[row].ids.append(token)
            texts[row].ended = token in how.ends
        kept = [line for line, row in enumerate(going) if not texts[row].ended]
        if not kept or not left:
            break
        going = [going[line] for line in kept]
        state.go_on(kept, [tokens[line] for line in kept])
    return texts


def closeness(model: LanguageModel) -> float:
    """How near two logits may come, as a share of the largest."""
    config: Any = plain(model.backbone).config
    terms = config.hidden_size * config.num_hidden_layers
    return max(LEAST, CLOSE * torch.finfo(torch.float32).eps * terms**0.5)


def _noise(logits: Tensor, draws: list[torch.Generator]) -> Tensor:
    """(rows, words) Gumbel noise: where logits / temperature and it are largest together, is a draw from
    their softmax (Gumbel 1954)"""
    size = logits.shape[1]
    uniform = torch.stack([torch.rand(size, generator=draw, dtype=torch.float64) for draw in draws])
    return -torch.log(-torch.log(uniform.clamp_min(1e-300))).float().to(logits.device)


def _chosen(logits: Tensor, noise: Tensor | None, how: How, close: float) -> tuple[list[int], list[int]]:
    """The token of each row of (rows, words), and the rows where another came close."""
    scale = logits.abs().amax(1)
    compared, open_to = logits, torch.full_like(scale, -torch.inf)
    if noise is not None:
        scaled = logits / how.temperature
        compared, scale = scaled + noise, scale / how.temperature
        if how.top_p < 1:  # words outside of the nucleus (Holtzman 2019) are never the largest
            ordered, places = scaled.sort(dim=1, descending=True)
            probabilities = ordered.softmax(1)
            before = (probabilities.cumsum(1) - probabilities).gather(1, places.argsort(1))  # likelier ones'
            border = (before - how.top_p).abs() < NUCLEUS
            open_to = compared.masked_fill(~border, -torch.inf).amax(1)
            compared = compared.masked_fill(before >= how.top_p, -torch.inf)
    best = compared.topk(2, dim=1)
    if not bool(best.values[:, 0].isfinite().all()):  # NaN counts as the largest
        raise RepeatsError(
            "the model's outputs are no finite numbers, so it can write nothing: its weights are broken; a "
            "lower --lr or --precision fp32 helps in training"
        )
    rival = torch.maximum(best.values[:, 1], open_to)
    near = best.values[:, 0] - rival < close * scale
    return best.indices[:, 0].tolist(), near.nonzero()[:, 0].tolist()
