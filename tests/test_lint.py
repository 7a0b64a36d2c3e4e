"""What is looked at before any weight loads, and what is refused."""

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib import recipe
from lib.base.exits import CheckError
from lib.config import DataConfig
from lib.corpus import lint
from lib.corpus.doubles import LATIN, _patterns, across_splits, words_of
from lib.recipe import Example
from tests.tools import SHORT, only_run, run


def row(identity: str, *words: str) -> Example:
    return Example(id=identity, group=identity, texts=[[" ".join(words)]], label=0)


WORDS = [f"word{number}" for number in range(40)]


def test_near_duplicates_are_found_across_splits_and_not_within_one() -> None:
    # 38 runs of three words each; one changed word at the end spoils one of them: 37 common of 39 in all
    near = row("near", *WORDS[:-1], "other")
    half = row("half", *WORDS[:20], *(f"new{number}" for number in range(20)))  # 18 common of 58
    twins = [row("one", *WORDS), row("two", *WORDS)]
    assert across_splits({"train": twins}) == {}
    found = across_splits({"train": twins, "validation": [near, half], "test": [row("same", *WORDS)]})
    assert found == {"validation and train": [("near", "one")], "test and train": [("same", "one")]}


def test_the_share_of_common_runs_decides_and_not_luck() -> None:
    def pairs(changed: int) -> int:
        """How many of 60 pairs of 80 words (78 runs), the last words of which differ, are found."""
        splits: dict[str, list[Example]] = {"train": [], "test": []}
        for number in range(60):
            words = [f"{number} {place}" for place in range(40)]  # two words each
            other = " ".join(words).split()
            other[80 - changed :] = [f"x{number}x{place}" for place in range(changed)]
            splits["train"].append(row(f"a{number}", *words))
            splits["test"].append(row(f"b{number}", *other))
        return sum(map(len, across_splits(splits).values()))

    # 6 words spoil 6 runs of each: 72 common of 84, 0.857. The estimate's standard error is
    # sqrt(0.857 * 0.143 / 64) = 0.044, so 90 % of the estimates are above 0.8: 54 of 60, give or take 2.3
    assert pairs(6) >= 45
    # 14 words: 64 common of 92, 0.696; 0.8 is 1.8 standard errors above it: 4 %, or 2 of 60
    assert pairs(14) <= 8


def test_options_are_compared_and_not_their_context() -> None:
    def ask(identity: str, question: str, *options: str) -> Example:
        found = Example(id=identity, question=question, options=[*options], label=0)
        found["context"] = [" ".join(WORDS)]
        return found

    first, other = (
        ask("a", "which bird can fly", "the swan", "the emu"),
        ask("b", "who wrote it", "Kant", "Hegel"),
    )
    assert across_splits({"train": [first], "test": [other]}) == {}


def found(**changes: Any) -> dict[str, Any]:
    part = {"rows": 100, "rows_cut": 0, "labels": {"yes": 60, "no": 40}}
    splits = {name: dict(part) for name in ("train", "validation", "test")}
    splits["train"] |= changes
    return {"splits": splits, "near_duplicates": {}}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"rows_cut": 91}, "91% of the train rows are cut at --max-length 512.*allow it with --max-cut 0.91"),
        ({"labels": {"yes": 96, "no": 4}}, "96% of the train rows have one label.*--max-prior 0.96"),
    ],
)
def test_a_threshold_refuses_just_above_it_and_names_its_flag(changes: Any, said: str) -> None:
    lint.refuse(found(rows_cut=90), DataConfig(), Path("lint.json"))
    lint.refuse(found(labels={"yes": 95, "no": 5}), DataConfig(), Path("lint.json"))
    with pytest.raises(CheckError, match=said):
        lint.refuse(found(**changes), DataConfig(), Path("lint.json"))


def test_one_flag_allows_all_splits() -> None:
    """Of the one that loses most."""
    some = found(rows_cut=91)
    some["splits"]["test"]["rows_cut"] = 97
    with pytest.raises(CheckError) as refused:
        lint.refuse(some, DataConfig(), Path("lint.json"))
    assert str(refused.value).count("--max-cut 0.97") == 2 and "--max-cut 0.91" not in str(refused.value)


def test_near_duplicates_above_the_share_are_refused() -> None:
    some = found() | {"near_duplicates": {"test and train": {"rows": 11, "shown": [("a", "b")]}}}
    with pytest.raises(CheckError, match=r"11 of 200 .* --max-near-duplicates 0.06"):  # 0.055, rounded up
        lint.refuse(some, DataConfig(), Path("lint.json"))
    some["near_duplicates"]["test and train"]["rows"] = 10
    lint.refuse(some, DataConfig(), Path("lint.json"))


@pytest.mark.parametrize("name", recipe.names())
def test_lint_only_stops_before_the_weights_and_keeps_what_it_saw(name: str, tmp_path: Path) -> None:
    flags = ["--model", "tiny", "--init", "random", "--lora-rank", "0", "--quantize", "none"]
    flags += ["--max-length", "96", "--max-cut", "1", "--lint-only", "--runs-dir", str(tmp_path)]
    writes = recipe.load(name).task == "complete"  # a prompt and the whole of a text
    flags += ["--max-length", "500", "--max-new-tokens", "16"] if writes else []
    done = run(name, *SHORT, *flags)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("*/[!.]*")), "no run folder is needed"
    assert "parameters train" not in done.stderr + done.stdout
    (kept,) = tmp_path.glob("*/.encoded/*/lint.json")
    assert str(kept) in done.stdout
    seen = json.loads(kept.read_text())
    assert seen["splits"]["train"]["rows"] == 30
    assert sum(seen["splits"]["train"]["labels"].values()) == (0 if writes else 30)
    bars = seen["splits"]["train"]["lengths"]["histogram"]
    assert sum(count for _, count in bars) >= 30 and bars[-1][0] <= (500 if writes else 96)
    assert seen["read_as"][0].startswith("[CLS]")


def test_rows_that_are_refused_leave_what_was_seen(tmp_path: Path) -> None:
    flags = ["--model", "tiny", "--init", "random", "--max-cut", "0.5", "--runs-dir", str(tmp_path)]
    done = run("arena", *SHORT, *flags)  # 80 bytes hold no prompt with its answer
    assert done.returncode == 3
    assert "100% of the train rows are cut at --max-length 80" in done.stderr
    assert json.loads((only_run(tmp_path) / "lint.json").read_text())["splits"]["train"]["rows_cut"] == 30


def test_scripts_without_blanks_have_words_too() -> None:
    draw = random.Random(0)
    chinese = [chr(draw.randrange(0x4E00, 0x5000)) for _ in range(95)]
    other = [*chinese[:40], "\u4e00" if chinese[40] != "\u4e00" else "\u4e01", *chinese[41:]]
    rows = [Example(id=str(n), texts=[["".join(text)]]) for n, text in enumerate((chinese, other))]
    # three of 93 runs of three characters differ: 90 of 96 are common
    assert across_splits({"train": rows[:1], "test": rows[1:]}) == {"test and train": [("1", "0")]}


def test_an_operator_is_a_word() -> None:
    options = ["-63", "1215", "1225", "368064"]
    sums = [
        Example(id=operator, question=f"What is 576 {operator} 639?", options=options) for operator in "+-*/"
    ]
    assert words_of(sums[0])[:5] == ["what", "is", "576", "+", "639"]
    assert across_splits({"train": sums[:2], "test": sums[2:]}) == {}
    # a hyphen and a dash in words are none
    fact = Example(texts=[["a well-known - or so - fact"]])
    assert words_of(fact) == ["a", "well", "known", "or", "so", "fact"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Simplify the expression (a + b) * c", "Simplify the expression (a - b) * c"),
        ("Simplify x*y for all x", "Simplify x/y for all x"),
        ("Which is p ∧ q for all p?", "Which is p ∨ q for all p?"),
        ("Which of them is x ≤ y", "Which of them is x ≥ y"),
        ("🐶 🐱", "🚗 🚀"),
        ("राम के पिता दिल्ली में थे", "राम का पता दिल्ली में था"),
        ("...", "###"),
    ],
)
def test_what_differs_in_signs_alone_differs(one: str, other: str) -> None:
    rows = [Example(id=str(number), texts=[[text]]) for number, text in enumerate((one, other))]
    assert across_splits({"train": rows[:1], "test": rows[1:]}) == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: text.replace(" ", "\u200b "),  # a blank of no width
        lambda text: text.replace("n", "n\u00ad"),  # a hyphen that is not seen
        str.upper,
    ],
)
def test_what_looks_the_same_is_the_same(change: Callable[[str], str]) -> None:
    text = "Die schöne Brücke über die Oder führt natürlich nach Österreich, và thủ đô của Việt Nam"
    rows = [Example(id=str(number), texts=[[text]]) for number, text in enumerate((text, change(text)))]
    assert across_splits({"train": rows[:1], "test": rows[1:]}) == {"test and train": [("1", "0")]}


def test_arabic_with_and_without_its_vowels_is_the_same() -> None:
    assert words_of(Example(texts=[["كَتَبَ الوَلَدُ"]])) == words_of(Example(texts=[["كتب الولد"]]))


def test_latin_text_has_the_same_words_by_the_fast_pattern() -> None:
    words, latin, _ = _patterns()
    for sign in map(chr, range(0x301)):
        text = f"a{sign}b 1{sign}2 3 {sign} 4 {sign}{sign}x y {sign} z"
        if sign < "\u0300":
            assert LATIN.fullmatch(text) and latin.findall(text) == words.findall(text)
        else:  # a mark
            assert not LATIN.fullmatch(text)
