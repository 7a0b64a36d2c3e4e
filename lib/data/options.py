"""A question with its options -> token ids, as each kind of model reads them. The context gives way to the
length limit (its beginning is kept, the same for all options); question and options are never cut here.

Encoders read `START context SEPARATOR question option SEPARATOR`; T5's encoder reads `question context
SEPARATOR`, its decoder an option. There each piece is tokenized by itself: between pieces stands a special
token or a blank, which is where these tokenizers part words anyway. Decoders read one running text, whose
tokens may span the places where pieces meet: it is tokenized whole for each option. What the tokens of all
options begin with, as far as they are also the tokens of context and question alone, is shared; the rest
belongs to each option.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lib.data import text
from lib.data.text import Specials, Tokens

CHUNK = 64  # questions tokenized at once: whole texts of a decoder take up to some 10,000 tokens a question

Kind = Literal["encoder", "causal", "seq2seq"]


@dataclass(frozen=True)
class Asked:
    context: list[str]
    question: str
    """With the words around it that the kind of model expects."""
    options: list[str]


@dataclass(frozen=True)
class Read:
    """What the model reads: `sequences` as the kind of model takes them."""

    sequences: list[Tokens]
    needed: int
    """Tokens of the longest sequence; more than the limit where there is no context left to cut."""
    cut: int = 0
    """Tokens that the context lost."""


@dataclass(frozen=True)
class OptionReader:
    tokenizer: Any
    kind: Kind
    max_length: int

    def read(self, asked: list[Asked], between: Callable[[], None] = lambda: None) -> list[Read]:
        """`between` runs now and then and may raise to stop."""
        read = self._wholes if self.kind == "causal" else self._pieces
        found: list[Read] = []
        for first in range(0, len(asked), CHUNK):
            found += read(asked[first : first + CHUNK], between)
        return found

    @property
    def _specials(self) -> Specials:
        return text.specials_of(self.tokenizer)

    def _pieces(self, asked: list[Asked], between: Callable[[], None]) -> Iterator[Read]:
        texts: list[str] = []
        for one in asked:
            texts += [*one.context, one.question, *text.continuations(self.tokenizer, one.options)]
        tokens = iter(text.tokenize(self.tokenizer, texts, between))
        for one in asked:
            context = text.join_turns([next(tokens) for _ in one.context], [])
            question, *options = [next(tokens) for _ in range(1 + len(one.options))]
            yield self._framed(context, question, options)

    def _framed(self, whole: Tokens, question: Tokens, options: list[Tokens]) -> Read:
        start, separator = (
            np.array(ids, np.int32) for ids in (self._specials.start, self._specials.separator)
        )
        longest = max(map(len, options))
        if self.kind == "encoder":
            needed = len(start) + len(separator) * (2 if len(whole) else 1) + len(question) + longest
        else:  # T5's options have a sequence of their own, behind a start token
            needed = max(len(separator) + len(question), longest + 1)
        frame = needed if self.kind == "encoder" else len(separator) + len(question)
        context = text.beginning(whole, self.max_length - frame)
        if self.kind == "encoder":
            before = [start, *([context, separator] if len(whole) else []), question]
            sequences = [np.concatenate([*before, option, separator]) for option in options]
        else:
            sequences = [np.concatenate([question, context, separator]), *options]
        return Read(sequences, needed, len(whole) - len(context))

    def _wholes(self, asked: list[Asked], between: Callable[[], None]) -> list[Read]:
        """A context is cut by as many tokens as the longest text has too many; what is left is tokenized
        anew, until it fits."""
        found: dict[int, Read] = {}
        cut, left = [0] * len(asked), dict(enumerate(asked))
        while left:
            texts = [
                "\n".join(one.context) + one.question + option
                for one in left.values()
                for option in ("", *(f" {option}" for option in one.options))
            ]
            tokens = iter(text.tokenize(self.tokenizer, texts, between))
            for place, one in list(left.items()):
                prefix, *wholes = [next(tokens) for _ in range(1 + len(one.options))]
                needed = len(self._specials.start) + max(map(len, wholes))
                if needed <= self.max_length or not any(one.context):
                    found[place] = Read(self._shared(prefix, wholes), needed, cut[place])
                    del left[place]
                else:
                    shorter, lost = text.shortened(
                        self.tokenizer, "\n".join(one.context), needed - self.max_length
                    )
                    cut[place] += lost
                    left[place] = replace(one, context=[shorter])
        return [found[place] for place in range(len(asked))]

    def _shared(self, prefix: Tokens, wholes: list[Tokens]) -> list[Tokens]:
        """What all begin with, behind the start token, and the rest of each, at least one token."""
        size = len(prefix)
        for whole in wholes:
            size = min(size, len(whole) - 1)
            different = np.flatnonzero(prefix[:size] != whole[:size])
            size = int(different[0]) if len(different) else size
        start = np.array(self._specials.start, np.int32)
        return [np.concatenate([start, prefix[:size]]), *(whole[size:] for whole in wholes)]
