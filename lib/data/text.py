"""Words -> token ids under a token budget. Nothing is cut without being counted.

A sequence is `[CLS] context [SEP] text [SEP]`, turns inside a part joined by `[SEP]` too. When it is too long
the context gives way first (its end is kept, at least MIN_CONTEXT tokens of it); then the text loses its end.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

MIN_CONTEXT = 16  # tokens of context that stay, however long the text is
CHUNK = 256  # texts tokenized at once; between two chunks a stop request is seen

# The day for chat templates that write one (Llama 3's do; this is the one it takes where it knows none): what
# a model reads is no matter of the day.
TODAY = datetime(2024, 7, 26)
CODES = [f"%{code}" for code in "aAdbBmyYHIpMSjFTDxXc"]

Tokens = np.ndarray  # (length,) int32


@dataclass(frozen=True)
class Budgeted:
    """One encoded sequence and how many tokens it lost."""

    ids: Tokens
    context_cut: int
    text_cut: int


@dataclass(frozen=True)
class Specials:
    """The ids that frame a sequence; empty where a tokenizer has none."""

    start: list[int]
    separator: list[int]
    pad: int


def prepare_tokenizer(tokenizer: Any) -> Any:
    """Switch off what a tokenizer file may have baked in: padding, truncation, reading "[SEP]" in a row's
    text as the special token, and a date that changes."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True
    written = tokenizer.chat_template  # a template, some by name, or none
    if isinstance(written, dict):
        tokenizer.chat_template = {name: _of_one_day(template) for name, template in written.items()}
    elif written:
        tokenizer.chat_template = _of_one_day(written)
    return tokenizer


def _of_one_day(template: str) -> str:
    """A chat template that says it is TODAY."""
    if "strftime_now" not in template or template.startswith("{% macro strftime_now"):
        return template
    filters = "".join(f" | replace('{code}', '{TODAY.strftime(code)}')" for code in CODES)
    # the empty text keeps a line break that the template may begin with
    return f"{{% macro strftime_now(form) %}}{{{{ form{filters} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"


def specials_of(tokenizer: Any) -> Specials:
    """The framing tokens. Raises ValueError for a tokenizer with no separator at all."""
    start = next((i for i in (tokenizer.cls_token_id, tokenizer.bos_token_id) if i is not None), None)
    separator = next((i for i in (tokenizer.sep_token_id, tokenizer.eos_token_id) if i is not None), None)
    if separator is None:
        raise ValueError("the tokenizer has neither a separator nor an end token; use another --model")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else separator
    return Specials([] if start is None else [start], [separator], pad)


def end_of(tokenizer: Any) -> int:
    """The token that says a text ends. Raises ValueError where there is none."""
    end = tokenizer.eos_token_id
    return specials_of(tokenizer).separator[0] if end is None else end


def signs_of(tokenizer: Any) -> dict[str, int]:
    """The tokens that stand for no text: those with a name (start, end ...), and others that the tokenizer's
    file calls special (of the turns of a chat, say)."""
    added = tokenizer.added_tokens_decoder.items()
    signs = {token.content: number for number, token in added if token.special}
    return signs | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def ends_of(tokenizer: Any) -> list[int]:
    """The tokens that may end what a chat model writes: any sign. What is unknown is text, unless one token
    is both (pythia's)."""
    end = end_of(tokenizer)
    signs = set(signs_of(tokenizer).values()) - {tokenizer.unk_token_id}
    return sorted(signs | {end})


def fingerprint(tokenizer: Any) -> str:
    """sha256 of everything the tokenizer does."""
    whole = tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template or "")
    return hashlib.sha256(whole.encode()).hexdigest()


def tokenize(
    tokenizer: Any, texts: list[str], between: Callable[[], None] = lambda: None, specials: bool = False
) -> list[Tokens]:
    """Ids of each text, none added. `between` runs between chunks and may raise to stop. `specials`: the
    texts are no data, the names of special tokens in them stand for these."""
    tokenizer.backend_tokenizer.encode_special_tokens = not specials
    try:
        return _tokenize(tokenizer, texts, between, () if specials else tokenizer.all_special_ids)
    finally:
        tokenizer.backend_tokenizer.encode_special_tokens = True


def _tokenize(
    tokenizer: Any, texts: list[str], between: Callable[[], None], forbidden: Sequence[int]
) -> list[Tokens]:
    unknown = tokenizer.unk_token_id
    sequences: list[Tokens] = []
    for first in range(0, len(texts), CHUNK):
        between()
        chunk = [_encodable(text) for text in texts[first : first + CHUNK]]
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(chunk, add_special_tokens=False)
        for encoding in encodings:
            ids = np.asarray(encoding.ids, dtype=np.int32)
            if unknown is not None:  # a Unigram model (deberta-v3, T5) has "[SEP]" among its ordinary pieces
                ids[np.isin(ids, forbidden)] = unknown
            sequences.append(ids)
    return sequences


def _encodable(text: str) -> str:
    """The same, as long, with a question mark for half a character (JSON can hold one)."""
    return text.encode("utf-8", "replace").decode("utf-8")


def join_turns(turns: list[Tokens], separator: list[int]) -> Tokens:
    """Turns in order, a separator between each two."""
    parts: list[Tokens] = []
    for turn in turns:
        parts += [np.asarray(separator, dtype=np.int32), turn] if parts else [turn]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)


def beginning(context: Tokens, room: int) -> Tokens:
    """As much of the context as `room` takes: what stands first in it was found to fit best."""
    return context[: max(0, room)]


def beginning_of(tokenizer: Any, words: str, keep: int) -> str:
    """The words of the first `keep` tokens."""
    size = len(tokenizer.backend_tokenizer.encode(_encodable(words), add_special_tokens=False).ids)
    return shortened(tokenizer, words, size - keep)[0]


def shortened(tokenizer: Any, words: str, excess: int) -> tuple[str, int]:
    """The words without their last `excess` tokens, and how many tokens these are."""
    offsets = tokenizer.backend_tokenizer.encode(_encodable(words), add_special_tokens=False).offsets
    keep = max(0, len(offsets) - max(0, excess))
    if keep == len(offsets):
        return words, 0
    while keep and offsets[keep - 1][1] > offsets[keep][0]:  # inside a character
        keep -= 1
    return words[: offsets[keep - 1][1] if keep else 0], len(offsets) - keep


def fit(context: Tokens | None, text: Tokens, specials: Specials, max_length: int) -> Budgeted:
    """Frame and cut one sequence to at most `max_length` tokens."""
    frame = len(specials.start) + len(specials.separator) * (1 if context is None else 2)
    room = max_length - frame
    size = 0 if context is None else len(context)
    keep_context = min(size, max(room - len(text), min(MIN_CONTEXT, room)))
    keep_text = min(len(text), room - keep_context)
    start, separator = np.array(specials.start, np.int32), np.array(specials.separator, np.int32)
    parts = [start]
    if context is not None:
        parts += [context[size - keep_context :], separator]
    parts += [text[:keep_text], separator]
    return Budgeted(np.concatenate(parts).astype(np.int32), size - keep_context, len(text) - keep_text)


def continuations(tokenizer: Any, texts: list[str]) -> list[str]:
    """The texts as they stand behind others: with a blank before, unless the tokenizer puts one there."""
    first = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).tokens[0]
    wordpiece = type(tokenizer.backend_tokenizer.model).__name__ == "WordPiece"  # it drops blanks
    return texts if first != "a" or wordpiece else [f" {text}" for text in texts]


def smallest_length(specials: Specials) -> int:
    """The shortest `max_length` that leaves room for the least context and one token of text."""
    return len(specials.start) + 2 * len(specials.separator) + MIN_CONTEXT + 1
