"""Measure speed against what others do: scripts/bench.py RECIPE --data FILE [--rows N] [--rounds N] [--slow]

python scripts/bench.py arena --data sample --rows 128 --rounds 1     # a quick look
python scripts/bench.py arena --data train.csv --slow                 # everything, half an hour on two cores
python scripts/bench.py science_exam --data with_context.jsonl --tokenizer FOLDER
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro

from lib import exits


def bench(
    recipe: Annotated[Literal["arena", "boolq", "science_exam"], tyro.conf.Positional],
    data: str = "sample",
    rows: int = 256,
    rounds: int = 3,
    threads: int = 2,
    slow: bool = False,
    tokenizer: str | None = None,
) -> int:
    """Measure speed, memory and loss against what others do.

    Args:
        recipe: What to measure.
        data: The rows to train on, as for train.py.
        rows: How many of them each arm trains on, once.
        rounds: How often the arms take turns; each round has a seed of its own.
        threads: CPU threads of an arm.
        slow: Also the arms that take a minute a step (the Trainer's default, the notes' plain loop).
        tokenizer: The small decoder's tokenizer (boolq, science_exam): a folder or hub id.
    """
    from lib.bench import arena, boolq, science_exam

    if recipe == "arena":
        arena.main(data, rows, rounds, threads, slow)
        return exits.DONE
    if tokenizer is None:
        raise ValueError(f"{recipe} needs --tokenizer, a folder or hub id (of 32,000 words, as Llama 2's)")
    if recipe == "boolq":
        boolq.main(data, tokenizer, rows, rounds, threads)
    else:
        science_exam.main(data, tokenizer, rows, rounds, threads, slow)
    return exits.DONE


if __name__ == "__main__":
    sys.exit(exits.run(lambda: tyro.cli(bench, description=__doc__)))
