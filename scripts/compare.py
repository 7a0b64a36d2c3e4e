"""Compare finished runs, or groups of seeds: scripts/compare.py RUN RUN ...

Examples:
    # by timestamp or name: what differs, and is one better beyond chance
    python scripts/compare.py 20231215_120000 long --split validation
    # seeds of one experiment between commas, or the seeds.json of --seeds
    python scripts/compare.py s0,s1,s2 runs/arena/20231216_093000/seeds.json
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.base.console import speak, speak_json
from lib.command_line import FlagCreatePairsOff, Runs, options


@dataclass(frozen=True)
class Options:
    runs: Runs
    """Folders, timestamps or names of two or more runs; the others are held against the first. Seeds of one
    experiment between commas, or their seeds.json, count as one."""
    split: str = "test"
    """Whose predictions to compare."""
    common_rows: FlagCreatePairsOff[bool] = False
    """Compare even when fewer than 90 % of either run's rows are in common, on those that are."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object instead."""
    runs_dir: str = "runs"
    """Where timestamps and names are looked up."""


def main() -> None:
    """Ends with 2 (no such run) or 3 (not comparable) after saying what differs."""
    asked = options(Options, __doc__)
    from lib.reports.compare import compare
    from lib.reports.compare_words import lines

    comparison = compare(asked.runs, asked.split, asked.common_rows, asked.runs_dir)
    if asked.json:
        speak_json(comparison)
    else:
        speak("\n".join(lines(comparison)))
    comparison.refuse()


if __name__ == "__main__":
    sys.exit(exits.run(main))
