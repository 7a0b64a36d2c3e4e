"""Answers of a finished run: scripts/predict.py RUN --data PATH [--out FILE.jsonl] [--offload FOLDER]

Examples:
    python scripts/predict.py runs/science_exam/20261122_101500 --data test.csv   # rows without an answer
    python scripts/predict.py runs/boolq/20261122_101500 --data new.jsonl --offload /tmp/weights
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.command_line import Positional, options


@dataclass(frozen=True)
class Options:
    run: Positional[str]
    """A run's folder, timestamp or name."""
    data: str
    """The rows (a .csv, .jsonl or .parquet file, a folder, a hub id); they need no label."""
    out: Path | None = None
    """The .jsonl file to make. None: predicted/<name of the data>.jsonl in the run's folder."""
    offload: Path | None = None
    """Run the model block by block with its weights on the disk, in the memory of two blocks; the index is
    kept in this folder."""
    threads: int | None = None
    """CPU threads. None: as many as training used."""
    runs_dir: str = "runs"
    """Where timestamps and names are looked up."""


def main() -> None:
    """Write what a finished run's best checkpoint says of new rows."""
    asked = options(Options, __doc__)
    from lib.evaluation.predict import predict
    from lib.runs.folder import find

    written = predict(find(asked.run, asked.runs_dir), asked.data, asked.out, asked.offload, asked.threads)
    print(f"{written.num_rows} rows predicted: {written.path}")
    if written.num_rejected:
        print(
            f"WARNING: {written.num_rejected} malformed rows have no prediction: {written.rejected} says why"
        )
    if written.submission is not None:
        print(f"submission: {written.submission}")


if __name__ == "__main__":
    sys.exit(exits.run(main))
