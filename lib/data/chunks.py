"""Chunks of text with what is known of them, and contexts made of paragraphs: rows with one paragraph each
get it among others of the same split.

The other paragraphs, their order and the place of the row's own follow from the paragraph alone, so questions
of one paragraph have one and the same context.
"""

import hashlib
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lib.answers.citing import cite

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
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"chunks is {value!r:.80}, expected a list of texts or of objects with a text")
    chunks = [_chunk(number, one) for number, one in enumerate(value, 1)]
    sources = [chunk.source for chunk in chunks]
    if doubled := next((source for source in sources if sources.count(source) > 1), None):
        raise ValueError(f"two chunks have the source {doubled!r}; an answer could not tell which it names")
    return chunks


def _chunk(number: int, value: object) -> Chunk:
    known = value if isinstance(value, dict) else {"text": value}
    text = known.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the text of chunk {number} is {text!r:.80}, expected text")
    names = ("source", "module", "title", "ects")
    rest = {name: str(known[name]).strip() for name in names if known.get(name)}
    rest.setdefault("source", str(number))
    if set("[]()") & set(rest["source"]):
        raise ValueError(f"the source of chunk {number} is {rest['source']!r}; it must not hold brackets")
    return Chunk(text.strip(), **rest)


def share_of(word: str) -> float:
    """A number from 0 to 1 that follows from the word."""
    return int.from_bytes(hashlib.sha256(word.encode("utf-8", "replace")).digest()[:8], "big") / 2**64


def contexts(paragraphs: Sequence[Paragraph], size: int) -> dict[str, tuple[list[Chunk], list[Chunk]]]:
    """Text of each paragraph -> (its context, the same with another paragraph in its place), `size` chunks or
    as many as there are. None of the others holds, word for word, what a question takes from it."""
    plain = {paragraph.text: f" {_plain(paragraph.text)} " for paragraph in paragraphs}
    return {paragraph.text: _context(paragraph, paragraphs, plain, size) for paragraph in paragraphs}


def _context(
    own: Paragraph, paragraphs: Sequence[Paragraph], plain: Mapping[str, str], size: int
) -> tuple[list[Chunk], list[Chunk]]:
    draw = random.Random(f"context of {own.text}")
    answers = [f" {_plain(answer)} " for answer in own.answers if _plain(answer)]
    # a draw, and within it first those of the same document
    drawn = draw.sample(list(paragraphs), len(paragraphs))
    drawn.sort(key=lambda other: own.document is None or other.document != own.document)
    others: list[Paragraph] = []
    for other in drawn:
        if other.text != own.text and not any(answer in plain[other.text] for answer in answers):
            others.append(other)
        if len(others) == size:
            break
    beside, instead = others[: size - 1], others[size - 1 :]  # fewer where there are no more paragraphs
    place = draw.randrange(len(beside) + 1)
    return _made([*beside[:place], own, *beside[place:]]), _made([*beside[:place], *instead, *beside[place:]])


def _made(paragraphs: Sequence[Paragraph]) -> list[Chunk]:
    """Chunks with what follows from each paragraph: a module, a number of points, a source that no other of
    them has."""
    chunks: list[Chunk] = []
    for paragraph in paragraphs:
        number = int(share_of(paragraph.text) * MODULES)
        while any(chunk.source == f"quelle-{100 + number}" for chunk in chunks):
            number = (number + 1) % MODULES
        title = paragraph.document or " ".join(paragraph.text.split()[:TITLE_WORDS])
        module, ects = f"DS{100 + number}", str(2 + number % 5)
        chunks.append(Chunk(paragraph.text, f"quelle-{100 + number}", module, title.strip("=: "), ects))
    return chunks


def _plain(text: str) -> str:
    """Lower-case words with one blank between."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFC", text).lower()))
