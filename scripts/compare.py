"""Compare finished runs: what differs between them, and whether one is better beyond chance.

Examples:
    python scripts/compare.py 20231215_120000 20231216_093000              # timestamps or names under runs/
    python scripts/compare.py runs/arena/20231215_120000 long --split validation
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.command_line import FlagCreatePairsOff, Positional, options


@dataclass(frozen=True)
class Options:
    runs: Positional[tuple[str, ...]]
    """Two or more run folders, or timestamps or names of runs; the others are held against the first."""
    split: str = "test"
    """Whose predictions to compare."""
    common_rows: FlagCreatePairsOff[bool] = False
    """Compare even when fewer than 90 % of either run's rows are in common, on those that are."""
    runs_dir: str = "runs"
    """Where timestamps and names are looked up."""


def main() -> None:
    """Ends with 2 (no such run) or 3 (not comparable) after saying what differs."""
    asked = options(Options, __doc__)
    from lib.reports.compare import compare

    compare(asked.runs, asked.split, asked.common_rows, asked.runs_dir, print)


if __name__ == "__main__":
    sys.exit(exits.run(main))
