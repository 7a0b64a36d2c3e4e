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
LATIN = re.compile("[\x00-\u02ff]*")  # no mark, and no script without blanks, stands before U+0300


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """(words, the same words in Latin text, what no word is made of). A sign of mathematics is a word (1 + 2
    and 1 - 2 are two questions), an emoji too; a vowel sign is a part of one. Latin text has no vowel signs,
    and is read seventy times as fast by a pattern without them."""
    kinds: dict[str, list[str]] = {}
    for character in map(chr, range(sys.maxunicode + 1)):
        kinds.setdefault(unicodedata.category(character), []).append(character)
    marks, signs, silent = (
        re.escape("".join(character for kind in some for character in kinds[kind]))
        for some in (("Mn", "Mc"), ("Sm", "So"), ("Cf",))
    )
    word = rf"[{UNSPACED}]|[^\W{UNSPACED}][^\W{UNSPACED}{marks}]*(?:[{marks}]+[^\W{UNSPACED}]*)*|[{signs}]"
    ascii_signs = rf"(?<=\d)\s*[{IN_ASCII}]|(?<=\b\w)\s?[{IN_ASCII}]\s?(?=\w\b)"
    latin = rf"\w+|[{''.join(filter(LATIN.fullmatch, kinds['Sm'] + kinds['So']))}]"
    words, latin_words = (re.compile(f"{pattern}|{ascii_signs}") for pattern in (word, latin))
    return words, latin_words, re.compile(f"[{silent}{HARAKAT}]")


def across_splits(
    splits: dict[str, list[Example]], between: Callable[[], None] = lambda: None
) -> dict[str, list[tuple[str, str]]]:
    """{"test and train": [(id of a test row, id of the train row it resembles), ...], ...} for every row of a
    split that resembles one of a split before it."""
    import datasketch

    index = datasketch.MinHashLSH(params=BANDS, num_perm=PERMUTATIONS)
    keys: list[tuple[str, str]] = []  # of the rows of all splits before
    known = np.empty((0, PERMUTATIONS), np.uint32)  # their sketches
    pairs: dict[str, list[tuple[str, str]]] = {}
    for split, rows in splits.items():
        sketches = []
        for row in rows:
            between()
            sketches.append(sketch := _sketch(row))
            near = np.array(index.query(sketch), dtype=np.intp)
            alike = near[share(sketch, known[near]) >= ALIKE]
            if len(alike):
                other = min(keys[place] for place in alike)
                pairs.setdefault(f"{split} and {other[0]}", []).append((row["id"], other[1]))
        for row, sketch in zip(rows, sketches, strict=True):  # only now: rows of a side may be alike
            index.insert(len(keys), sketch)
            keys.append((split, row["id"]))
        values = [sketch.hashvalues.astype(np.uint32) for sketch in sketches]  # they have 32 bits
        known = np.concatenate([known, np.array(values, np.uint32).reshape(-1, PERMUTATIONS)])
    return pairs


def share(sketch: Any, others: np.ndarray) -> np.ndarray:
    """Estimates of the share of common runs, one for each row of `others`."""
    return np.mean(others == sketch.hashvalues, axis=-1)


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
    word, latin, silent = _patterns()
    # NFKC: an umlaut may be one character or two, and looks the same
    text = silent.sub("", unicodedata.normalize("NFKC", " ".join(values))).lower()
    found = (latin if LATIN.fullmatch(text) else word).findall(text)
    return [one.strip() for one in found] or [text.strip()]


@cache
def _empty() -> Any:
    """Its random permutations take longer to make than a row to be sketched."""
    import datasketch

    return datasketch.MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=zlib.crc32)


def _sketch(example: Example) -> Any:
    words = words_of(example)
    runs = {" ".join(words[place : place + RUN]) for place in range(max(1, len(words) - RUN + 1))}
    sketch = _empty().copy()
    sketch.update_batch(sorted(run.encode("utf-8", "replace") for run in runs))
    return sketch
