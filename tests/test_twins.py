"""Rows asked again with one thing changed: each kind of sabotage is named by a line of its own."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from lib import recipe
from lib.answers import load as answers_of
from lib.answers import twins
from lib.answers.citing import REFUSAL, cite
from lib.corpus.corpus import Corpus
from lib.evaluation.scoring import kept
from lib.recipe import Example, Prediction

RAG = recipe.load("german_rag")


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    data = dataclasses.replace(RAG.config.data, data="sample", sample_rows=400)
    return Corpus.read(data, RAG).complete().splits["train"][:120]


Model = Callable[[Example], str]


def honest(row: Example) -> str:
    """Reads: the right answer and its source, or a refusal; all from the words of the row."""
    return row["target"]


def first_chunk(row: Example) -> str:
    """Answers right and cites whatever stands first."""
    if not row["sources"] or "gold" not in row:
        return REFUSAL
    return cite(row["short"][0], row["sources"][0])


def never_refuses(row: Example) -> str:
    if "gold" in row:
        return row["target"]
    return cite("Das ist so.", row["sources"][0]) if row["sources"] else "Das ist so."


def by_heart(answers: dict[str, str]) -> Model:
    """Knows every answer by the question alone and cites right."""

    def said(row: Example) -> str:
        known = answers[row["id"]]
        return cite(known, row["sources"][row["gold"]]) if "gold" in row else known

    return said


def by_place(places: dict[str, int]) -> Model:
    """Cites the place at which the right chunk once stood."""

    def said(row: Example) -> str:
        place = places[row["id"]]
        return (
            cite(row.get("short", [""])[0], row["sources"][place]) if len(row["sources"]) > place else REFUSAL
        )

    return said


def old_names(names: dict[str, str]) -> Model:
    def said(row: Example) -> str:
        return cite(row["short"][0], names[row["id"]]) if "gold" in row else REFUSAL

    return said


def judged(rows: list[Example], model: Model) -> twins.Twins:
    kinds = twins.make(rows)
    said: dict[str, list[Prediction]] = {
        name: kept([Prediction(id=row["id"], answer=model(row)) for row in some], some, RAG)
        for name, some in kinds.items()
    }
    return twins.judge("test", said)


def rates(found: twins.Twins) -> dict[str, float]:
    return {name: rate["value"]["value"] for name, rate in found["rates"].items() if rate["value"]}


def test_a_model_that_reads_does_what_is_to_happen_each_time(rows: list[Example]) -> None:
    found = judged(rows, honest)
    assert found["warnings"] == [] and set(rates(found).values()) == {1.0}
    assert set(found["rates"]) == {*twins.KINDS, "another than the first"}


@pytest.mark.parametrize(
    ("sabotage", "named", "untouched"),
    [
        ("first_chunk", "IT CITES THE FIRST CHUNK", "answer edited"),
        ("never_refuses", "IT DOES NOT REFUSE", "chunk moved"),
        ("by_heart", "IT IGNORES THE CONTEXT", "chunk moved"),
        ("by_place", "IT CITES A PLACE", "answer edited"),
        ("old_names", "IT HAS NAMES BY HEART", "chunk moved"),
    ],
)
def test_each_sabotage_is_named_by_a_line_of_its_own(
    rows: list[Example], sabotage: str, named: str, untouched: str
) -> None:
    own = twins.make(rows)["as it is"]
    models: dict[str, Model] = {
        "first_chunk": first_chunk,
        "never_refuses": never_refuses,
        "by_heart": by_heart({row["id"]: row["short"][0] for row in own}),
        "by_place": by_place({row["id"]: row["gold"] for row in own}),
        "old_names": old_names({row["id"]: row["sources"][row["gold"]] for row in own}),
    }
    found = judged(rows, models[sabotage])
    assert any(named in warning for warning in found["warnings"]), found["warnings"]
    assert rates(found)[untouched] > 0.9, "what it does well is not held against it"
    lines = "\n".join(twins.lines(found))
    assert named in lines and f"{found['num_rows']} test rows" in lines


def test_one_thing_changes_and_nothing_else(rows: list[Example]) -> None:
    kinds: dict[str, dict[str, Any]] = {
        name: {row["id"]: row for row in some} for name, some in twins.make(rows).items()
    }
    for identity, row in kinds["as it is"].items():
        chunks, gold = row["fields"]["chunks"], row["gold"]
        if len(chunks) == 1:
            assert identity not in kinds["chunk moved"] and identity not in kinds["chunk removed"]
            continue
        removed, moved, renamed = (kinds[name][identity] for name in [*twins.KINDS][:3])
        assert removed["fields"]["chunks"] == chunks[:gold] + chunks[gold + 1 :]
        assert removed["target"] == REFUSAL and "gold" not in removed and "short" not in removed
        assert sorted(moved["fields"]["chunks"]) == sorted(chunks) and moved["gold"] != gold
        assert moved["sources"][moved["gold"]] == row["sources"][gold] and moved["target"] == row["target"]
        assert renamed["sources"][gold] not in row["sources"]
        assert f"(Quelle: {renamed['sources'][gold]}): " in renamed["fields"]["chunks"][gold]
        assert renamed["target"] == cite(row["short"][0], renamed["sources"][gold])
        assert kinds["no context"][identity]["fields"]["chunks"] == []
        assert all(kinds[name][identity]["fields"]["question"] == row["fields"]["question"] for name in kinds
                   if identity in kinds[name])  # fmt: skip
    edited = kinds["answer edited"]
    assert len(edited) > 0.8 * len(kinds["as it is"])
    for identity, row in edited.items():
        old = kinds["as it is"][identity]
        assert old["short"][0] not in row["fields"]["chunks"][row["gold"]]
        assert row["short"][0] in row["fields"]["chunks"][row["gold"]] and row["short"][0] in row["target"]


def test_few_groups_call_nobody_out(rows: list[Example]) -> None:
    found = judged(rows[:8], first_chunk)
    assert found["warnings"] == [] and found["num_rows"] < 10


def test_the_scorecard_knows_what_the_twins_know(rows: list[Example]) -> None:
    said = kept([Prediction(id=row["id"], answer=row["target"]) for row in rows], rows, RAG)
    matrix: Any = answers_of(RAG).details(said)["matrix"]  # type: ignore[typeddict-item]
    assert matrix["answerable"]["cites the right source"] == sum("gold" in row for row in rows)
    assert matrix["not answerable"]["refuses"] == sum("gold" not in row for row in rows)


@pytest.mark.parametrize(
    ("question", "answer", "news"),
    [
        ("Wie ist die Prüfung in Statistik?", "Im Modul Statistik ist die Prüfung mündlich.", "mündlich"),
        ("Welche Software gilt?", "Die Software ist R 4.5.", "ist R 4.5"),
        ("Wann wurde Bern gegründet?", "1191", "1191"),
        ("Wurde Bern 1191 gegründet?", "1191 wurde Bern gegründet", "1191 wurde Bern gegründet"),
        ("Was heisst »?«", "?!", "?!"),
    ],
)
def test_what_an_answer_says_is_what_its_question_does_not_say(question: str, answer: str, news: str) -> None:
    row = Example(group="", fields={"question": [question]}, short=[answer])
    assert twins._news(row) == news
