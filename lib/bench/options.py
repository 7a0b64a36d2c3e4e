"""What a benchmark is asked for."""

from dataclasses import dataclass
from typing import Literal

from lib.command_line import Positional


@dataclass(frozen=True)
class Options:
    what: Positional[
        Literal["arena", "boolq", "science_exam", "german_rag", "meta_review", "index", "strategies", "gpu"]
    ]
    """What to measure: the training of a recipe, retrieval (index), memory by --strategy (strategies), or
    what a GPU makes of large models in their real shapes (gpu: needs no data, no model and no network)."""
    data: str | None = None
    """The rows to train on, as for train.py; for index a file of passages. None: the recipe's sample; for
    german_rag and meta_review real rows in ../shared/data, where they are."""
    rows: int | None = None
    """How many of them each arm takes, once. None: 256; for german_rag and meta_review, where a step takes a
    minute, 64; for gpu as many as each of its models takes some seconds for."""
    rounds: int | None = None
    """How often the arms take turns; each round has a seed of its own. None: 3; for gpu 1."""
    threads: int = 2
    """CPU threads of an arm."""
    slow: bool = False
    """Also the arms that take a minute a step (the Trainer's default, the notes' plain loop)."""
    tokenizer: str | None = None
    """The small decoder's tokenizer: a folder or hub id. None: for german_rag and meta_review one in
    ../shared/data."""

    @property
    def source(self) -> str:
        return self.data or "sample"

    @property
    def num_rows(self) -> int:
        return self.rows or (64 if self.what in ("german_rag", "meta_review") else 256)

    @property
    def num_rounds(self) -> int:
        return self.rounds or (1 if self.what == "gpu" else 3)

    @property
    def words_of(self) -> str:
        """Where the decoder's tokenizer is. Raises ValueError when nobody said."""
        if self.tokenizer is None:
            raise ValueError(
                f"{self.what} needs --tokenizer, a folder or hub id (of 32,000 words, as Llama 2's)"
            )
        return self.tokenizer
