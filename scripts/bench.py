"""Measure speed against what others do: scripts/bench.py arena --data FILE [--rows N] [--rounds N] [--slow]

python scripts/bench.py arena --data sample --rows 128 --rounds 1     # a quick look
python scripts/bench.py arena --data train.csv --slow                 # everything, half an hour on two cores
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro

from lib import exits


def bench(
    recipe: Annotated[Literal["arena"], tyro.conf.Positional],
    data: str = "sample",
    rows: int = 256,
    rounds: int = 3,
    threads: int = 2,
    slow: bool = False,
) -> int:
    """Measure speed, memory and loss against what others do.

    Args:
        recipe: What to measure.
        data: The rows to train on, as for train.py.
        rows: How many of them each arm trains on, once.
        rounds: How often the arms take turns; each round has a seed of its own.
        threads: CPU threads of an arm.
        slow: Also the arms that take a minute a step (the Trainer's default, the notes' plain loop).
    """
    from lib.bench import arena

    arena.main(data, rows, rounds, threads, slow)
    return exits.DONE


if __name__ == "__main__":
    sys.exit(exits.run(lambda: tyro.cli(bench, description=__doc__)))
