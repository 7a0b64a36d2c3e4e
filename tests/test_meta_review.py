"""Meta-review: reviews in whatever form rows hold them, shortened evenly; the meta-review never is."""

import csv
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib import recipe as recipes
from lib.answers import load as answers_of
from lib.command_line import parse
from lib.config import DataConfig
from lib.corpus.corpus import OTHER, Corpus
from lib.data.prompts import letters_only, level, vanished
from lib.recipe import Example, Prediction, Row
from lib.recipes import meta_review
from lib.tasks import make as make_task
from lib.tasks.complete import Complete
from tests.test_choose import tiny_model
from tests.tools import SHARED

META = recipes.load("meta_review")
REVIEWS = SHARED / "meta_review"
PYTHIA = SHARED / "tokenizers" / "gpt-neox-20b"
needs_reviews = pytest.mark.skipif(not REVIEWS.is_dir(), reason="needs ../shared/data/meta_review")


def read(rows: list[Row], folder: Path, suffix: str = "jsonl", with_label: bool = True) -> Corpus:
    """As a file of these rows is read."""
    file = folder / f"rows.{suffix}"
    with file.open("w", encoding="utf-8", newline="") as handle:
        if suffix == "csv":
            writer = csv.DictWriter(handle, [*rows[0]])
            writer.writeheader()
            writer.writerows(rows)
        else:
            handle.writelines(json.dumps(row) + "\n" for row in rows)
    return Corpus.read(DataConfig(data=str(file)), META, with_label)


def reviews_of(corpus: Corpus) -> list[list[str]]:
    return [example["fields"]["reviews"] for example in corpus.splits["train"]]


# The forms of rows


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("value", "reviews"),
    [
        ("Good.", ["Good."]),
        ("Good. ||||| Bad. |||||\nSo so. ", ["Good.", "Bad.", "So so."]),
        ("||||| Good. ||||| |||||", ["Good."]),
        ('["Good.", " Bad. "]', ["Good.", "Bad."]),
        ('["Good. ||||| Bad.", "So so."]', ["Good.", "Bad.", "So so."]),
    ],
)
def test_reviews_are_parted_by_a_mark_or_are_a_json_list(
    value: str, reviews: list[str], suffix: str, tmp_path: Path
) -> None:
    assert reviews_of(read([{"Input": value, "Output": "Fine."}], tmp_path, suffix)) == [reviews]


def test_lists_of_jsonl_need_no_string_around_them(tmp_path: Path) -> None:
    assert reviews_of(read([{"Input": ["Good.", "Bad."], "Output": "x"}], tmp_path)) == [["Good.", "Bad."]]


def test_a_text_among_texts_may_begin_with_a_bracket(tmp_path: Path) -> None:
    values = ["[1] is cited twice.", '["one"]', "Good.", "Bad."]
    rows = [{"Input": value, "Output": "x"} for value in values]
    assert reviews_of(read(rows, tmp_path)) == [[value] for value in values]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Input": "", "Output": "x"}, "Input is empty"),
        ({"Input": " ||||| ", "Output": "x"}, "Input is empty"),
        ({"Input": [], "Output": "x"}, "Input is empty"),
        ({"Input": None, "Output": "x"}, "Input is None, expected text or a list of texts"),
        ({"Input": 5, "Output": "x"}, "Input is 5, expected text or a list of texts"),
        ({"Input": ["a", None], "Output": "x"}, "Input is ['a', None], expected text or a list of texts"),
        ({"Input": "a", "Output": " "}, "Output is ' ', expected text"),
        ({"Input": "a", "Output": ["x"]}, "Output is ['x'], expected text"),
        ({"Input": "a", "Output": float("nan")}, "Output is nan, expected text"),
    ],
)
def test_a_malformed_row_is_told_what_was_seen_and_what_is_allowed(row: Row, message: str) -> None:
    with pytest.raises(ValueError) as error:
        meta_review.to_example(row)
    assert str(error.value) == message


def test_rows_to_predict_need_no_meta_review(tmp_path: Path) -> None:
    rows = [{"Input": "Good.", "Output": value} for value in ("", None)] + [{"Input": "Bad."}]
    found = read(rows, tmp_path, with_label=False).whole()
    assert len(found.splits[OTHER]) == 3 and not any("target" in row for row in found.splits[OTHER])


def test_the_sample_has_several_reviews_a_paper_and_its_meta_review_follows_their_votes() -> None:
    corpus = Corpus.read(DataConfig(data="sample", sample_rows=60), META)
    assert {len(reviews) for reviews in reviews_of(corpus)} == {3, 5}
    for example in corpus.splits["train"]:
        *_, vote = example["target"].split("I recommend to ")
        assert vote in ("accept it.", "reject it.")


def test_the_lead_is_the_beginning_of_the_longest_review() -> None:
    example = meta_review.to_example({"Input": ["Good.", "One. Two? Three! Four. Five."]})
    assert meta_review.lead(example) == "One. Two? Three!"


@needs_reviews
@pytest.mark.parametrize("name", ["longest_review.train", "all_reviews.train"])
def test_real_rows_are_read_whole(name: str) -> None:
    corpus = Corpus.read(DataConfig(data=str(REVIEWS / f"{name}.jsonl")), META)
    lines = [json.loads(line) for line in (REVIEWS / f"{name}.jsonl").read_text("utf-8").splitlines()]
    assert not corpus.rejected and len(corpus.splits["train"]) == len(lines)
    for line, example in zip(lines, corpus.splits["train"], strict=True):
        assert example["fields"]["reviews"] == [line["Input"].strip()]
        assert example["target"] == line["Output"].strip()


# What is shortened


@pytest.mark.parametrize(
    ("sizes", "total", "kept"),
    [
        ([10, 10], 20, [10, 10]),
        ([10, 10], 25, [10, 10]),
        ([10, 10], 10, [5, 5]),
        # the smallest stays whole, the others come down to one level
        ([100, 3, 50], 43, [20, 3, 20]),
        ([100, 3, 50], 83, [40, 3, 40]),
        ([100, 3, 50], 113, [60, 3, 50]),
        ([5, 5, 5], 2, [0, 1, 1]),
        ([5, 5], 0, [0, 0]),
        ([], 10, []),
        ([0, 4], 2, [0, 2]),
    ],
)
def test_the_longest_give_way_down_to_one_level(sizes: list[int], total: int, kept: list[int]) -> None:
    assert level(sizes, total) == kept


def test_a_level_keeps_all_that_there_is_room_for() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        sizes = draw.integers(0, 50, draw.integers(1, 9)).tolist()
        total = int(draw.integers(0, sum(sizes) + 10))
        kept = level(sizes, total)
        assert sum(kept) == min(total, sum(sizes))
        cut = [keep for size, keep in zip(sizes, kept, strict=True) if keep < size]
        assert not cut or max(kept) - min(cut) <= 1, "none that was cut is shorter than one that was not"


def make(folder: Path, *flags: str, tokenizer: Path | None = None) -> Complete:
    words = ["--model", tiny_model("gpt_neox", folder), "--init", "random", "--precision", "fp32"]
    if tokenizer is not None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 50_432}))
        for file in folder.glob("*token*"):
            file.unlink()
        for file in tokenizer.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    config_of = parse(META.config, [*words, *flags], "test")
    return make_task(META, config_of)  # type: ignore[return-value]


def example(reviews: Sequence[str], target: str | None = "It is good.") -> Example:
    found = Example(id="0", group="0", fields={"reviews": [*reviews]})
    return found if target is None else Example(**found, target=target)


def test_reviews_are_shortened_evenly_from_their_ends(tmp_path: Path) -> None:
    task = make(tmp_path, "--max-length", "150", "--max-new-tokens", "20")
    reviews = ["a" * 200, "b" * 10, "c" * 90]
    (row,) = task.encode([example(reviews)])
    prompt, target = task.shown(row)
    kept = prompt.partition("paper:\n\n")[2].partition("\n\nMeta")[0].split("\n")
    # bytes are tokens. The room is 150 less 20 to be written, one that begins, and the template's
    words = task.options.template.replace("{reviews}", "\n\n")
    room = 150 - 20 - 1 - len(words)
    assert kept[1] == "b" * 10
    assert {*kept[0]} == {"a"} and {*kept[2]} == {"c"} and abs(len(kept[0]) - len(kept[2])) <= 1
    assert sum(map(len, kept)) == room == 300 - row.num_cut
    assert target == "[[ It is good.[SEP]]]"


def test_a_prompt_does_not_tell_how_long_its_text_is(tmp_path: Path) -> None:
    """Of a row to predict the same is read as of one to learn from, whatever is to be written."""
    task = make(tmp_path, "--max-length", "150", "--max-new-tokens", "30")
    rows = [example(["a" * 200], target) for target in ("x", "y" * 25, None)]
    prompts = [row.sequences[0].tolist() for row in task.encode(rows)]
    assert prompts[0] == prompts[1] == prompts[2]


def test_a_text_longer_than_its_room_takes_more_from_the_reviews(tmp_path: Path) -> None:
    task = make(tmp_path, "--max-length", "150", "--max-new-tokens", "20")
    (row,) = task.encode([example(["a" * 200], "y" * 60)])
    assert task.shown(row)[1] == f"[[ {'y' * 60}[SEP]]]"
    assert sum(map(len, row.sequences[:2])) == 150


@needs_reviews
@pytest.mark.skipif(not PYTHIA.is_dir(), reason="needs ../shared/data/tokenizers")
@pytest.mark.parametrize("length", [512, 256])
def test_real_reviews_are_cut_to_fit_and_no_meta_review_is(length: int, tmp_path: Path) -> None:
    task = make(tmp_path, "--max-length", str(length), "--max-new-tokens", "100", tokenizer=PYTHIA)
    file = REVIEWS / "all_reviews.validation.jsonl"
    rows = Corpus.read(DataConfig(data=str(file)), META).splits["train"]
    tokenizer = task.tokenizer
    assert len(tokenizer) > 50_000, "the tokenizer of pythia, not of bytes"
    unusable = task.unusable(rows, lambda: None)
    fitting = [row for row in rows if row["id"] not in unusable]
    assert len(fitting) > 10 and (unusable or length > 256), "some have more than 256 tokens by themselves"
    for row, found in zip(fitting, task.encode(fitting), strict=True):
        prompt, target = found.sequences[:2]
        assert len(prompt) + max(len(target), 100) <= length
        assert tokenizer.decode(target[:-1].tolist()).strip() == row["target"]
        assert target[-1] == tokenizer.eos_token_id
        read = tokenizer.decode(prompt.tolist())
        kept = read.partition("paper:\n\n")[2].removesuffix("\n\nMeta-review:")
        assert row["fields"]["reviews"][0].startswith(kept) and len(kept) > 20
        # nothing is given away: one token more would not fit
        assert len(prompt) + max(len(target), 100) >= length - 3


@needs_reviews
@pytest.mark.skipif(not PYTHIA.is_dir(), reason="needs ../shared/data/tokenizers")
def test_three_real_reviews_keep_equally_many_tokens(tmp_path: Path) -> None:
    task = make(tmp_path, "--max-length", "256", "--max-new-tokens", "60", tokenizer=PYTHIA)
    file = REVIEWS / "longest_review.validation.jsonl"
    texts = [json.loads(line)["Input"] for line in file.read_text("utf-8").splitlines()[:3]]
    (row,) = task.encode([example(texts)])
    read = task.tokenizer.decode(row.sequences[0].tolist())
    kept = read.partition("paper:\n\n")[2].removesuffix("\n\nMeta-review:")
    sizes, rest = [], kept
    for text in texts:
        size = max(end for end in range(len(rest) + 1) if text.startswith(rest[:end]))
        sizes.append(len(task.tokenizer.encode(rest[:size].rstrip("\n"))))
        rest = rest[size:].removeprefix("\n")
    assert not rest and min(sizes) > 50 and max(sizes) - min(sizes) <= 2


# Only letters


def test_only_letters_are_read_and_learned_but_scored_is_the_text_as_it_is(tmp_path: Path) -> None:
    row = example(["Score: 3.5 (naïve)!"], "It's 90 % good, für alle.")
    length = ["--max-length", "150", "--max-new-tokens", "20"]
    plain, letters = make(tmp_path / "a", *length), make(tmp_path / "b", *length, "--letters-only")
    (before,), (after,) = plain.encode([row]), letters.encode([row])
    assert "Score: 3.5 (naïve)!" in plain.shown(before)[0]
    assert "Reviews of a paper:\n\nScore 35 nave\n\nMeta-review:" in letters.shown(after)[0], (
        "the template stays"
    )
    assert letters.shown(after)[1] == "[[ Its 90  good fr alle[SEP]]]"
    said = Prediction(id="0", answer="Its 90  good fr alle")
    kept = answers_of(META).kept(said, row)
    assert kept["target"] == "It's 90 % good, für alle." and META.score([kept])["rouge_1"] < 1


def test_a_text_without_a_letter_is_named(tmp_path: Path) -> None:
    task = make(tmp_path, "--max-length", "150", "--max-new-tokens", "20", "--letters-only")
    reasons = task.unusable([example(["a"], "!?"), Example(**{**example(["a"]), "id": "1"})], lambda: None)  # type: ignore[typeddict-item]
    assert reasons == {"0": "nothing is left of its text with --letters-only"}


def test_letters_are_those_of_ascii_and_digits_with_white_space() -> None:
    assert letters_only(string.printable) == string.digits + string.ascii_letters + string.whitespace
    assert letters_only("ä ß ١ \0 😀") == " " * 4


def test_what_letters_only_leaves_nothing_of_is_named() -> None:
    assert vanished({"reviews": ["äö", "x"]}, "gut") is None
    assert vanished({"reviews": ["äö", "ß!"]}, "gut") == "reviews"
    assert vanished({"reviews": ["x"]}, "?!") == "text"
    assert vanished({"reviews": ["x"]}, None) is None


ODD: list[Any] = [
    "a\0b",
    "😀" * 50,
    "שלום",
    "\u202eabc",
    "x\ud800y",
    "w" * 5000,
    "{reviews}",
    "<|endoftext|>",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_are_read_and_learned(text: str, tmp_path: Path) -> None:
    task = make(tmp_path, "--max-length", "200", "--max-new-tokens", "20")
    (row,) = task.encode([example([text, "b"], text[:20])])
    assert sum(map(len, row.sequences[:2])) <= 200
    learned = text[:20].encode("utf-8", "replace").decode()
    assert task.shown(row)[1] == f"[[ {learned}[SEP]]]"
