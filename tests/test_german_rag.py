"""German RAG: rows of either form become a question with chunks and an answer that names its source."""

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib import recipe as recipes
from lib.answers.citing import REFUSAL, cite, said
from lib.answers.text_metrics import words
from lib.command_line import parse
from lib.config import DataConfig, RagConfig
from lib.corpus.corpus import OTHER, Corpus, counted
from lib.data.chunks import Chunk, Paragraph, contexts, described, text_of, title_of
from lib.data.chunks import _drawn as drawn_lazily
from lib.data.chunks import _made as chunks_with_sources
from lib.data.loader import Costs
from lib.data.rows import pack
from lib.recipe import Example, Row
from lib.recipes import german_rag
from lib.tasks import make as make_task
from lib.tasks.complete import to_write
from tests.test_choose import tiny_model
from tests.tools import SHARED

QUESTIONS = SHARED / "germanquad"
RAG = recipes.load("german_rag")
needs_questions = pytest.mark.skipif(not QUESTIONS.is_dir(), reason="needs ../shared/data/germanquad")


def task_of(**changes: Any) -> RagConfig:
    assert isinstance(RAG.config.task, RagConfig)
    return dataclasses.replace(RAG.config.task, **changes)


def finished(rows: list[Row], **changes: Any) -> list[Example]:
    """As a split of these rows is read."""
    examples = [german_rag.to_example(row) for row in rows]
    for number, example in enumerate(examples):
        example.setdefault("id", f"row:{number}")
    return german_rag.finish(examples, task_of(**changes))


@cache
def real(file: str = "xquad_de.train") -> list[Row]:
    return [json.loads(line) for line in (QUESTIONS / f"{file}.jsonl").read_text("utf-8").splitlines()]


@cache
def real_examples() -> list[Example]:
    return finished(real())


def texts_of(example: Example) -> list[str]:
    pairs = zip(example["fields"]["chunks"], example["sources"], strict=True)
    return [text_of(chunk, source) for chunk, source in pairs]


def holds(text: str, answer: str) -> bool:
    return f" {' '.join(words(answer))} " in f" {' '.join(words(text))} "


# Contexts made of paragraphs, on real questions


@needs_questions
def test_the_right_paragraph_is_there_where_a_row_says_so_and_only_there() -> None:
    for row, example in zip(real(), real_examples(), strict=True):
        own = row["context"].strip()
        assert (own in texts_of(example)) == ("gold" in example)
        if "gold" in example:
            assert texts_of(example)[example["gold"]] == own
            cited = said(example["target"]).cited
            assert cited == [example["sources"][example["gold"]]]
            assert holds(example["target"], example["short"][0])
        else:
            assert example["target"] == REFUSAL


@needs_questions
def test_no_other_chunk_holds_what_is_asked_of_a_paragraph() -> None:
    asked: dict[str, set[str]] = {}
    for row in real():
        asked.setdefault(row["context"].strip(), set()).update(row["answers"]["text"])
    for row, example in zip(real(), real_examples(), strict=True):
        own = row["context"].strip()
        others = [text for text in texts_of(example) if text != own]
        found = {
            answer for answer in asked[own] if words(answer) and any(holds(text, answer) for text in others)
        }
        assert not found, (row["id"], found)


@needs_questions
def test_which_rows_cannot_be_answered_follows_from_their_ids_alone() -> None:
    refused = {example["id"] for example in real_examples() if "gold" not in example}
    # 755 rows at 0.2: a standard deviation is sqrt(0.2 * 0.8 / 755) = 0.0146
    assert len(refused) / 755 == pytest.approx(0.2, abs=2 * 0.0146)
    shuffled = random.Random(0).sample(real(), 300)
    again = {example["id"] for example in finished(shuffled) if "gold" not in example}
    assert again == refused & {row["id"] for row in shuffled}
    elsewhere = finished([row | {"context": f"Oben. {row['context']}"} for row in real()])
    assert {example["id"] for example in elsewhere if "gold" not in example} == refused
    more = {example["id"] for example in finished(real(), unanswerable=0.5) if "gold" not in example}
    assert refused < more, "a larger share keeps those of a smaller one"
    for share, size in ((0, 0), (1, 755)):
        assert sum("gold" not in example for example in finished(real(), unanswerable=share)) == size


@needs_questions
def test_questions_of_one_paragraph_have_one_context_to_the_byte() -> None:
    by_paragraph: dict[str, list[Example]] = {}
    for example in real_examples():
        by_paragraph.setdefault(example["group"], []).append(example)
    assert len(by_paragraph) == 152
    for examples in by_paragraph.values():
        for answered in (True, False):
            same = [example for example in examples if ("gold" in example) == answered]
            assert len({tuple(example["fields"]["chunks"]) for example in same}) <= 1
            assert len({tuple(example["sources"]) for example in same}) <= 1
    whole, without = (
        {len(example["sources"]) for example in real_examples() if ("gold" in example) is there}
        for there in (True, False)
    )
    assert whole == without == {4}


@needs_questions
def test_a_row_without_its_paragraph_differs_in_one_chunk() -> None:
    rows = [row for row in real() if row["context"] == real()[0]["context"]]
    (whole, *_), (without, *_) = (finished(real(), unanswerable=share) for share in (0, 1))
    differ = [
        place
        for place, pair in enumerate(zip(texts_of(whole), texts_of(without), strict=True))
        if pair[0] != pair[1]
    ]
    assert differ == [whole["gold"]] and len(rows) > 1


@needs_questions
def test_the_right_chunk_stands_at_each_place_equally_often() -> None:
    places = {example["group"]: example["gold"] for example in finished(real(), unanswerable=0)}
    counts = np.array([[*places.values()].count(place) for place in range(4)])
    # 152 paragraphs, so 38 at each place; chi squared of 3 degrees of freedom is below 11.34 in 99 %
    assert counts.sum() == 152 and ((counts - 38) ** 2 / 38).sum() < 11.34


@needs_questions
@pytest.mark.parametrize("chunks", [1, 2, 100, 1000])
def test_a_context_has_as_many_chunks_as_there_can_be_each_with_a_source_of_its_own(chunks: int) -> None:
    for example in finished(real()[:300], chunks=chunks):
        sources = example["sources"]
        assert len(set(sources)) == len(sources) == len(example["fields"]["chunks"])
        assert chunks > 2 or len(sources) == chunks
        assert len(set(texts_of(example))) == len(sources)


def paragraphs(count: int, **more: Any) -> list[Row]:
    return [
        {
            "id": str(n),
            "question": "Was?",
            "context": f"Absatz {n} nennt wort{n}.",
            "answers": {"text": [f"wort{n}"]},
        }
        | more
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_a_split_of_few_paragraphs_has_small_contexts(count: int, chunks: int) -> None:
    whole, without = (finished(paragraphs(count), chunks=chunks, unanswerable=share) for share in (0, 1))
    for number, (one, other) in enumerate(zip(whole, without, strict=True)):
        own = f"Absatz {number} nennt wort{number}."
        assert len(texts_of(one)) == min(chunks, count) and texts_of(one)[one["gold"]] == own
        # the paragraph in its place is one more of the others, if there is one
        assert len(texts_of(other)) == min(chunks, count - 1) and own not in texts_of(other)
        assert other["target"] == REFUSAL
        assert all(isinstance(write(row), str) for write in RAG.writers.values() for row in (one, other))


def test_more_chunks_than_made_up_numbers_still_have_sources_of_their_own() -> None:
    made = chunks_with_sources([Paragraph(f"Absatz {n}.") for n in range(1100)])
    assert len({chunk.source for chunk in made}) == len(made) == 1100


def test_paragraphs_of_the_same_document_come_first() -> None:
    many = [Paragraph(f"Absatz {n}.", f"Heft {n % 10}") for n in range(100)]
    for text, (whole, _) in contexts(many, 5).items():
        titles = {chunk.title for chunk in whole}
        assert titles == {f"Heft {int(text.split()[1][:-1]) % 10}"}
    assert {chunk.title for chunk in contexts(many, 12)["Absatz 7."][0]} > {"Heft 7"}


def test_contexts_follow_from_the_rows() -> None:
    assert finished(paragraphs(30)) == finished(paragraphs(30))


def test_others_are_drawn_from_all_paragraphs_alike() -> None:
    order = list(drawn_lazily([Paragraph(str(n)) for n in range(500)], random.Random(0)))
    assert sorted(int(paragraph.text) for paragraph in order) == [*range(500)], "each once"
    many = [Paragraph(f"Absatz {n}.") for n in range(40)]
    drawn = Counter(chunk.text for whole, _ in contexts(many, 11).values() for chunk in whole)
    # each stands in its own context and among the 10 of 39 others of each of 39: about 1 + 10
    assert set(drawn) == {paragraph.text for paragraph in many}
    assert min(drawn.values()) >= 3 and max(drawn.values()) <= 21, "within 3 standard deviations of 2.7"


def test_rows_to_predict_keep_their_paragraph_and_need_no_answer() -> None:
    rows = [{key: row[key] for key in ("id", "question", "context")} for row in paragraphs(30)]
    for row, example in zip(rows, finished(rows, unanswerable=1), strict=True):
        assert row["context"] in texts_of(example)
        assert not {"target", "gold", "short"} & example.keys()


# The rows of GermanQuAD itself


@needs_questions
def test_rows_of_germanquad_are_read_as_they_are() -> None:
    rows = real("germanquad_test_sample")
    examples = finished(rows, unanswerable=0)
    assert [example["id"] for example in examples[:2]] == ["40369", "40370"], "its ids are numbers"
    assert [len(example["short"]) for example in examples] == [3, 2, 3, 3, 3, 3, 3, 3]
    # " vor Fahrtantritt (d. h. ...": an answer may begin with a blank
    assert all(short == short.strip() for example in examples for short in example["short"])
    assert said(examples[1]["target"]).words == ["die", "antwort", "lautet", "rottweil"]
    titles = {
        source: chunk.partition(",")[0]
        for example in examples
        for chunk, source in zip(example["fields"]["chunks"], example["sources"], strict=True)
    }
    assert sorted(titles.values()) == ["Aufzugsanlage", "Sichuan"], "the line above the section"


@pytest.mark.parametrize(
    ("paragraph", "title"),
    [
        ("Sichuan\n\n=== Landwirtschaft ===\nSichuan gilt", "Sichuan"),
        ("Haus (Bau) \n \nEin Haus", "Haus (Bau)"),
        ("Sichuan\nSichuan gilt", None),
        ("Das ist ein Satz.\n\nUnd noch einer.", None),
        ("x" * 102 + "\n\nEin Absatz", None),
        ("Ein Absatz ohne Zeilen", None),
        ("\n\nEin Absatz", None),
    ],
)
def test_a_first_line_above_an_empty_one_is_the_title(paragraph: str, title: str | None) -> None:
    assert title_of(paragraph) == title


def test_a_title_in_a_column_goes_before_that_of_the_first_line() -> None:
    row = {"question": "Was?", "context": "Oben\n\nText", "answers": {"text": ["Text"]}}
    for title, shown in (("Spalte", "Spalte"), (None, "Oben"), (float("nan"), "Oben")):
        (example,) = finished([row | {"title": title}], unanswerable=0)
        assert example["fields"]["chunks"][0].startswith(f"{shown}, DS")


@pytest.mark.parametrize(
    ("answers", "short"),
    [
        ({"text": [" a ", "b"], "answer_start": [0, 1]}, ["a", "b"]),
        ({"text": "a"}, ["a"]),
        (["a", "b"], ["a", "b"]),
        ("a", ["a"]),
        ('{"text": ["a"]}', ["a"]),
        ({"text": ["..."]}, ["..."]),
    ],
)
def test_answers_come_in_several_shapes(answers: object, short: list[str]) -> None:
    (example,) = finished([{"question": "q", "context": "a b ...", "answers": answers}], unanswerable=0)
    assert example["short"] == short
    assert example["target"] == cite(f"Die Antwort lautet: {short[0]}.", example["sources"][0])


# Rows that have their chunks


def own(**columns: Any) -> Row:
    chunks = [
        {"text": "Es ist blau.", "source": "a-1", "title": "Farben", "ects": 6},
        {"text": "Es ist alt."},
    ]
    row: Row = {"question": "Was?", "chunks": chunks, "answer": "Blau.", "source": "a-1"} | columns
    return {name: value for name, value in row.items() if value is not ...}


def test_own_chunks_are_objects_or_texts() -> None:
    (example,) = finished([own()])
    assert example["fields"]["chunks"] == [
        "Farben, 6 ECTS (Quelle: a-1): Es ist blau.",
        "(Quelle: 2): Es ist alt.",
    ]
    assert (example["gold"], example["sources"]) == (0, ["a-1", "2"])
    assert (example["target"], example["short"]) == ("Blau. (Quelle: a-1)", ["Blau."])
    (example,) = finished([own(chunks=["Es ist blau.", "Es ist alt."], source=2)])
    assert example["target"] == "Blau. (Quelle: 2)" and example["sources"] == ["1", "2"]


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        ({"source": 0, "module": 7, "ects": 0}, "7, 0 ECTS (Quelle: 0): x"),
        ({"source": 2.0, "ects": 7.5}, "7.5 ECTS (Quelle: 2): x"),
        ({"source": " a  b\n", "title": "A\nB"}, "A B (Quelle: a b): x"),
        ({"source": " ", "title": None, "ects": float("nan")}, "(Quelle: 1): x"),
        ({"source": "pru\u0308fung"}, "(Quelle: prüfung): x"),
    ],
)
def test_what_is_known_of_a_chunk_may_be_a_number_or_be_lacking(known: Row, shown: str) -> None:
    chunks = [{"text": " x ", **known}, {"text": "y", "source": "z"}]
    named = known["source"] if str(known["source"]).strip() else "1"
    (example,) = finished([own(chunks=chunks, source=named)])
    assert example["fields"]["chunks"][0] == shown and example["gold"] == 0


@pytest.mark.parametrize(
    ("columns", "target"),
    [
        ({"answer": " Blau. "}, "Blau. (Quelle: a-1)"),
        ({"answer": 6}, "6 (Quelle: a-1)"),
        ({"answer": 6.0}, "6 (Quelle: a-1)"),
        ({"answer": "Blau. (Quelle: a-1)"}, "Blau. (Quelle: a-1)"),
        ({"answer": "Blau (Quelle: a-1) ist es.", "source": " a-1 "}, "Blau (Quelle: a-1) ist es."),
        ({"answer": "", "source": None}, REFUSAL),
        ({"answer": REFUSAL, "source": ...}, REFUSAL),
        (
            {"answer": "Leider: dazu steht nichts im Kontext!", "source": ""},
            "Leider: dazu steht nichts im Kontext!",
        ),
        ({"answer": None}, None),
        ({"answer": float("nan")}, None),
        ({"answer": ..., "source": ...}, None),
    ],
)
def test_own_answers_name_their_source_or_refuse(columns: Row, target: str | None) -> None:
    (example,) = finished([own(**columns)], unanswerable=1)
    assert example.get("target") == target
    assert ("short" in example) == (target is not None and not said(target).refused)
    assert all(not said(short).cited for short in example.get("short", []))
    if target is not None and "gold" in example:
        assert said(target).cited == ["a-1"]


def squad(**columns: Any) -> Row:
    return {"question": "Was?", "context": "Es ist blau.", "answers": {"text": ["blau"]}} | columns


@pytest.mark.parametrize(
    ("row", "seen", "allowed"),
    [
        (own(question=""), "question is ''", "expected text"),
        (own(question=3), "question is 3", "expected text"),
        (own(chunks=[]), "chunks is []", "expected a list of texts or of objects with a text"),
        (own(chunks="Es ist blau."), "chunks is 'Es ist blau.'", "expected a list of texts"),
        (own(chunks=None), "chunks is None", "expected a list of texts"),
        (own(chunks=["a", 5]), "the text of chunk 2 is 5", "expected text"),
        (own(chunks=[{"source": "a"}]), "the text of chunk 1 is None", "expected text"),
        (own(chunks=["a", " "]), "the text of chunk 2 is ' '", "expected text"),
        (
            own(chunks=[{"text": "a", "source": "b(1)"}]),
            "the source of chunk 1 is 'b(1)'",
            "must not hold brackets",
        ),
        (
            own(chunks=[{"text": "a", "source": "b[1]"}]),
            "the source of chunk 1 is 'b[1]'",
            "must not hold brackets",
        ),
        (
            own(chunks=[{"text": "a", "source": "b"}, {"text": "c", "source": "b "}]),
            "2 chunks have the source 'b'",
            "could not tell",
        ),
        (own(chunks=[{"text": "a", "source": 2}, "b"]), "2 chunks have the source '2'", "could not tell"),
        (own(source="c"), "the source is 'c'", "none of the chunks' (a-1, 2)"),
        (own(answer=["Blau"]), "answer is ['Blau']", "expected text"),
        (own(answer=" "), "answer is ''", "expected text"),
        (
            own(source=None),
            "answer is 'Blau.' without a source",
            "name one of the chunks' (a-1, 2), or leave it empty",
        ),
        (own(answer=REFUSAL), "which refuses, yet the source is 'a-1'", ""),
        (
            own(answer=cite("", "a-1")),
            "answer is '(Quelle: a-1)', a source alone",
            "expected words before it",
        ),
        (own(answer=cite("Blau", "2")), "which cites 2, yet the source is 'a-1'", ""),
        (squad(question=None), "question is None", "expected text"),
        (squad(context=["a"]), "context is ['a']", "expected text"),
        (
            squad(answers={"text": []}),
            "answers is {'text': []}",
            'expected {"text": [...]} with one text or more',
        ),
        (squad(answers={"texts": ["a"]}), "answers is {'texts': ['a']}", 'expected {"text": [...]}'),
        (squad(answers={"text": ["a", ""]}), "an answer is ''", "expected text"),
        (squad(answers={"text": [5]}), "an answer is 5", "expected text"),
        # as pandas writes a dict into a csv
        (squad(answers="{'text': array(['a'])}"), "answers is \"{'text': array", 'expected {"text": [...]}'),
        (
            squad(answers=cite("blau", "x")),
            "an answer is 'blau (Quelle: x)', which cites or refuses",
            "expected",
        ),
        (squad(answers=REFUSAL), f"an answer is {REFUSAL!r}, which cites or refuses", "expected"),
    ],
)
def test_a_malformed_row_is_told_what_was_seen_and_what_is_allowed(row: Row, seen: str, allowed: str) -> None:
    with pytest.raises(ValueError) as error:
        german_rag.to_example(row)
    assert seen in str(error.value) and allowed in str(error.value)


def test_chunks_may_stand_in_a_csv_as_json() -> None:
    chunks = [{"text": "Das ist blau.", "source": "a-1"}, "Und das rot."]
    assert german_rag.to_example(own(chunks=json.dumps(chunks))) == german_rag.to_example(own(chunks=chunks))
    with pytest.raises(ValueError, match=r"expected a list of texts .*in a csv as JSON"):
        german_rag.to_example(own(chunks="['a', 'b']"))


def test_a_row_with_thousands_of_chunks_is_read() -> None:
    chunks = [{"text": f"Satz {n}.", "source": f"a-{n}"} for n in range(20_000)]
    (example,) = finished([own(chunks=chunks, source="a-19999")])
    assert example["gold"] == 19_999
    with pytest.raises(ValueError, match="none of the chunks") as error:
        german_rag.to_example(own(chunks=chunks, source="b"))
    assert len(str(error.value)) < 300


ODD = ["x" * 20_000, "a\0b", "😀 🙁", "שלום עולם", "\u202eabc", "x\ud800y", "{chunks} {}", "(Quelle: x): y"]


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_pass_through(text: str) -> None:
    rows = [squad(context=text, answers={"text": [text.split()[0]]}, question=text), *paragraphs(3)]
    if not said(text).cited:
        assert text in texts_of(finished(rows, unanswerable=0)[0])
    (example,) = finished([own(chunks=[text, "b"], source="1", question=text)])
    assert texts_of(example) == [text, "b"]


# Files


def write(file: Path, rows: list[Row]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_files_of_either_form_are_read_split_by_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [own(question=f"Frage {n}?") for n in range(40)])
    write(tmp_path / "test.jsonl", paragraphs(3))
    read = Corpus.read(DataConfig(data=str(tmp_path)), RAG).finished(task_of(unanswerable=0))
    assert read.sizes() == {"train": 40, "test": 3} and not read.rejected
    for row in read.splits["test"]:
        assert {text.split()[0] for text in texts_of(row)} == {"Absatz"}, "only of this split"


def test_rows_to_predict_need_no_answer_column(tmp_path: Path) -> None:
    rows = [own(answer=..., source=...), own(answer="", source=""), own(answer=None)]
    for form in (rows, [squad(answers=None, id="a"), {"question": "Was?", "context": "Es ist blau."}]):
        file = write(tmp_path / "rows.jsonl", form)
        read = Corpus.read(DataConfig(data=str(file)), RAG, with_label=False).whole()
        examples = read.finished(task_of(unanswerable=1)).splits[OTHER]
        assert len(examples) == len(form) and not read.rejected
        assert all("target" not in row and row["fields"]["chunks"] for row in examples)


def test_the_sample_is_read_and_asks_for_what_is_not_there_in_a_quarter() -> None:
    read = Corpus.read(DataConfig(data="sample", sample_rows=400), RAG).finished(task_of())
    assert not read.rejected
    rows = read.splits["train"]
    # sqrt(0.25 * 0.75 / 400) = 0.022
    assert sum("gold" not in row for row in rows) / 400 == pytest.approx(0.25, abs=2 * 0.022)
    for row in rows:
        if "gold" in row:
            assert any(holds(texts_of(row)[row["gold"]], short) for short in row["short"])


# What a model reads


def encoded(rows: list[Example], folder: Path, *flags: str) -> tuple[Any, Mapping[str, int], list[list[str]]]:
    words = ["--model", tiny_model("llama", folder), "--init", "random", "--precision", "fp32"]
    words += ["--max-new-tokens", "12", "--quantize", "none", "--lora-rank", "0", *flags]
    task = make_task(RAG, parse(RAG.config, words, "test"))
    found = task.encode(rows)
    return found, task.counts, [task.shown(row) for row in found]


def test_chunks_give_way_and_questions_and_answers_never_do(tmp_path: Path) -> None:
    chunks = [{"text": "Ein langer Satz. " * 20, "source": "a-1"}, {"text": "Kurz.", "source": "b-2"}]
    rows = [
        own(chunks=chunks, answer="Ein langer Satz.", question="Was steht dort geschrieben?", source=source)
        for source in ("a-1", "b-2")
    ]
    found, counts, shown = encoded(finished(rows), tmp_path, "--max-length", "200")
    for row, (prompt, answer), source in zip(found, shown, ("a-1", "b-2"), strict=True):
        assert "Frage: Was steht dort geschrieben?\nAntwort:" in prompt
        assert answer.startswith(f"[[ Ein langer Satz. (Quelle: {source})")
        # bytes are tokens: the beginning of the long chunk stays, with its source, and all of the short one
        assert "(Quelle: a-1): Ein langer Satz." in prompt and "(Quelle: b-2): Kurz.\n" in prompt
        # the answer has 35 tokens; the question counts as a multiple of 5, a 32nd of the rest
        assert 196 <= sum(map(len, row.sequences[:2])) <= 200
    assert counts["prompts cut"] == 2 and counts["questions cut"] == 0
    assert counts["gold passages cut"] == 1, "the one whose answer stands in the chunk that was cut"


def test_what_is_read_to_write_does_not_tell_how_long_a_known_answer_is(tmp_path: Path) -> None:
    """Up to 12 tokens are written; an answer of 35 takes room from its prompt only where it is learned."""
    chunks = [{"text": "Ein langer Satz. " * 20, "source": "a-1"}]
    known = own(chunks=chunks, answer="Ein langer Satz.", question="Was steht dort?", source="a-1")
    rows = finished([known, {**known, "answer": None, "source": None}])
    found, counts, _ = encoded(rows, tmp_path, "--max-length", "200")
    both = pack(found)
    assert to_write(both, 0).tolist() == to_write(both, 1).tolist()
    assert len(found[0].sequences[0]) < len(to_write(both, 0)) <= 200 - 12
    assert counts["questions cut"] == 0
    # what is trained on, and what it costs, is the shorter one
    costs = Costs(both.with_first(2))
    assert costs.tokens(np.array([0])) == sum(map(len, found[0].sequences[:2])) <= 200


def test_a_prompt_without_a_field_is_refused(tmp_path: Path) -> None:
    words = ["--model", tiny_model("llama", tmp_path), "--init", "random", "--quantize", "none"]
    words += ["--lora-rank", "0", "--template", "Nur {chunks}", "--max-length", "200"]
    words += ["--max-new-tokens", "12"]
    with pytest.raises(ValueError, match=r"no \{question\}, .* needs \{chunks\} and \{question\}"):
        make_task(RAG, parse(RAG.config, words, "test")).check()


def test_a_row_whose_answer_fits_but_for_its_source_is_rejected(tmp_path: Path) -> None:
    """The template without chunks has 27 bytes, with a question of 5 and the start 33; an answer of 40 is
    " Die Antwort lautet: " around it, ". (Quelle: quelle-123)" behind it and the end: 21 + 40 + 22 + 1."""
    rows = [
        {
            "id": name,
            "question": "Wie ?",
            "context": f"{name}. Es war {answer}.",
            "answers": {"text": [answer]},
        }
        for name, answer in [("fits", "x" * 38), *((word, "y" * 40) for word in ("too long", "long too"))]
    ]
    folder = tmp_path / "rows"
    folder.mkdir()
    read = Corpus.read(DataConfig(data=str(write(folder / "train.jsonl", rows))), RAG)
    words = ["--model", tiny_model("llama", tmp_path), "--init", "random", "--unanswerable", "0"]
    words += ["--quantize", "none", "--lora-rank", "0", "--max-new-tokens", "12", "--max-length", "115"]
    config = parse(RAG.config, words, "test")
    task = make_task(RAG, config)
    left = read.usable(lambda found: task.unusable(found, lambda: None), config.task)
    assert [row["id"] for row in left.splits["train"]] == ["fits"]
    assert sorted(one.reason[:29] for one in left.rejected) == ["its text has 84 tokens and do"] * 2
    # a length that would do is a length that the model takes
    task.described.config.max_position_embeddings = 115
    left = read.usable(lambda found: task.unusable(found, lambda: None), config.task)
    assert all(one.reason.endswith("takes 115") and "it needs" in one.reason for one in left.rejected)


@needs_questions
def test_cut_passages_are_counted_on_real_questions(tmp_path: Path) -> None:
    rows = [row for row in real_examples() if "gold" in row][:8]
    rows += [row for row in real_examples() if "gold" not in row][:8]
    _, counts, _ = encoded(rows, tmp_path, "--max-length", "512")
    # every context has four paragraphs of 500 bytes or more, and loses some of the longest
    assert counts["prompts cut"] == 16 and 0 < counts["gold passages cut"] <= 8
    _, warning = counted(counts)
    assert f"{counts['gold passages cut']} rows' passages with the answer were cut" in warning


@pytest.mark.parametrize("flags", [["--chunks", "0"], ["--unanswerable", "1.5"], ["--letters-only"]])
def test_what_no_context_can_be_made_of_is_refused(flags: list[str]) -> None:
    with pytest.raises(ValueError, match=flags[0]):
        parse(RAG.config, flags, "test")


def test_a_chunk_says_what_is_known_of_it_in_one_line() -> None:
    assert described(Chunk("t", "s", "m", "n", "6")) == "n, m, 6 ECTS (Quelle: s): t"
    assert described(Chunk("t", "s")) == "(Quelle: s): t" and text_of("(Quelle: s): t: u", "s") == "t: u"
