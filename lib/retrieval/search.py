"""Queries -> contexts, in two steps: the nearest passages, then the best of their sentences.

Ranking sentences by themselves keeps what speaks of the question and drops the rest of a passage, so that
more passages fit into what the reader takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.retrieval.folder import Index
from lib.retrieval.sentences import sentences

QUERIES = 64  # rows searched together: a sentence that several of them find is embedded once


@dataclass(frozen=True)
class Found:
    """passages: (id, similarity), nearest first."""

    passages: list[tuple[str, float]]
    context: str

    def as_line(self, identity: str) -> dict[str, Any]:
        passages = [{"id": name, "similarity": similarity} for name, similarity in self.passages]
        return {"id": identity, "passages": passages, "context": self.context}

    @staticmethod
    def of_line(line: dict[str, Any]) -> "Found":
        return Found(
            [(passage["id"], passage["similarity"]) for passage in line["passages"]], line["context"]
        )


class Searcher:
    """An index, its vectors and its model, ready to be asked."""

    def __init__(self, index: Index) -> None:
        self.embedder, self.nearest, self.store = index.embedder(), index.nearest(), index.store
        self.num_cut = 0  # queries longer than the model reads

    def search(
        self,
        queries: list[str],
        num_passages: int,
        num_words: int,
        between: Callable[[], None] = lambda: None,
    ) -> list[Found]:
        """For each of some QUERIES queries the nearest passages and a context of at most `num_words` words.
        `between` runs now and then and may raise to stop."""
        asked = self.embedder.embed(queries, "query", between)
        self.num_cut += asked.num_cut
        similarities, numbers = self.nearest.search(asked.vectors, num_passages)
        passages = self.store.read([int(number) for number in numbers.flatten() if number >= 0])
        cut = {number: sentences(passage.text) for number, passage in passages.items()}
        unique = list(dict.fromkeys(sentence for pieces in cut.values() for sentence in pieces))
        vectors = self.embedder.embed(unique, "passage", between).vectors
        place = {sentence: number for number, sentence in enumerate(unique)}
        contexts = []
        for row, query in enumerate(asked.vectors):
            near = [int(number) for number in numbers[row] if number >= 0]
            mine = list(dict.fromkeys(sentence for number in near for sentence in cut[number]))
            scores = vectors[[place[sentence] for sentence in mine]] @ query
            # equally near ones in the order of their passages
            order = np.argsort(-scores, kind="stable")
            named = [
                (passages[number].id, round(float(similarity), 6))
                for number, similarity in zip(near, similarities[row], strict=False)
            ]
            contexts.append(Found(named, fill([mine[number] for number in order], num_words)))
        return contexts


def fill(ranked: list[str], num_words: int) -> str:
    """The first sentences, until there are `num_words` words; the last one may lose its end. A reader cuts by
    tokens, and a word is at least one, so it never has too few."""
    taken: list[str] = []
    room = num_words
    for sentence in ranked:
        words = sentence.split()
        if not room:
            break
        taken.append(sentence if len(words) <= room else " ".join(words[:room]))
        room -= min(room, len(words))
    return " ".join(taken)
