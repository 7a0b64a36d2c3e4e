"""Model FLOPs: what a step's rows ask of the model, whatever the hardware makes of it. Counted, not measured.

A matrix of M numbers takes 2M FLOPs a vector forward, and in the backward pass 2M for the gradient of its
input, where something below trains, and 2M for its own, where it trains itself: 6M when all of a model does
(Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1). The two products of attention take
2 * 2 * width for a token and one that it looks at, and twice that backward (Chowdhery et al. 2022,
https://arxiv.org/abs/2204.02311, appendix B). What is computed again in the backward pass never counts.

Left out: look-ups, biases, norms, softmax, LoRA of an embedding, and of deberta the convolution and what is
made of its tables of positions, which is the same for all rows. Local attention (ModernBERT) is counted as if
it saw all of a sequence.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.data.amounts import Amounts
from lib.models import on_paper
from lib.models.adapters import is_linear
from lib.process.world import World


class Stack(NamedTuple):
    """What grows with the tokens of a stack of blocks, and with those that they look at, in Amounts."""

    tokens: str
    attended: str


STACKS = Stack("tokens", "attended"), Stack("decoded", "looked_back")  # the second is T5's decoder
ACROSS = "EncDecAttention"  # T5's name for what looks from its decoder at its encoder's tokens
# What follows attention in the same module, by the names transformers gives it: that this trains asks for no
# gradient of attention.
BEHIND = {"o_proj", "out_lin", "c_proj", "dense", "o", "Wo"}


def of_each(model: Any, inputs: Any, world: World, paper: bool = False) -> Amounts:
    """FLOPs of one of each of the amounts, forward and backward, as the model is frozen now. One forward pass
    of `inputs`, any micro-batch's, is watched for which layers it calls and what needs a gradient there; on
    `paper` where the weights have no place yet."""
    watch, training = _Watch(model, inputs.amounts.scored), model.training
    model.eval()  # nothing is drawn
    try:
        if paper:
            with on_paper.passed(model, inputs):
                pass
        else:
            with world.autocast(), torch.enable_grad():
                model(inputs)
    finally:
        watch.end()
        model.train(training)
    return sum(watch.each, Amounts())


class _Watch:
    """Hooks on everything that takes matrix products."""

    def __init__(self, model: Any, scored: float) -> None:
        self.scored, self.per_pair = scored, _per_pair(model)
        self.stack: int | None = None  # that is running; None: what stands on top of them
        self.tokens: tuple[tuple[int, ...], ...] = ()  # shapes that those of its present call come in
        self.each = [Amounts() for _ in range(len(STACKS) + 1)]  # of the stacks, and of what stands on top
        self.hooks: list[Any] = []
        for number, stack in enumerate(model.called()):
            self._before(stack, partial(self._begin, number))
            self.hooks.append(stack.register_forward_hook(self._leave))
        for name, module in model.named_modules():
            if is_linear(module):
                self._before(module, partial(self._linear, name))
            elif _attends(module) and not any(map(_attends, list(module.modules())[1:])):  # the innermost
                self._before(module, partial(self._attention, name))

    def _before(self, module: nn.Module, hook: Any) -> None:
        self.hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def end(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _begin(self, number: int, stack: nn.Module, args: Any, words: dict[str, Any]) -> None:
        ids, embedded = words.get("input_ids"), words.get("inputs_embeds")
        shape = ids.shape if ids is not None else embedded.shape[:2]  # type: ignore[union-attr]
        self.tokens = tuple(shape), (shape.numel(),)
        self.stack, self.each[number] = number, Amounts()  # every call of a stack says the same

    def _leave(self, *call: Any) -> None:
        self.stack = None

    def _linear(self, name: str, layer: Any, args: tuple[Tensor], words: dict[str, Any]) -> None:
        vectors = args[0].shape[:-1]
        flops = 2 * _size(layer) * (1 + args[0].requires_grad + layer.weight.requires_grad)
        if self.stack is None:
            self.each[-1] += Amounts(scored=flops * vectors.numel() / self.scored)
        elif f"{ACROSS}.k" in name or f"{ACROSS}.v" in name:
            # of the encoder's tokens, once for each, however many options are read beside them
            self.each[self.stack] += Amounts(tokens=flops)
        elif tuple(vectors) in self.tokens:  # else a pooler, which nobody reads, or of a table of positions
            self.each[self.stack] += Amounts(**{STACKS[self.stack].tokens: flops})

    def _attention(self, name: str, module: nn.Module, args: Any, words: dict[str, Any]) -> None:
        given = any(isinstance(one, Tensor) and one.requires_grad for one in (*args, *words.values()))
        own = any(
            weight.requires_grad and not BEHIND.intersection(part.split("."))
            for part, weight in module.named_parameters()
        )
        assert self.stack is not None
        kind = "crossed" if ACROSS in name else STACKS[self.stack].attended
        self.each[self.stack] += Amounts(**{kind: self.per_pair * (3 if given or own else 1)})


def _attends(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__


def _size(layer: Any) -> int:
    """Numbers of its matrix, also where they are packed into few bits."""
    return layer.in_features * layer.out_features if isinstance(layer, nn.Linear) else layer.weight.numel()


def _per_pair(model: Any) -> int:
    """FLOPs of a token and one that it looks at, in one layer, forward. Deberta compares each with the
    other's relative position besides."""
    config = model.backbone.config
    size = getattr(config, "head_dim", None)
    width = size * config.num_attention_heads if size else getattr(config, "hidden_size", None) or config.dim
    relative = getattr(config, "relative_attention", False)
    return 2 * width * (2 + (len(config.pos_att_type or ()) if relative else 0))
