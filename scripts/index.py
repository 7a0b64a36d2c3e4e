"""Build an index for retrieval: scripts/index.py PASSAGES OUT [--model minilm] [--kind auto|exact|ivfpq]

Examples:
    python scripts/index.py passages.jsonl wiki.index                         # text, title and id
    python scripts/index.py wikimedia/wikipedia:20231101.en wiki.index        # streamed from the hub
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import exits  # says what to type where packages are missing

# isort: split
import tyro

from lib.console import speak


def index_passages(
    passages: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    model: str = "minilm",
    kind: Literal["auto", "exact", "ivfpq"] = "auto",
    split: str = "train",
    revision: str = "main",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    max_rejected: float = 0.01,
    shard_size: int = 8192,
    threads: int | None = None,
) -> int:
    """Build an index of passages. Killed or stopped, the same command goes on.

    Args:
        passages: A .jsonl, .csv, .parquet (text, title, id) or .txt file (one a line), or a hub id.
        out: The index's folder.
        model: minilm, or the hub id or folder of a sentence-transformers model.
        kind: exact compares a query with every vector; ivfpq compresses them. auto: exact up to a million.
        split: Split of a hub data set.
        revision: Branch, tag or commit of a hub data set.
        precision: auto: bf16 where the device computes it natively, else fp32.
        max_rejected: Share of broken lines (0 to 1) above which nothing is built.
        shard_size: Passages held in memory at a time.
        threads: CPU threads. None: all cores.
    """
    from lib.retrieval import passages as sources
    from lib.retrieval.build import Builder, Settings

    source, settings = sources.find(passages, split, revision), Settings(model, kind, precision, shard_size)
    record = Builder(source, out, settings, max_rejected, threads).make_index()
    much = f"{record['num_cut']} of them longer than the {record['max_length']} tokens the model reads"
    cut = f", {much} (it sees their beginning)" if record["num_cut"] else ""
    speak(f"{out}: {record['num_passages']} passages{cut}, {record['kind']}; use it with --index {out}")
    return exits.DONE


if __name__ == "__main__":
    sys.exit(exits.run(lambda: tyro.cli(index_passages, description=__doc__)))
