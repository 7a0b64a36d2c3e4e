"""Scores of texts are those of the libraries that others use, or of numbers worked out by hand."""

import json
import math
import unicodedata
from typing import Any

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from lib import recipe as recipes
from lib.answers import load as answers_of
from lib.answers import text_metrics
from lib.answers.text_metrics import (
    BLEU,
    CHRF,
    EMPTY,
    ENDED,
    EXACT,
    LOSS,
    PERPLEXITY,
    REPETITION,
    ROUGE_1,
    ROUGE_2,
    ROUGE_L,
    TOKEN_F1,
    repetition,
    sentences,
    signatures,
    words,
)
from lib.recipe import Metric, Prediction
from lib.recipes import meta_review
from tests.tools import SHARED

REVIEWS = SHARED / "meta_review" / "longest_review.validation.jsonl"
OF_TEXTS = (ROUGE_1, ROUGE_2, ROUGE_L, BLEU, CHRF, EXACT, TOKEN_F1, REPETITION, EMPTY)
CORPUS = {"bleu": (BLEU, sacrebleu.corpus_bleu), "chrf": (CHRF, sacrebleu.corpus_chrf)}
needs_reviews = pytest.mark.skipif(not REVIEWS.is_file(), reason="needs ../shared/data/meta_review")


def row(answer: str, target: str, **more: Any) -> Prediction:
    return Prediction(id="0", answer=answer, target=target, ended=True, **more)


def real_rows() -> list[Prediction]:
    """Meta-reviews of real papers, and the beginning of a review instead of a model's text."""
    lines = REVIEWS.read_text(encoding="utf-8").splitlines()
    examples = [meta_review.to_example(json.loads(line)) for line in lines]
    return [row(meta_review.lead(example), example["target"]) for example in examples]


def of_sacrebleu(kind: str, rows: list[Prediction]) -> float:
    return float(CORPUS[kind][1]([r["answer"] for r in rows], [[r["target"] for r in rows]]).score)


# Scores of all texts together


@needs_reviews
@pytest.mark.parametrize("kind", CORPUS)
def test_bleu_and_chrf_are_sacrebleus_of_the_whole_corpus(kind: str) -> None:
    rows = real_rows()
    assert len(rows) == 189
    assert CORPUS[kind][0](rows) == pytest.approx(of_sacrebleu(kind, rows), rel=1e-9)


@needs_reviews
@pytest.mark.parametrize("kind", CORPUS)
def test_what_a_corpus_score_says_of_a_row_is_its_jackknife_pseudo_value(kind: str) -> None:
    rows = real_rows()[:40]
    values = CORPUS[kind][0].by_row(rows)
    # n f(all) - (n - 1) f(all but the row), all moved by one number so that their mean is f(all)
    whole = of_sacrebleu(kind, rows)
    pseudo = np.array(
        [40 * whole - 39 * of_sacrebleu(kind, rows[:place] + rows[place + 1 :]) for place in range(40)]
    )
    np.testing.assert_allclose(values, pseudo - pseudo.mean() + whole, atol=1e-9)


def test_the_corpus_score_of_equal_texts_is_100_and_no_more() -> None:
    rows = [row("Der Dom in Aachen ist alt.", "Der Dom in Aachen ist alt.")] * 3
    for metric in (BLEU, CHRF):
        # the logarithms of BLEU make 100.00000000000004 of it
        assert metric.by_row(rows) == pytest.approx([100] * 3) and metric(rows) <= 100


def test_a_loss_is_the_sum_over_the_count_of_tokens_and_the_perplexity_its_exponential() -> None:
    losses = [(2.0, 1), (6.0, 9), (1.0, 2)]
    rows = [Prediction(id="0", loss=loss, num_tokens=size) for loss, size in losses]
    # 9 / 12; a mean of means would be (2 + 2 / 3 + 1 / 2) / 3
    assert LOSS(rows) == pytest.approx(0.75) and PERPLEXITY(rows) == pytest.approx(math.exp(0.75))
    # without each row: 7 / 11, 3 / 3, 8 / 10; 3 * 0.75 - 2 of that: 0.97727, 0.25, 0.65, of mean 0.62576
    expected = np.array([3 * 0.75 - 2 * 7 / 11, 0.25, 0.65])
    assert LOSS.by_row(rows) == pytest.approx(expected - expected.mean() + 0.75)


def test_a_perplexity_that_no_number_can_hold_is_finite() -> None:
    rows = [Prediction(id="0", loss=8000.0, num_tokens=2), Prediction(id="1", loss=1.0, num_tokens=2)]
    assert math.isfinite(PERPLEXITY(rows)) and PERPLEXITY(rows) > 1e300


def test_one_row_is_its_own_score() -> None:
    one = [row("a b c d e", "a b c d f", loss=3.0, num_tokens=4)]
    for metric in (LOSS, PERPLEXITY, *OF_TEXTS):
        assert metric.by_row(one).shape == (1,), metric.name
    assert LOSS(one) == 0.75 and CHRF(one) == pytest.approx(of_sacrebleu("chrf", one))


# Words


def test_words_keep_letters_of_every_alphabet_with_their_marks() -> None:
    assert words("Die GRÖßE, 3,5 µm (ca.)!") == ["die", "größe", "3", "5", "µm", "ca"]
    assert words("snake_case") == ["snake", "case"], "as rouge-score's own tokenizer has it"
    assert words("Ünï") == words(unicodedata.normalize("NFD", "Ünï")) == ["ünï"]
    # two words of Hindi that differ in a vowel, which is a mark and no letter
    assert words("कि") != words("का") and words("कि") == ["कि"]
    assert words("שלום عالم") == ["שלום", "عالم"] and words("... 😀 \0") == []


def test_words_that_differ_in_an_umlaut_have_nothing_in_common() -> None:
    rows = [row("größe", "grüße")]
    assert [metric(rows) for metric in (ROUGE_1, ROUGE_L, TOKEN_F1, EXACT)] == [0, 0, 0, 0]
    # rouge-score's own tokenizer sees "gr e" in both
    theirs = rouge_scorer.RougeScorer(["rouge1"]).score("größe", "grüße")
    assert theirs["rouge1"].fmeasure == 1.0


def test_an_umlaut_in_two_characters_is_the_same_word() -> None:
    composed = "Die Prüfung für Ärzte"
    rows = [row(unicodedata.normalize("NFD", composed), composed)]
    assert rows[0]["answer"] != composed
    assert [metric(rows) for metric in (ROUGE_1, ROUGE_2, ROUGE_L, EXACT, TOKEN_F1)] == [1] * 5


@needs_reviews
def test_rouge_is_rouge_scores_own_where_all_is_ascii() -> None:
    rows = [r for r in real_rows() if (r["answer"] + r["target"]).isascii()]
    assert len(rows) > 100
    theirs = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [theirs.score(r["target"], r["answer"]) for r in rows]
    for metric, kind in ((ROUGE_1, "rouge1"), (ROUGE_2, "rouge2"), (ROUGE_L, "rougeL")):
        assert metric.by_row(rows).tolist() == [score[kind].fmeasure for score in scores], kind


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Eins. Zwei! Drei? Vier", ["Eins.", "Zwei!", "Drei?", "Vier"]),
        ("3.5 Punkte.\n\nMehr", ["3.5 Punkte.", "Mehr"]),
        (" . ", ["."]),
        ("", []),
    ],
)
def test_sentences_end_with_a_sign_before_white_space(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


# Scores of one text


@pytest.mark.parametrize(
    ("answer", "target", "exact", "overlap"),
    [
        ("Die Antwort lautet: 308.", "die antwort lautet 308", 1, 1),
        # 2 of 3 words and of 4: 2 * 2 / 7
        ("a b x", "a b c d", 0, 4 / 7),
        # a word in common counts as often as both have it: 1; 2 * 1 / 5
        ("a a a", "a b", 0, 2 / 5),
        ("b a", "a b", 0, 1),
        ("3,5", "35", 0, 0),
        ("", "a", 0, 0),
        ("a", "", 0, 0),
        ("", "", 1, 1),
        # signs are compared where there are no words
        ("?!", "...", 0, 0),
        ("😀", "😀 ", 1, 1),
        ("\0", "\0", 1, 1),
    ],
)
def test_exact_match_and_overlap_are_of_words(answer: str, target: str, exact: int, overlap: float) -> None:
    rows = [row(answer, target)]
    assert EXACT(rows) == exact and TOKEN_F1(rows) == pytest.approx(overlap)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        ("a a a", 0),
        ("a b c d", 0),
        # aaaa twice: one of two stood there before
        ("a a a a a", 1 / 2),
        # abcd bcda cdab dabc abcd: one of five
        ("A b c d, a b c d", 1 / 5),
        ("nein " * 103, 99 / 100),
        # of signs: :::: five times
        (":" * 8, 4 / 5),
        ("Quelle", 0),
    ],
)
def test_repetition_is_the_share_of_runs_of_four_that_stood_there(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share) and REPETITION([row(text, "x")]) == pytest.approx(share)


def test_empty_and_ended_are_shares_of_rows() -> None:
    rows = [row(" \n", "a"), row("a", "a"), row("?", "a"), row("", "a")]
    rows[2]["ended"] = False
    assert EMPTY(rows) == 2 / 4 and ENDED(rows) == 3 / 4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"answer": "Accept."}, "THE MODEL WRITES ONE AND THE SAME TEXT FOR EVERY ROW: 'Accept.'"),
        ({"answer": ""}, "8 OF 8 TEXTS ARE EMPTY"),
        # all but the first four runs of four words stood before: 8 of 12
        ({"answer": "a b c d " * 3 + "a b c"}, "THE MODEL REPEATS ITSELF: 67% OF ITS RUNS OF FOUR WORDS"),
        (
            {"ended": False, "num_written": 96, "num_tokens": 271},
            "8 OF 8 TEXTS HAD NOT ENDED AFTER 96 TOKENS; THE RIGHT ONES HAVE A MEDIAN OF 271",
        ),
    ],
)
def test_what_a_bad_writer_does_is_called_out(changes: dict[str, Any], named: str) -> None:
    answers = answers_of(recipes.load("meta_review"))
    rows = [row(f"text {number}", f"target {number}", num_written=4) for number in range(8)]
    assert answers.warnings(rows) == []
    said = answers.warnings([Prediction(**{**one, **changes}) for one in rows])  # type: ignore[typeddict-item]
    assert any(warning.startswith(named) for warning in said), said


ODD = ["", " ", "?!", "\0", "😀😀", "שלום עולם", "a" * 20_000, "\u0308", "x\ud800y", "(Quelle: a)"]


@pytest.mark.parametrize("metric", OF_TEXTS, ids=lambda metric: metric.name)
def test_any_text_has_a_score_within_its_bounds(metric: Metric) -> None:
    rows = [row(answer, target) for answer in ODD for target in ODD]
    for some in (rows, *([one] for one in rows)):
        assert np.isfinite(metric.by_row(some)).all()
        assert 0 <= metric(some) <= (metric.most or 1)


def test_signatures_say_how_texts_are_cut_into_words() -> None:
    said = signatures()
    assert "tok:13a" in said["bleu"] and sacrebleu.__version__ in said["bleu"]
    assert "nc:6|nw:0" in said["chrf"], "pieces of six characters, no words"
    for name in ("rouge_1, rouge_2, rouge_l", "exact_match, token_f1"):
        assert "letters, their marks and digits of every alphabet, lower case, NFC" in said[name]
    named = {name for names in said for name in names.split(", ")}
    others = {"loss", "perplexity", "repetition", "empty", "ended"}
    assert {metric.name for metric in (*text_metrics.ALL, *text_metrics.SHORT)} == named | others
