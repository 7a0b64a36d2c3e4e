"""Measure speed against what others do: scripts/bench.py WHAT --data FILE

Examples:
    # a quick look
    python scripts/bench.py arena --data sample --rows 128 --rounds 1
    # everything: half an hour on two cores
    python scripts/bench.py arena --data train.csv --slow
    python scripts/bench.py science_exam --data exam.jsonl --tokenizer DIR
    # embedding and search
    python scripts/bench.py index --data passages.jsonl --rows 1000
    # large models in their real shapes on a GPU, in ten minutes; these words alone need no tyro
    python scripts/bench.py gpu
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.bench.options import Options
from lib.command_line import options


def main() -> None:
    """Measure speed, memory and loss against what others do."""
    asked = Options("gpu") if sys.argv[1:] == ["gpu"] else options(Options, __doc__)
    importlib.import_module(f"lib.bench.{asked.what}").main(asked)


if __name__ == "__main__":
    sys.exit(exits.run(main))
