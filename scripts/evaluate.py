"""Score a finished run again: scripts/evaluate.py RUN [--data PATH]

Examples:
    # says whether the scores are the same
    python scripts/evaluate.py runs/arena/20261122_101500
    # rows the run has never seen
    python scripts/evaluate.py 20261122_101500 --data new.csv
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.base.console import speak, speak_json, words_aside
from lib.command_line import FlagCreatePairsOff, Run, options


@dataclass(frozen=True)
class Options:
    run: Run
    """A run's folder, timestamp or name."""
    split: Literal["train", "validation", "test"] | None = None
    """One of the run's own. None: test."""
    data: str | None = None
    """Score these rows instead (a .csv, .jsonl or .parquet file, a folder, a hub id)."""
    columns: str | None = None
    """What these rows call the recipe's columns: question=q,passage=text. None: as the run's rows do."""
    moved_to: str | None = None
    """Where the run's own rows are now, if they were moved; kept in its config.json."""
    threads: int | None = None
    """CPU threads. None: as many as training used, so that the scores are the same bits."""
    from_artifact: bool = False
    """Load the best checkpoint back from wandb (a run with --wandb online)."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object instead; what people read goes to stderr."""
    runs_dir: str = "runs"
    """Where timestamps and names are looked up."""


def main() -> None:
    """Score a finished run again, in a fresh process."""
    asked = options(Options, __doc__)
    from lib.runs.folder import RunFolder, find

    run = find(asked.run, asked.runs_dir)
    with words_aside(asked.json):
        speak(f"scoring {run}")
        from lib.evaluation.rescore import rescore
        from lib.evaluation.trained import OtherRows
        from lib.runs import resume

        if asked.moved_to is not None:
            resume.settle_at(RunFolder(run), asked.moved_to)
        other = None if asked.data is None else OtherRows(asked.data, asked.columns)
        rescored = rescore(run, asked.split, other, asked.threads, asked.from_artifact)
        speak(rescored.in_words())
    if asked.json:
        speak_json(
            {"folder": rescored.folder, "same": rescored.same, "notes": rescored.notes, **rescored.now}
        )


if __name__ == "__main__":
    sys.exit(exits.run(main))
