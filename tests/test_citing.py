"""What an answer cites and whether it refuses; scores of some rows only go through everything that is said of
scores."""

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib import recipe as recipes
from lib.answers import citing, intervals
from lib.answers import load as answers_of
from lib.answers.citing import REFUSAL, cite, covered, matrix, said
from lib.answers.intervals import Groups
from lib.base.files import write_json, write_lines
from lib.config_tree import to_dict
from lib.launching import seeds
from lib.recipe import Example, Prediction
from lib.recipes import german_rag
from lib.reports import summary
from lib.reports.compare import compare
from lib.reports.compare_words import lines
from lib.reports.report import write_report
from lib.runs.folder import RunFolder

RAG = recipes.load("german_rag")
CITED = answers_of(RAG)
NAMES = [metric.name for metric in citing.ALL]


@pytest.mark.parametrize(
    ("answer", "cited"),
    [
        ("Es ist blau. (Quelle: a-1)", ["a-1"]),
        ("Es ist blau.(quelle:a-1).", ["a-1"]),
        ("( Quelle :\n a-1 ) Es ist blau.", ["a-1"]),
        ("Blau (Quelle: a-1), alt (Quelle: b-2).", ["a-1", "b-2"]),
        ("Blau (Quelle: a-1), alt (Quelle: a-1).", ["a-1"]),
        ("Blau (Quelle: a-1, b-2)", ["a-1, b-2"]),
        ("Blau (Quelle: Handbuch  Seite\n3)", ["Handbuch Seite 3"]),
        (unicodedata.normalize("NFD", "Blau (Quelle: prüfung-1)"), ["prüfung-1"]),
        # no citation: nothing named, another word, no brackets, or brackets that never close
        ("Blau (Quelle: )", []),
        ("Blau (Quelle:)", []),
        ("Blau (Quellen: a-1)", []),
        ("Blau, Quelle: a-1", []),
        ("Blau (Quelle: a-1", []),
        ("Blau (Quelle: (a-1))", []),
        ("", []),
        ("(Quelle: " * 20_000, []),
        # a refusal names nothing
        (cite(REFUSAL, "a-1"), []),
    ],
)
def test_what_an_answer_cites(answer: str, cited: list[str]) -> None:
    assert said(answer).cited == cited


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (REFUSAL, True),
        ("dazu steht NICHTS im Kontext", True),
        ("Leider gilt: Dazu steht nichts im Kontext, tut mir leid.", True),
        (cite(REFUSAL, "a-1"), True),
        ("Dazu steht nichts (Quelle: a-1) im Kontext.", True),
        ("Dazu steht leider nichts im Kontext.", False),
        ("Dazu steht nichts im Kontextfenster.", False),
        ("", False),
    ],
)
def test_a_refusal_is_its_words_side_by_side(answer: str, refused: bool) -> None:
    assert said(answer).refused is refused


def row(answer: str, source: str | None, *short: str, number: int = 0, **more: Any) -> Prediction:
    of_source = {} if source is None else {"source": source}
    group, target = f"g{number // 2}", REFUSAL if source is None else cite(short[0] if short else "x", source)
    return Prediction(
        id=f"r{number}", group=group, answer=answer, target=target, short=list(short), **of_source, **more
    )


@pytest.mark.parametrize(
    ("answer", "short", "holds"),
    [
        ("Die Antwort lautet: 308. (Quelle: a)", ["308"], True),
        ("Die Antwort lautet: 3080.", ["308"], False),
        ("Es sind die panthers", ["Denver", "Panthers"], True),
        ("Nach vorn", ["Nach hinten", "?"], False),
        # neither from the citation nor from a refusal
        ("Blau (Quelle: 308)", ["308"], False),
        (REFUSAL, ["nichts"], False),
        ("Blau", [], False),
    ],
)
def test_an_answer_covers_what_was_asked_word_for_word(answer: str, short: list[str], holds: bool) -> None:
    assert covered(row(answer, "a", *short)) is holds


# Seven rows: four with an answer in their context, three without.
ROWS = [
    row(cite("Blau.", "a"), "a", "Blau", number=0),
    row(cite("Rot.", "b"), "a", "Blau", number=1),
    row("Blau.", "a", "Blau", number=2),
    row(REFUSAL, "a", "Blau", number=3),
    row(REFUSAL, None, number=4),
    row(cite("Rot.", "b"), None, number=5),
    row("Rot.", None, number=6),
]


def test_every_row_stands_once_in_the_matrix() -> None:
    found = matrix(ROWS)
    assert list(found["answerable"].values()) == [1, 1, 1, 1]
    assert found["not answerable"] == {
        "cites the right source": 0,
        "cites another": 1,
        "cites none": 1,
        "refuses": 1,
    }
    assert sum(sum(counts.values()) for counts in found.values()) == len(ROWS)


def test_scores_are_shares_of_the_rows_they_are_about() -> None:
    found = RAG.score(ROWS)
    # three answers cite, one of them what is right; of four rows with an answer one is cited rightly, two
    # hold "Blau" and one is refused; of three without one is refused
    expected = {"citation_precision": 1 / 3, "citation_recall": 1 / 4, "coverage": 2 / 4}
    expected |= {"correct_refusals": 1 / 3, "false_refusals": 1 / 4}
    assert {name: found[name] for name in NAMES} == pytest.approx(expected)


def test_the_scores_say_what_the_matrix_says() -> None:
    draw, rows = np.random.default_rng(0), []
    answers = [cite("Blau.", "a"), cite("Blau.", "b"), REFUSAL, cite(REFUSAL, "a"), "Blau.", "(Quelle: )"]
    for number in range(200):
        rows.append(row(str(draw.choice(answers)), draw.choice(["a", None]), "Blau", number=number))
    scores, (there, lacking) = RAG.score(rows), matrix(rows).values()
    right, another, none, refused = there.values()
    assert right + another + none + refused + sum(lacking.values()) == 200 and lacking["cites none"]
    num_cited = right + another + lacking["cites another"]
    assert scores["citation_recall"] == right / sum(there.values())
    assert scores["citation_precision"] == pytest.approx(right / num_cited)
    assert scores["false_refusals"] == pytest.approx(refused / sum(there.values()))
    assert scores["correct_refusals"] == pytest.approx(lacking["refuses"] / sum(lacking.values()))


def test_another_form_of_an_umlaut_is_the_same_source() -> None:
    composed, apart = "prüfung-1", unicodedata.normalize("NFD", "prüfung-1")
    found = RAG.score([row(cite("Blau.", composed), apart, "Blau"), row(cite("Blau.", apart), composed)])
    assert found["citation_recall"] == 1


def test_a_citation_where_there_is_nothing_to_cite_is_never_right() -> None:
    rows = [row(cite("Blau.", "None"), None), row("Blau. (Quelle: )", None)]
    assert RAG.score(rows)["citation_precision"] == 0
    assert matrix(rows)["not answerable"]["cites another"] == 1


# Scores of some rows, through everything that is said of scores


def rows_of(right: float, refusing: float, seed: int = 0, num_rows: int = 120) -> list[Prediction]:
    """Four of five rows with an answer; `right`: the share of answers that are (and cite) right; `refusing`:
    the share of rows without an answer that are refused."""
    draw, found = np.random.default_rng(seed), []
    for number in range(num_rows):
        lucky, kind = draw.random(2)
        if number % 5:
            known = f"Wort{number}"
            answer = cite(known, "a") if lucky < right else cite("Falsch", "b") if kind < 0.5 else "Falsch"
            found.append(row(answer, "a", known, number=number, ended=True))
        else:
            answer = REFUSAL if lucky < refusing else cite("Falsch", "b")
            found.append(row(answer, None, number=number, ended=True))
        found[-1] |= {"loss": 4.0 + lucky, "num_tokens": 4, "num_written": 5}  # type: ignore[typeddict-item]
    return found


def examples_of(rows: list[Prediction]) -> list[Example]:
    """The rows as they were before anything was said of them."""
    found = []
    for one in rows:
        example = Example(
            id=one["id"],
            group=one["group"],
            target=one["target"],
            sources=["b", "a"],
            fields={"chunks": ["[b] x: Das ist rot. Und alt.", "[a] y: Das ist blau."], "question": ["Was?"]},
        )
        if "source" in one:
            example |= {"gold": 1, "short": one["short"]}  # type: ignore[typeddict-item]
        found.append(example)
    return found


def summarized(rows: list[Prediction], base: list[Prediction] | None = None) -> Any:
    examples = examples_of(rows)
    before = {} if base is None else {"base model": RAG.by_row(base)}
    return summary.summarize(RAG, rows, before | CITED.baselines(examples, examples))


def test_the_baselines_are_scored_as_models_are() -> None:
    found = summarized(rows_of(0.9, 0.9))["baselines"]
    value = {name: {score: each["value"] for score, each in scores.items()} for name, scores in found.items()}
    # 24 of 120 rows have no answer: to refuse is right of these and false of the others
    assert value["always refuse"]["correct_refusals"] == value["always refuse"]["false_refusals"] == 1
    assert value["always refuse"]["exact_match"] == 24 / 120
    assert value["always refuse"]["citation_recall"] == value["always refuse"]["coverage"] == 0
    assert "citation_precision" not in value["always refuse"], "it never cites"
    first = value["first sentence of the first chunk"]
    assert first["citation_precision"] == first["citation_recall"] == 0 and first["correct_refusals"] == 0
    assert list(found) == ["another row's text", "always refuse", "first sentence of the first chunk"]


def test_a_score_that_no_row_counts_for_is_left_out() -> None:
    rows = [one for one in rows_of(0.0, 1.0) if "source" not in one]
    found = summarized(rows)
    assert set(NAMES) & set(found["scores"]) == {"correct_refusals"}
    assert found["scores"]["correct_refusals"]["value"] == 1
    assert sum(found["matrix"]["answerable"].values()) == 0


@pytest.mark.parametrize("num_rows", [1, 2, 5, 120])
def test_no_file_holds_a_number_that_is_none(num_rows: int) -> None:
    for rows in (rows_of(1, 1, num_rows=num_rows), rows_of(0, 0, num_rows=num_rows)):
        json.dumps(summarized(rows, base=rows_of(0.5, 0, seed=1, num_rows=num_rows)), allow_nan=False)


def test_limits_are_of_the_rows_that_count() -> None:
    rows = rows_of(0.6, 0.5)
    found = summarized(rows)["scores"]["correct_refusals"]
    refused = [float(one["answer"] == REFUSAL) for one in rows if "source" not in one]
    alone = intervals.interval(np.array(refused), Groups(f"g{place}" for place in range(24)), share=True)
    assert (found["value"], found["low"], found["high"]) == (alone.value, alone.low, alone.high)


def test_a_good_model_is_not_beaten_by_one_that_refuses_all() -> None:
    """`always refuse` refuses more of what cannot be answered, and pays nothing for it there."""
    found = summarized(rows_of(0.95, 0.4))
    assert found["warnings"] == []
    assert "correct_refusals" not in found["gains"]["always refuse"]
    assert found["gains"]["always refuse"]["exact_match"] == 1
    bad = summarized(rows_of(0.0, 0.0))["warnings"]
    assert bad[0].startswith("THE MODEL'S ANSWERS CANNOT BE TOLD FROM CHANCE")
    assert any(warning.startswith("ALWAYS REFUSE IS BETTER THAN THE MODEL") for warning in bad)


def test_a_model_that_unlearned_to_refuse_is_worse_than_it_was() -> None:
    found = summarized(rows_of(0.9, 0.1), base=rows_of(0.9, 1.0, seed=1))
    assert found["gains"]["base model"]["correct_refusals"] == -1
    (warning,) = found["warnings"]
    assert warning.startswith("BASE MODEL IS BETTER THAN THE MODEL BEYOND THE 95 % INTERVAL: ")
    assert "correct_refusals" in warning


def test_one_text_for_all_rows_is_no_fault_where_all_rows_ask_for_it() -> None:
    nothing = [row(REFUSAL, None, number=number) for number in range(4)]
    assert CITED.warnings(nothing) == []
    assert CITED.warnings([*nothing, row(REFUSAL, "a", "Blau", number=4)])[0].startswith(
        "THE MODEL WRITES ONE"
    )


def test_a_difference_of_shares_of_other_rows_is_that_of_the_shares() -> None:
    rows = [rows_of(right, 0.5, seed) for right, seed in ((0.5, 0), (0.9, 1))]
    groups = Groups(map(str, range(120)))
    before, after = (RAG.by_row(each)["citation_precision"] for each in rows)
    assert (np.isnan(before) != np.isnan(after)).any()
    found = intervals.difference(before, after, groups, partial=True)
    assert found.value == pytest.approx(np.nanmean(after) - np.nanmean(before))
    assert 0 < found.low < found.value < found.high
    # where both count the same rows, it is the paired difference of these alone
    same = ~np.isnan(before)
    other = np.where(same, np.nan_to_num(after), np.nan)
    paired = intervals.difference(before[same], other[same], Groups(map(str, range(int(same.sum())))))
    assert intervals.difference(before, other, groups, partial=True) == paired


def test_pseudo_values_of_a_share_have_its_mean() -> None:
    values = np.array([1.0, np.nan, 0.0, 1.0, np.nan])
    # m = 2 / 3; n m - (n - 1) m(without the row): without a 1 it is 1 / 2, without the 0 it is 1, else m
    expected = [5 * 2 / 3 - 4 / 2, 2 / 3, 5 * 2 / 3 - 4, 5 * 2 / 3 - 4 / 2, 2 / 3]
    assert intervals.over_all_rows(values) == pytest.approx(expected)
    assert np.mean(expected) == pytest.approx(2 / 3)
    assert intervals.over_all_rows(np.array([np.nan, 1.0])).tolist() == [1, 1]


# Runs


def write_run(path: Path, rows: list[Prediction], seed: int = 0) -> str:
    folder = RunFolder(path)
    folder.predictions("test").parent.mkdir(parents=True)
    config = to_dict(RAG.config)
    config["optim"]["seed"] = seed
    write_json(path / "config.json", config)
    folder.write_record(fingerprints={"data": "d", "split": "s"})
    folder.write_status(phase="done", exit_code=0)
    write_lines(folder.predictions("test"), rows)
    scores = {"checkpoint": "step-000020", "precision": "fp32", "splits": {"test": summarized(rows)}}
    write_json(path / "scores.json", scores)
    return str(path)


def test_runs_that_cite_in_other_rows_are_compared(tmp_path: Path) -> None:
    runs = [(0.5, 1), (0.95, 2)]
    words = tuple(write_run(tmp_path / f"run{seed}", rows_of(right, 0.5, seed)) for right, seed in runs)
    (pair,) = compare(words, "test", False, "runs").pairs
    shares = [RAG.score(rows_of(right, 0.5, seed))["citation_precision"] for right, seed in runs]
    scored = pair.scores["citation_precision"]
    assert (scored.first.value, scored.other.value) == pytest.approx(shares)
    assert scored.difference.value == pytest.approx(shares[1] - shares[0])
    assert not any("nan" in line for line in lines(compare(words, "test", False, "runs")))


def test_seeds_one_of_which_never_cites_are_compared_without_that_score(tmp_path: Path) -> None:
    rows = [rows_of(0.5, 0.5, 1), [Prediction(**{**one, "answer": "Falsch"}) for one in rows_of(0.5, 0.5, 2)]]
    rows += [rows_of(0.9, 0.5, 3), rows_of(0.9, 0.5, 4)]
    names = [write_run(tmp_path / f"run{seed}", each, seed) for seed, each in enumerate(rows)]
    (pair,) = compare((",".join(names[:2]), ",".join(names[2:])), "test", False, "runs").pairs
    assert "citation_precision" not in pair.scores and "citation_recall" in pair.scores
    found = seeds.summarize({seed: RunFolder(Path(name)) for seed, name in enumerate(names[:2])})["test"]
    assert "citation_precision" not in found
    # the first seed's 96 answerable rows, the other cites nothing
    recall = RAG.score(rows[0])["citation_recall"]
    assert found["citation_recall"]["seeds"] == {0: recall, 1: 0.0}
    assert found["citation_recall"]["spread"] == pytest.approx(recall / math.sqrt(2))


def test_the_page_shows_the_matrix(tmp_path: Path) -> None:
    rows = rows_of(0.9, 0.5)
    path = Path(write_run(tmp_path / "run", rows))
    page = write_report(RunFolder(path), {"test": examples_of(rows)}).read_text()
    assert "Answered, cited, refused" in page
    for counts in matrix(rows).values():
        assert all(f">{count:,} <small>" in page for count in counts.values())


# The text of a chunk is what follows its name


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Das ist rot. Und alt.", "Das ist rot."),
        ("Ein Satz ohne Ende", "Ein Satz ohne Ende"),
        ("Hinweis: Es ist rot. Und alt.", "Hinweis: Es ist rot."),
        ("(Quelle: x): Das ist rot.", "(Quelle: x): Das ist rot."),
    ],
)
@pytest.mark.parametrize("known", [{}, {"source": "a: b", "title": "Modul: Farben (neu)", "ects": 3}])
def test_the_first_sentence_is_that_of_the_chunks_text(
    text: str, sentence: str, known: dict[str, Any]
) -> None:
    chunks = [{"text": text, **known}, {"text": "x", "source": "c"}]
    example = german_rag.to_example({"question": "Was?", "chunks": chunks})
    (example,) = german_rag.finish([example], RAG.config.task)
    assert german_rag.first_sentence(example) == cite(sentence, known.get("source", "1"))
