"""Score a finished run again: scripts/evaluate.py RUN [--split test] [--data PATH] [--threads N]

Examples:
    python scripts/evaluate.py runs/arena/20261122_101500      # says whether the scores are the same
    python scripts/evaluate.py 20261122_101500 --data new.csv  # rows the run has never seen
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.command_line import Positional, options


@dataclass(frozen=True)
class Options:
    run: Positional[str]
    """A run's folder, timestamp or name."""
    split: Literal["train", "validation", "test"] | None = None
    """Which of the run's own splits. None: test."""
    data: str | None = None
    """Score these rows instead (a .csv, .jsonl or .parquet file, a folder, a hub id)."""
    moved_to: str | None = None
    """Where the run's own rows are now, if they were moved; kept in its config.json."""
    threads: int | None = None
    """CPU threads. None: as many as training used, so that the scores are the same bits."""
    from_artifact: bool = False
    """Load the best checkpoint back from wandb (a run with --wandb online)."""
    runs_dir: str = "runs"
    """Where timestamps and names are looked up."""


def main() -> None:
    """Score a finished run again, in a fresh process."""
    asked = options(Options, __doc__)
    from lib.evaluation.rescore import rescore
    from lib.reports.summary import table, values_of
    from lib.runs import resume
    from lib.runs.folder import RunFolder, find

    run = find(asked.run, asked.runs_dir)
    if asked.moved_to is not None:
        resume.settle_at(RunFolder(run), asked.moved_to)
    rescored = rescore(run, asked.split, asked.data, asked.threads, asked.from_artifact)
    print("\n".join(table(rescored.now)))
    if asked.data is None and rescored.before is not None:
        same = values_of(rescored.before) == values_of(rescored.now)
        print(f"{'the same to the last digit' if same else 'NOT the same'} as training reported")
        for line in () if same else table(rescored.before):
            print(line)
    print(f"predictions and scores: {rescored.folder}")


if __name__ == "__main__":
    sys.exit(exits.run(main))
