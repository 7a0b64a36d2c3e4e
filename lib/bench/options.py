"""What a benchmark is asked for."""

from dataclasses import dataclass
from typing import Literal

from lib.command_line import Positional


@dataclass(frozen=True)
class Options:
    what: Positional[Literal["arena", "boolq", "science_exam", "index"]]
    """What to measure: the training of a recipe, or retrieval (index)."""
    data: str = "sample"
    """The rows to train on, as for train.py; for index a file of passages."""
    rows: int = 256
    """How many of them each arm takes, once."""
    rounds: int = 3
    """How often the arms take turns; each round has a seed of its own."""
    threads: int = 2
    """CPU threads of an arm."""
    slow: bool = False
    """Also the arms that take a minute a step (the Trainer's default, the notes' plain loop)."""
    tokenizer: str | None = None
    """The small decoder's tokenizer (boolq, science_exam): a folder or hub id."""

    @property
    def words_of(self) -> str:
        """Where the decoder's tokenizer is. Raises ValueError when nobody said."""
        if self.tokenizer is None:
            raise ValueError(
                f"{self.what} needs --tokenizer, a folder or hub id (of 32,000 words, as Llama 2's)"
            )
        return self.tokenizer
