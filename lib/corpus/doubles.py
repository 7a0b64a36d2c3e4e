"""Rows that say almost the same on two sides of a split: MinHash over runs of three words, so that half a
million rows are compared without comparing each with each (Broder 1997; Leskovec et al., Mining of Massive
Datasets, chapter 3)."""

import re
import sys
import unicodedata
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from lib.recipe import Example

ALIKE = 0.8  # share of common three-word runs from which two rows count as nearly the same
PERMUTATIONS = 64  # the share is then estimated with a standard error of 0.05 (at a true share of 0.8)
# Rows are compared whose sketches agree in one of 16 bands of 4: a share of 0.8 is then missed in 1 - 0.8**4
# to the power of 16, or 2e-4 of all cases, and 0.5 still compared in 64 %.
BANDS = (16, 4)
RUN = 3  # words
# Scripts that write no blanks between words (Thai, Lao, Burmese, Khmer, Chinese, Japanese): there each
# character counts as a word.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
HARAKAT = "\u064b-\u0652\u0670\u0640"  # what Arabic may write or leave out
IN_ASCII = "-*/^%&!"  # signs of sums and code that are also punctuation: after a number, between letters


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(words, what no word is made of). A sign of mathematics is a word (1 + 2 and 1 - 2 are two questions),
    an emoji too; a vowel sign is a part of one."""
    kinds: dict[str, list[str]] = {}
    for character in map(chr, range(sys.maxunicode + 1)):
        kinds.setdefault(unicodedata.category(character), []).append(character)
    marks, signs, silent = (
        re.escape("".join(character for kind in some for character in kinds[kind]))
        for some in (("Mn", "Mc"), ("Sm", "So"), ("Cf",))
    )
    word = rf"[{UNSPACED}]|[^\W{UNSPACED}][^\W{UNSPACED}{marks}]*(?:[{marks}]+[^\W{UNSPACED}]*)*|[{signs}]"
    ascii_signs = rf"(?<=\d)\s*[{IN_ASCII}]|(?<=\b\w)\s?[{IN_ASCII}]\s?(?=\w\b)"
    return re.compile(f"{word}|{ascii_signs}"), re.compile(f"[{silent}{HARAKAT}]")


def across_splits(
    splits: dict[str, list[Example]], between: Callable[[], None] = lambda: None
) -> dict[str, list[tuple[str, str]]]:
    """{"test and train": [(id of a test row, id of the train row it resembles), ...], ...} for every row of a
    split that resembles one of a split before it."""
    import datasketch

    index = datasketch.MinHashLSH(params=BANDS, num_perm=PERMUTATIONS)
    known: dict[tuple[str, str], np.ndarray] = {}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for split, rows in splits.items():
        sketches = {}
        for row in rows:
            between()
            sketches[split, row["id"]] = sketch = _sketch(row)
            alike = (key for key in sorted(index.query(sketch)) if share(sketch, known[key]) >= ALIKE)
            other = next(alike, None)
            if other is not None:
                pairs.setdefault(f"{split} and {other[0]}", []).append((row["id"], other[1]))
        for key, sketch in sketches.items():  # after the split: rows of one side may resemble each other
            index.insert(key, sketch)
            known[key] = sketch.hashvalues.astype(np.uint32)  # they have 32 bits
    return pairs


def share(sketch: Any, other: np.ndarray) -> float:
    """Estimate of the share of common runs."""
    return float(np.mean(sketch.hashvalues == other))


def words_of(example: Example) -> list[str]:
    """What makes a row the same as another: all its texts; question and options where there are such, since
    one context may serve many questions."""
    values: Any = None
    if "question" in example:
        values = [example["question"], *example["options"]]
    elif "fields" in example:
        values = [piece for pieces in example["fields"].values() for piece in pieces]
    if values is None:
        values = [turn for turns in (example.get("context", []), *example["texts"]) for turn in turns]
    word, silent = _patterns()
    # NFKC: an umlaut may be one character or two, and looks the same
    text = silent.sub("", unicodedata.normalize("NFKC", " ".join(values))).lower()
    return [found.strip() for found in word.findall(text)] or [text.strip()]


def _sketch(example: Example) -> Any:
    import datasketch

    words = words_of(example)
    runs = {" ".join(words[place : place + RUN]) for place in range(max(1, len(words) - RUN + 1))}
    sketch = datasketch.MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=zlib.crc32)
    sketch.update_batch(sorted(run.encode("utf-8", "replace") for run in runs))
    return sketch
