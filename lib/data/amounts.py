"""What a micro-batch asks of a model, whoever computes it and how. Padding, fillers and what is computed a
second time (a prompt that several rows share, activations that were not kept) are not in it.
"""

from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(frozen=True)
class Amounts:
    """How much of each there is; or what one of each takes (lib.models.flops)."""

    tokens: float = 0
    """Real tokens that the model reads; of T5 its encoder."""
    attended: float = 0
    """How many tokens each of them looks at, summed."""
    scored: float = 0
    """Vectors that the output layer or a head is given."""
    decoded: float = 0
    """Real tokens that T5's decoder reads."""
    looked_back: float = 0
    """How many of its own tokens each of those looks at, summed."""
    crossed: float = 0
    """How many of the encoder's tokens each of those looks at, summed."""

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(*(mine + its for mine, its in zip(self._numbers(), other._numbers(), strict=True)))

    def beside_texts(self, texts: np.ndarray, sources: np.ndarray) -> "Amounts":
        """With these of T5's encoder, those of its decoder: the lengths of what it reads, and of the sources
        that it looks at meanwhile. Each of its vectors is scored."""
        size = int(texts.sum())
        back, across = attended(texts, causal=True), int((texts * sources).sum())
        return replace(self, scored=size, decoded=size, looked_back=back, crossed=across)

    def at(self, each: "Amounts") -> float:
        """What all of them take together, at so much each."""
        return sum(mine * its for mine, its in zip(self._numbers(), each._numbers(), strict=True))

    @property
    def real_tokens(self) -> int:
        return int(self.tokens + self.decoded)

    def _numbers(self) -> list[float]:
        return [getattr(self, field.name) for field in fields(self)]


def attended(lengths: np.ndarray, causal: bool) -> int:
    """How many tokens each token of sequences of these lengths looks at, summed: all of its sequence, or
    (causal) itself and those before it, n (n + 1) / 2. Half of n * n, as others count, leaves out half of the
    diagonal, which matters to short options and texts."""
    tokens, squares = int(lengths.sum()), int((lengths.astype(np.int64) ** 2).sum())
    return (squares + tokens) // 2 if causal else squares
