"""Chunks of text with what is known of them, and contexts made of paragraphs: rows with one paragraph each
get it among others of the same split.

The other paragraphs, their order and the place of the row's own follow from the paragraph alone, so questions
of one paragraph have one and the same context.
"""

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from lib.answers.citing import cite, named
from lib.answers.text_metrics import words
from lib.recipe import as_word

# the first line of a paragraph, where that can only be its document's name
TITLE = re.compile(r"([^\n]{1,100}[^\s.!?:;,])[^\S\n]*\n[^\S\n]*\n")
TITLE_WORDS = 4  # of a paragraph that names no document
MODULES = 900  # made-up codes: DS100 ..


@dataclass(frozen=True)
class Chunk:
    """A text that was retrieved."""

    text: str
    source: str
    """What an answer names."""
    module: str = ""
    title: str = ""
    ects: str = ""


@dataclass(frozen=True)
class Paragraph:
    """A text that answers stand in."""

    text: str
    document: str | None = None
    """Its title; paragraphs of one document are near each other."""
    answers: tuple[str, ...] = ()
    """What any question takes from it."""


def described(chunk: Chunk) -> str:
    """title, module, 6 ECTS (Quelle: source): text; what is not known is left out. What a chunk is about
    stands before its source, where a decoder that copies the source can see it; both stand before the text,
    which is cut at its end."""
    about = ", ".join(filter(None, [chunk.title, chunk.module, f"{chunk.ects} ECTS" if chunk.ects else ""]))
    return f"{cite(about, chunk.source).strip()}: {chunk.text}"


def text_of(described: str, source: str) -> str:
    """The text of a chunk that was described."""
    return described.partition(f"{cite('', source)}: ".lstrip())[2]


def chunks_of(value: object) -> list[Chunk]:
    """A row's list of texts, or of objects with `text` and perhaps source, module, title, ects; a chunk
    without a source is called by its number. Raises ValueError."""
    if isinstance(value, str) and value.lstrip().startswith("["):  # as a csv holds it, by json.dumps
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(
            f"chunks is {value!r:.80}, expected a list of texts or of objects with a text (in a csv as JSON)"
        )
    chunks = [_chunk(number, one) for number, one in enumerate(value, 1)]
    ((source, count),) = Counter(chunk.source for chunk in chunks).most_common(1)
    if count > 1:
        raise ValueError(
            f"{count} chunks have the source {source!r}; an answer could not tell which it names"
        )
    return chunks


def _chunk(number: int, value: object) -> Chunk:
    known = value if isinstance(value, dict) else {"text": value}
    text = known.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the text of chunk {number} is {text!r:.80}, expected text")
    names = ("source", "module", "title", "ects")
    rest = {name: word for name in names if (word := named(as_word(known.get(name)) or ""))}
    rest.setdefault("source", str(number))
    if set("[]()") & set(rest["source"]):
        raise ValueError(f"the source of chunk {number} is {rest['source']!r}; it must not hold brackets")
    return Chunk(text.strip(), **rest)


def share_of(word: str) -> float:
    """A number from 0 to 1 that follows from the word."""
    return int.from_bytes(hashlib.sha256(word.encode("utf-8", "replace")).digest()[:8], "big") / 2**64


def title_of(paragraph: str) -> str | None:
    """Of a paragraph that begins with its document's name and an empty line."""
    found = TITLE.match(paragraph)
    return found[1] if found else None


def contexts(paragraphs: Sequence[Paragraph], size: int) -> dict[str, tuple[list[Chunk], list[Chunk]]]:
    """Text of each paragraph -> (its context, the same with another paragraph in its place), `size` chunks or
    as many as there are. None of the others holds, word for word, what a question takes from it."""
    plain = {paragraph.text: _plain(paragraph.text) for paragraph in paragraphs}
    by_document: dict[str | None, list[Paragraph]] = {}
    for paragraph in paragraphs:
        by_document.setdefault(paragraph.document, []).append(paragraph)
    by_document.pop(None, None)
    made = {}
    for own in paragraphs:
        draw = random.Random(f"context of {own.text}".encode("utf-8", "replace"))
        # those of its document before all others
        drawn = chain(_drawn(by_document.get(own.document, []), draw), _drawn(paragraphs, draw))
        made[own.text] = _context(own, _others(own, drawn, plain, size), size, draw)
    return made


def _others(
    own: Paragraph, drawn: Iterator[Paragraph], plain: Mapping[str, str], size: int
) -> list[Paragraph]:
    """The first `size` of those drawn that do not hold what is asked of `own`."""
    answers = [answer for answer in map(_plain, own.answers) if answer.strip()]
    others: dict[str, Paragraph] = {}
    while len(others) < size and (other := next(drawn, None)) is not None:
        if other.text != own.text and not any(answer in plain[other.text] for answer in answers):
            others[other.text] = other
    return list(others.values())


def _drawn(paragraphs: Sequence[Paragraph], draw: random.Random) -> Iterator[Paragraph]:
    """All of them, one by one, in an order that is drawn on the way (Fisher & Yates 1938): few are wanted."""
    moved: dict[int, int] = {}
    for last in range(len(paragraphs) - 1, -1, -1):
        place = draw.randint(0, last)
        yield paragraphs[moved.get(place, place)]
        moved[place] = moved.pop(last, last)


def _context(
    own: Paragraph, others: list[Paragraph], size: int, draw: random.Random
) -> tuple[list[Chunk], list[Chunk]]:
    beside, instead = others[: size - 1], others[size - 1 :]  # fewer where there are no more paragraphs
    place = draw.randrange(len(beside) + 1)
    return _made([*beside[:place], own, *beside[place:]]), _made([*beside[:place], *instead, *beside[place:]])


def _made(paragraphs: Sequence[Paragraph]) -> list[Chunk]:
    """Chunks with what follows from each paragraph: a module, a number of points, a source that no other of
    them has."""
    chunks: dict[int, Chunk] = {}
    for paragraph in paragraphs:
        number = 100 + int(share_of(paragraph.text) * MODULES)
        while number in chunks:
            number += 1
        title = paragraph.document or " ".join(paragraph.text.split()[:TITLE_WORDS])
        known = (f"quelle-{number}", f"DS{number}", title.strip("=:,;. \ufeff"), str(2 + number % 5))
        chunks[number] = Chunk(paragraph.text, *known)
    return list(chunks.values())


def _plain(text: str) -> str:
    """Its words with one blank around each."""
    return f" {' '.join(words(text))} "
