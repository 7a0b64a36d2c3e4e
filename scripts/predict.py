"""Answers of a finished run: scripts/predict.py RUN --data PATH [--out FILE.jsonl] [--offload FOLDER]

Examples:
    python scripts/predict.py runs/science_exam/20261122_101500 --data test.csv   # rows without an answer
    python scripts/predict.py runs/boolq/20261122_101500 --data new.jsonl --offload /tmp/weights
"""

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import exits  # says what to type where packages are missing

# isort: split
import tyro


def predict(
    run: Annotated[str, tyro.conf.Positional],
    data: str,
    out: Path | None = None,
    offload: Path | None = None,
    threads: int | None = None,
    runs_dir: str = "runs",
) -> int:
    """Write what a finished run's best checkpoint says of new rows.

    Args:
        run: A run's folder, timestamp or name.
        data: The rows (a .csv, .jsonl or .parquet file, a folder, a hub id); they need no label.
        out: The .jsonl file to make. None: predicted/<name of the data>.jsonl in the run's folder.
        offload: Run the model block by block with its weights on the disk, in the memory of two blocks; the
            index is kept in this folder.
        threads: CPU threads. None: as many as training used.
        runs_dir: Where timestamps and names are looked up.
    """
    from lib.evaluation.predict import predict as write
    from lib.runs.folder import find

    found = write(find(run, runs_dir), data, out, offload, threads)
    print(f"{found.num_rows} rows predicted: {found.path}")
    if found.num_rejected:
        print(f"WARNING: {found.num_rejected} malformed rows have no prediction: {found.rejected} says why")
    if found.submission is not None:
        print(f"submission: {found.submission}")
    return exits.DONE


if __name__ == "__main__":
    sys.exit(exits.run(lambda: tyro.cli(predict, description=__doc__)))
