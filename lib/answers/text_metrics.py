"""Scores of written texts.

Some are means over rows (ROUGE, exact match). Others belong to all rows together (a loss for each token,
BLEU, chrF): they are a function of sums over the rows. What such a score says of each row is its jackknife
pseudo-value, n f(all) - (n - 1) f(all but the row), moved so that their mean is the score itself: intervals
and paired differences are then taken of them as of any other (Efron & Tibshirani 1993, An Introduction to the
Bootstrap, chapter 11; tests/test_coverage.py counts how often they hold).
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from lib.recipe import Metric, Prediction

Texts = tuple[str, str]  # (answer, target)


def words(text: str) -> list[str]:
    """Lower-case words and numbers, letters of every alphabet with their marks (vowels of Hindi, say)."""
    text = unicodedata.normalize("NFC", text.lower())
    return "".join(sign if _in_words(sign) else " " for sign in text).split()


def _in_words(sign: str) -> bool:
    return sign.isalnum() or unicodedata.category(sign)[0] == "M"


def sentences(text: str) -> list[str]:
    """Roughly: what ends with a full stop, an exclamation or a question mark before white space."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]


def pseudo_values(statistics: np.ndarray, score_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(rows, k) what each row adds to the sums, and the scores (...) of such sums (..., k) -> (rows,) values
    whose mean is the score of all."""
    total, size = statistics.sum(axis=0), len(statistics)
    score = float(score_of(total))
    if size == 1:
        return np.array([score])
    values = size * score - (size - 1) * score_of(total - statistics)
    return np.asarray(values + (score - values.mean()))


def _loss_of(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _losses(predictions: Sequence[Prediction]) -> np.ndarray:
    return pseudo_values(_of_tokens(predictions), _loss_of)


def _perplexities(predictions: Sequence[Prediction]) -> np.ndarray:
    return _exponential(_losses(predictions))


def _exponential(losses: np.ndarray) -> np.ndarray:
    """(rows,) -> (rows,) of mean exp(their mean), linear there (the delta method)"""
    mean = losses.mean()
    return np.asarray(np.exp(min(mean, 700)) * (1 + losses - mean))  # float64 knows no exp(710)


def _of_tokens(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([[row["loss"], row["num_tokens"]] for row in predictions], dtype=np.float64)


@cache
def _sacrebleu(kind: str) -> Any:
    import sacrebleu.metrics

    return {"bleu": sacrebleu.metrics.BLEU, "chrf": sacrebleu.metrics.CHRF}[kind]()


@lru_cache(maxsize=100_000)
def _statistics(kind: str, texts: Texts) -> tuple[int, ...]:
    answer, target = texts
    return tuple(_sacrebleu(kind)._extract_corpus_statistics([answer], [[target]])[0])


def _by_sacrebleu(kind: str) -> Callable[[Sequence[Prediction]], np.ndarray]:
    def by_row(predictions: Sequence[Prediction]) -> np.ndarray:
        statistics = np.array([_statistics(kind, _texts(row)) for row in predictions])
        return pseudo_values(statistics, lambda sums: np.apply_along_axis(score_of, -1, sums))

    def score_of(sums: np.ndarray) -> float:
        found = _sacrebleu(kind)._compute_score_from_stats(sums.tolist()).score
        return min(float(found), 100.0)  # rounding makes a little more of it

    return by_row


class _Words:
    """rouge-score's own tokenizer drops what is not in a-z: two German words that differ in an umlaut alone
    are then the same."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _rouge_scorer() -> Any:
    from rouge_score import rouge_scorer  # three seconds to import

    return rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())


@lru_cache(maxsize=100_000)
def _rouge(texts: Texts) -> dict[str, float]:
    answer, target = texts
    return {kind: score.fmeasure for kind, score in _rouge_scorer().score(target, answer).items()}


def rouge_l(row: Prediction) -> float:
    """F-measure of the longest common subsequence of words."""
    return _rouge(_texts(row))["rougeL"]


def _by_rouge(kind: str) -> Callable[[Sequence[Prediction]], np.ndarray]:
    return lambda predictions: np.array([_rouge(_texts(row))[kind] for row in predictions])


def _signs(text: str) -> list[str]:
    """Its words; where it has none, what else stands there."""
    return words(text) or text.split()


def _exact(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([_signs(row["answer"]) == _signs(row["target"]) for row in predictions], dtype=np.float64)


def _token_f1(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([_overlap(_signs(row["answer"]), _signs(row["target"])) for row in predictions])


def _overlap(said: list[str], true: list[str]) -> float:
    both = sum((Counter(said) & Counter(true)).values())
    return 2 * both / (len(said) + len(true)) if said or true else 1.0


def repetition(text: str, run: int = 4) -> float:
    """Share of the runs of four words that stood in the text before; of four signs in a text of fewer words,
    which may be one sign over and over."""
    said: Sequence[str] = words(text)
    if len(said) < run:
        said = "".join(text.split())
    runs = [tuple(said[place : place + run]) for place in range(len(said) - run + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _repetitions(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([repetition(row["answer"]) for row in predictions])


def _empty(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([not row["answer"].strip() for row in predictions], dtype=np.float64)


def _ended(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([row["ended"] for row in predictions], dtype=np.float64)


def _texts(row: Prediction) -> Texts:
    return row["answer"], row["target"]


def signatures() -> dict[str, str]:
    """How the scores were computed, for whoever wants to compare them with others'."""
    ours = "words of letters, their marks and digits of every alphabet, lower case, NFC"
    # a signature is known once something has been scored
    for kind in ("bleu", "chrf"):
        _sacrebleu(kind).corpus_score(["a"], [["a"]])
    return {
        "rouge_1, rouge_2, rouge_l": f"rouge-score F-measure, no stemmer, {ours}",
        "exact_match, token_f1": ours,
        "bleu": f"sacreBLEU {_sacrebleu('bleu').get_signature().format()}",
        "chrf": f"sacreBLEU {_sacrebleu('chrf').get_signature().format()}",
    }


LOSS = Metric("loss", _losses, "lower", most=math.inf, reads="loss")
"""Sum of -log(probability) of all targets' tokens, their ends included, over the number of these tokens."""
PERPLEXITY = Metric("perplexity", _perplexities, "lower", most=math.inf, log=True, reads="loss")
"""exp of that."""
ROUGE_1 = Metric("rouge_1", _by_rouge("rouge1"), "higher", share=True, reads="answer")
ROUGE_2 = Metric("rouge_2", _by_rouge("rouge2"), "higher", share=True, reads="answer")
ROUGE_L = Metric("rouge_l", _by_rouge("rougeL"), "higher", share=True, reads="answer")
"""F-measures (Lin 2004) of words, pairs of words, and the longest common subsequence of words."""
BLEU = Metric("bleu", _by_sacrebleu("bleu"), "higher", most=100, reads="answer")
CHRF = Metric("chrf", _by_sacrebleu("chrf"), "higher", most=100, reads="answer")
"""Of all texts together, from 0 to 100 (Papineni 2002; Popovic 2015; Post 2018)."""
EXACT = Metric("exact_match", _exact, "higher", share=True, reads="answer")
"""Share of texts whose words are the target's, in their order."""
TOKEN_F1 = Metric("token_f1", _token_f1, "higher", share=True, reads="answer")
"""Words in common, whatever their order (Rajpurkar 2016)."""
REPETITION = Metric("repetition", _repetitions, None, share=True, reads="answer")
EMPTY = Metric("empty", _empty, None, share=True, reads="answer")
"""Share of texts of white space alone."""
ENDED = Metric("ended", _ended, None, share=True, reads="ended")
"""Share of texts that ended by themselves, before --max-new-tokens."""
ALL = (LOSS, PERPLEXITY, ROUGE_1, ROUGE_2, ROUGE_L, BLEU, CHRF, REPETITION, EMPTY, ENDED)
SHORT = (EXACT, TOKEN_F1, ROUGE_L, BLEU, CHRF, REPETITION, EMPTY, ENDED)
"""Beside a loss: for texts of a sentence or two."""
