"""A template and a row's words -> the token ids of a prompt and of its completion.

The prompt is one text: the template with the row's words in it, as it is or as the user's turn of the model's
own chat template. The completion follows behind a blank, or as the assistant's turn, and its last token says
that the text ends. What may give way when both are too long are the pieces of named fields, the longest
first; the completion never is cut.
"""

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.data import text
from lib.data.text import Tokens

CHUNK = 128  # rows tokenized at once
# What never gives way (a question, say) is taken to be a multiple of this share of the room when the rest is
# shortened: so that questions of one context read the same of it, and it is computed once for them.
STEP = 1 / 32

Fields = Mapping[str, Sequence[str]]  # name -> pieces of text


@dataclass(frozen=True)
class Template:
    """Words with {names} where a row's fields stand; the pieces of a field stand one a line."""

    parts: list[tuple[str, str | None]]
    """(words, the field behind them)"""

    @staticmethod
    def parse(words: str, names: Sequence[str], where: str) -> "Template":
        """Raises ValueError for a name that rows do not have, and for a template without any."""
        allowed = f"{', '.join('{' + name + '}' for name in names)} (a brace itself is typed twice)"
        try:
            parsed = list(string.Formatter().parse(words))
        except ValueError as error:
            raise ValueError(f"{where}: {error}; allowed are {allowed}") from error
        for _, name, form, conversion in parsed:
            if name is not None and (name not in names or form or conversion):
                shown = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
                raise ValueError(f"{where}: unknown placeholder {{{shown}}}; allowed are {allowed}")
        if not any(name for _, name, _, _ in parsed):
            raise ValueError(
                f"{where}: no placeholder, so every row would read the same; allowed are {allowed}"
            )
        return Template([(literal, name) for literal, name, _, _ in parsed])

    def filled(self, fields: Fields) -> str:
        return "".join(
            literal + ("\n".join(fields.get(name, ())) if name else "") for literal, name in self.parts
        )


@dataclass(frozen=True)
class Asked:
    """What one row asks for."""

    fields: Fields
    completion: str | None
    """None: not known."""


@dataclass(frozen=True)
class Read:
    """What the model reads, and is to write."""

    prompt: Tokens
    completion: Tokens
    """Its last token ends the text; where no completion is known that is all of it."""
    lost: list[int]
    """Tokens that each piece of the fields that give way has lost."""
    excess: int = 0
    """Tokens beyond the room when nothing was left to give way."""


@dataclass(frozen=True)
class PromptReader:
    tokenizer: Any
    template: Template
    gives_way: tuple[str, ...]
    """Fields whose pieces are shortened when a prompt is too long."""
    room: Callable[[int], int]
    """Tokens of a completion -> most tokens of its prompt."""
    seq2seq: bool = False
    chat: bool = False

    def read(self, asked: Sequence[Asked], between: Callable[[], None] = lambda: None) -> list[Read]:
        """`between` runs now and then and may raise to stop."""
        found: list[Read] = []
        for first in range(0, len(asked), CHUNK):
            found += self._read(asked[first : first + CHUNK], between)
        return found

    def _read(self, asked: Sequence[Asked], between: Callable[[], None]) -> list[Read]:
        found: dict[int, Read] = {}
        lost = [[0] * len(self._pieces(one.fields)) for one in asked]
        left = dict(enumerate(asked))
        while left:
            pairs = self._tokens(list(left.values()), between)
            for (place, one), (prompt, completion) in zip(list(left.items()), pairs, strict=True):
                room = self.room(len(completion))
                excess = len(prompt) - room
                pieces = self._pieces(one.fields)
                if excess <= 0 or not any(pieces):
                    found[place] = Read(prompt, completion, lost[place], max(0, excess))
                    del left[place]
                else:
                    shorter, cut = self._shortened(pieces, len(prompt), room)
                    lost[place] = [before + now for before, now in zip(lost[place], cut, strict=True)]
                    left[place] = Asked(self._with(one.fields, shorter), one.completion)
        return [found[place] for place in range(len(asked))]

    def _tokens(self, asked: Sequence[Asked], between: Callable[[], None]) -> list[tuple[Tokens, Tokens]]:
        """(prompt, completion) of each."""
        texts = [self._texts(one) for one in asked]
        flat = [words for pair in texts for words in pair]
        tokens = iter(text.tokenize(self.tokenizer, flat, between, specials=self.chat))
        start, end = text.specials_of(self.tokenizer).start, [text.end_of(self.tokenizer)]
        start = [] if self.chat or self.seq2seq else start  # a chat template writes its own
        pairs = []
        for _, one in zip(texts, asked, strict=True):
            prompt, whole = next(tokens), next(tokens)
            completion = self._behind(prompt, whole, one)
            completion = self._ended(completion, end)
            prompt = np.concatenate([start, prompt, end if self.seq2seq else []])
            pairs.append((prompt.astype(np.int32), completion.astype(np.int32)))
        return pairs

    def _texts(self, one: Asked) -> tuple[str, str]:
        """The prompt, and the prompt with its completion; T5 writes that by itself."""
        words = self.template.filled(one.fields)
        if self.chat:
            return chat_texts(self.tokenizer, words, one.completion)
        if one.completion is None:
            return words, words
        behind = one.completion.strip()
        if self.seq2seq:
            return words, text.continuations(self.tokenizer, [behind])[0]
        return words, words + (behind if words[-1:].isspace() else f" {behind}")

    def _behind(self, prompt: Tokens, whole: Tokens, one: Asked) -> Tokens:
        """The completion's tokens, as the text in one piece has them; where a token reaches over the border,
        as they stand by themselves: what is written later follows the prompt's own tokens."""
        if one.completion is None or self.seq2seq:
            return whole if self.seq2seq and one.completion is not None else whole[:0]
        if len(whole) > len(prompt) and np.array_equal(whole[: len(prompt)], prompt):
            return whole[len(prompt) :]
        before, after = self._texts(one)
        (alone,) = text.tokenize(self.tokenizer, [after[len(before) :]], specials=self.chat)
        return alone

    def _ended(self, completion: Tokens, end: list[int]) -> Tokens:
        """With one end token, the last one. A chat template writes its own, and perhaps blanks behind it; it
        may write other signs of its own before the words."""
        if self.chat and len(completion):
            signs = np.isin(completion, text.ends_of(self.tokenizer))
            words = int(signs.argmin())  # the first that is no sign
            if signs[words:].any():
                return completion[: words + int(signs[words:].argmax()) + 1]
        return np.concatenate([completion, end])

    def _all_gives_way(self) -> bool:
        return all(name in self.gives_way for _, name in self.template.parts if name)

    def _pieces(self, fields: Fields) -> list[str]:
        return [piece for name in self.gives_way for piece in fields.get(name, ())]

    def _with(self, fields: Fields, pieces: Sequence[str]) -> Fields:
        rest = iter(pieces)
        return {
            name: [next(rest) for _ in fields[name]] if name in self.gives_way else fields[name]
            for name in [*self.gives_way, *(name for name in fields if name not in self.gives_way)]
            if name in fields
        }

    def _shortened(self, pieces: Sequence[str], length: int, room: int) -> tuple[list[str], list[int]]:
        """The pieces of a prompt of that length without their ends, so that it fits: the longest give way
        first, and those that do keep equally many; and the tokens that each lost."""
        sizes = [len(ids) for ids in text.tokenize(self.tokenizer, list(pieces))]
        rest = length - sum(sizes)
        if not self._all_gives_way():
            step = max(1, int(STEP * room))
            rest = math.ceil(rest / step) * step
        kept = level(sizes, max(0, room - rest))
        cut = [
            text.shortened(self.tokenizer, piece, size - keep)
            for piece, size, keep in zip(pieces, sizes, kept, strict=True)
        ]
        if all(words == piece for piece, (words, _) in zip(pieces, cut, strict=True)):
            return [""] * len(pieces), sizes  # single tokens that text.shortened cannot part
        return [words for words, _ in cut], [lost for _, lost in cut]


def level(sizes: Sequence[int], total: int) -> list[int]:
    """At most `total` in all, the smallest untouched, the others down to one level."""
    kept, left = [0] * len(sizes), total
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    for place, piece in enumerate(order):
        kept[piece] = min(sizes[piece], left // (len(order) - place))
        left -= kept[piece]
    return kept


def letters_only(words: str) -> str:
    """Only a-z, A-Z, 0-9 and white space."""
    return re.sub(r"[^a-zA-Z0-9\s]", "", words)


def chat_texts(tokenizer: Any, words: str, completion: str | None) -> tuple[str, str]:
    """The user's turn with what asks for an answer, and both turns. Raises ValueError when the template does
    not write the one as the beginning of the other, or cannot be filled."""
    turn = {"role": "user", "content": _harmless(tokenizer, words)}
    answer = {"role": "assistant", "content": _harmless(tokenizer, (completion or "").strip())}
    render = tokenizer.apply_chat_template
    try:
        before: str = render([turn], tokenize=False, add_generation_prompt=True)
        after: str = before if completion is None else render([turn, answer], tokenize=False)
    except Exception as error:  # a template is somebody else's program, and may stumble over anything
        raise ValueError(f"the model's chat template refuses a row: {error}; leave --chat out") from error
    if turn["content"].strip() not in before:
        raise ValueError(f"the model's chat template changes what is asked: {before!r:.80}; leave --chat out")
    if completion is None:
        return before, before
    if not after.startswith(before) or len(after) == len(before):
        parts = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
        raise ValueError(
            "the model's chat template does not write an answer behind what asks for it: "
            f"{before[max(0, parts - 20) : parts + 20]!r} becomes {after[max(0, parts - 20) : parts + 20]!r} "
            f"at character {parts}; leave --chat out"
        )
    if answer["content"] not in after[len(before) :]:
        raise ValueError(
            f"the model's chat template changes an answer: {answer['content'][:60]!r} becomes "
            f"{after[len(before) :][:80]!r}; leave --chat out"
        )
    return before, after


def vanished(fields: Fields, completion: str | None) -> str | None:
    """What letters_only would leave nothing of: a field's name, or the text; None where something is left."""
    for name, pieces in fields.items():
        if any(piece.strip() for piece in pieces) and not any(letters_only(p).strip() for p in pieces):
            return name
    return "text" if completion is not None and not letters_only(completion).strip() else None


def _harmless(tokenizer: Any, words: str) -> str:
    """A row's words in which nothing is read as one of the template's own signs."""
    for sign in sorted(text.signs_of(tokenizer), key=len, reverse=True):  # one may stand in another
        words = words.replace(sign, f"{sign[0]} {sign[1:]}" if len(sign) > 1 else " ")
    return words
