"""What a training step must compute, by shapes alone, so that it counts for every arm of a benchmark
(lib.models.flops counts what a run's own model is asked for)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Work:
    """Sequences, and the model that reads them forward and back."""

    weights: int
    """Numbers in the linear layers, without an output layer over words."""
    layers: int
    hidden: int
    causal: bool
    frozen: bool
    """Gradients go through the weights, but none is taken of them (LoRA, whose own products are left out)."""
    lengths: np.ndarray  # (sequences,) tokens that are real
    words: int = 0
    """Of an output layer."""
    num_logits: int = 0
    """Places where one is needed: those that carry loss."""


def flops_of(work: Work) -> float:
    """FLOPs that cannot be left out: 6 a weight and token (4 where the weights are frozen), and of attention
    12 x layers x hidden x length a token, half of it where no token looks to its right (Kaplan et al. 2020,
    https://arxiv.org/abs/2001.08361; Chowdhery et al. 2022, appendix B, https://arxiv.org/abs/2204.02311).
    Padding, logits without loss and what is computed twice count nothing."""
    lengths = work.lengths.astype(np.float64)
    each = 4 if work.frozen else 6
    linear = work.weights * lengths.sum() + work.hidden * work.words * work.num_logits
    attention = 12 * work.layers * work.hidden * (lengths**2).sum() / (2 if work.causal else 1)
    return float(each * linear + attention)
