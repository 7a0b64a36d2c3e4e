"""Measure speed against what others do: scripts/bench.py WHAT --data FILE [--rows N] [--rounds N] [--slow]

Examples:
    python scripts/bench.py arena --data sample --rows 128 --rounds 1  # a quick look
    python scripts/bench.py arena --data train.csv --slow              # everything: half an hour on two cores
    python scripts/bench.py science_exam --data with_context.jsonl --tokenizer FOLDER
    python scripts/bench.py index --data passages.jsonl --rows 1000    # embedding and search
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import exits  # says what to type where packages are missing

# isort: split
import tyro


def bench(
    what: Annotated[Literal["arena", "boolq", "science_exam", "index"], tyro.conf.Positional],
    data: str = "sample",
    rows: int = 256,
    rounds: int = 3,
    threads: int = 2,
    slow: bool = False,
    tokenizer: str | None = None,
) -> int:
    """Measure speed, memory and loss against what others do.

    Args:
        what: What to measure: the training of a recipe, or retrieval (index).
        data: The rows to train on, as for train.py; for index a file of passages.
        rows: How many of them each arm takes, once.
        rounds: How often the arms take turns; each round has a seed of its own.
        threads: CPU threads of an arm.
        slow: Also the arms that take a minute a step (the Trainer's default, the notes' plain loop).
        tokenizer: The small decoder's tokenizer (boolq, science_exam): a folder or hub id.
    """
    from lib.bench import arena, boolq, index, science_exam

    if what == "arena":
        arena.main(data, rows, rounds, threads, slow)
        return exits.DONE
    if what == "index":
        index.main(data, rows, rounds, threads)
        return exits.DONE
    if tokenizer is None:
        raise ValueError(f"{what} needs --tokenizer, a folder or hub id (of 32,000 words, as Llama 2's)")
    if what == "boolq":
        boolq.main(data, tokenizer, rows, rounds, threads)
    else:
        science_exam.main(data, tokenizer, rows, rounds, threads, slow)
    return exits.DONE


if __name__ == "__main__":
    sys.exit(exits.run(lambda: tyro.cli(bench, description=__doc__)))
