"""Build an index for retrieval: scripts/index.py PASSAGES OUT

Examples:
    # text, title and id
    python scripts/index.py passages.jsonl wiki.index
    # streamed from the hub
    python scripts/index.py wikimedia/wikipedia:20231101.en wiki.index
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.base.console import speak
from lib.command_line import Out, Passages, options


@dataclass(frozen=True)
class Options:
    passages: Passages
    """A .jsonl, .csv, .parquet (text, title, id) or .txt file (one a line), or a hub id."""
    out: Out
    """The index's folder."""
    model: str = "minilm"
    """minilm, or the hub id or folder of a sentence-transformers model."""
    kind: Literal["auto", "exact", "ivfpq"] = "auto"
    """exact compares a query with every vector; ivfpq compresses them. auto: exact up to a million."""
    split: str = "train"
    """Split of a hub data set."""
    revision: str = "main"
    """Branch, tag or commit of a hub data set."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the device computes it natively, else fp32."""
    max_rejected: float = 0.01
    """Share of broken lines (0 to 1) above which nothing is built."""
    shard_size: int = 8192
    """Passages held in memory at a time."""
    threads: int | None = None
    """CPU threads. None: all cores."""


def main() -> None:
    """Build an index of passages. Killed or stopped, the same command goes on."""
    asked = options(Options, __doc__)
    out = asked.out
    from lib.retrieval import passages
    from lib.retrieval.build import Builder, Settings

    source = passages.find(asked.passages, asked.split, asked.revision)
    settings = Settings(asked.model, asked.kind, asked.precision, asked.shard_size)
    record = Builder(source, out, settings, asked.max_rejected, asked.threads).make_index()
    much = f"{record['num_cut']} of them longer than the {record['max_length']} tokens the model reads"
    cut = f", {much} (it sees their beginning)" if record["num_cut"] else ""
    speak(f"{out}: {record['num_passages']} passages{cut}, {record['kind']}; use it with --index {out}")


if __name__ == "__main__":
    sys.exit(exits.run(main))
