"""Score a finished run again: scripts/evaluate.py RUN [--split test] [--data PATH] [--threads N]

Examples:
    python scripts/evaluate.py runs/arena/20261122_101500      # says whether the scores are the same
    python scripts/evaluate.py 20261122_101500 --data new.csv  # rows the run has never seen
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import exits  # says what to type where packages are missing

# isort: split
import tyro


def evaluate(
    run: Annotated[str, tyro.conf.Positional],
    split: Literal["train", "validation", "test"] | None = None,
    data: str | None = None,
    threads: int | None = None,
    from_artifact: bool = False,
    runs_dir: str = "runs",
) -> int:
    """Score a finished run again, in a fresh process.

    Args:
        run: A run's folder, timestamp or name.
        split: Which of the run's own splits. None: test.
        data: Score these rows instead (a .csv, .jsonl or .parquet file, a folder, a hub id).
        threads: CPU threads. None: as many as training used, so that the scores are the same bits.
        from_artifact: Load the best checkpoint back from wandb (a run with --wandb online).
        runs_dir: Where timestamps and names are looked up.
    """
    from lib.evaluation import summary
    from lib.evaluation.rescore import rescore
    from lib.runs.folder import find

    found = rescore(find(run, runs_dir), split, data, threads, from_artifact)
    print("\n".join(summary.table(found["scores"])))
    if data is None and found["said"] is not None:
        same = found["said"]["scores"] == found["scores"]["scores"]
        print(
            "the same to the last digit as training reported" if same else "NOT the same as training reported"
        )
        if not same:
            print("\n".join(summary.table(found["said"])))
    print(f"predictions and scores: {found['folder']}")
    return exits.DONE


if __name__ == "__main__":
    sys.exit(exits.run(lambda: tyro.cli(evaluate, description=__doc__)))
