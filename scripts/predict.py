"""Answers of a finished run: scripts/predict.py RUN --data PATH

Examples:
    # rows without an answer
    python scripts/predict.py 20261122_101500 --data test.csv
    python scripts/predict.py 20261122_101500 --data new.csv --offload weights
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.base.console import speak, speak_json, words_aside
from lib.command_line import FlagCreatePairsOff, Run, options


@dataclass(frozen=True)
class Options:
    run: Run
    """A run's folder, timestamp or name."""
    data: str
    """The rows (a .csv, .jsonl or .parquet file, a folder, a hub id); they need no label."""
    columns: str | None = None
    """What the rows call the recipe's columns: question=q,passage=text. None: as the run's rows do."""
    out: Path | None = None
    """The .jsonl file to make. None: predicted/<name of the data>.jsonl in the run's folder."""
    offload: Path | None = None
    """Run the model block by block with its weights on the disk, in the memory of two blocks; the index is
    kept in this folder."""
    threads: int | None = None
    """CPU threads. None: as many as training used."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object instead; what people read goes to stderr."""
    runs_dir: str = "runs"
    """Where timestamps and names are looked up."""


def main() -> None:
    """Write what a finished run's best checkpoint says of new rows."""
    asked = options(Options, __doc__)
    from lib.runs.folder import find

    run = find(asked.run, asked.runs_dir)
    with words_aside(asked.json):
        speak(f"asking {run}")
        from lib.evaluation.predict import predict
        from lib.evaluation.trained import OtherRows

        other = OtherRows(asked.data, asked.columns)
        written = predict(run, other, asked.out, asked.offload, asked.threads)
        speak(written.in_words())
    if asked.json:
        speak_json(written)


if __name__ == "__main__":
    sys.exit(exits.run(main))
