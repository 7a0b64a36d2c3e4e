"""Search for the best values: scripts/sweep.py [RECIPE] [--space FILE] [flags]

Examples:
    # the learning rate, 20 trials; other flags are train.py's
    python scripts/sweep.py boolq --data train.jsonl
    # a file in the form of wandb's sweeps
    python scripts/sweep.py boolq --space space.json --trials 40
    # three trials of a toy
    python scripts/sweep.py arena --smoke
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import recipe
from lib.base import exits
from lib.command_line import Unnamed, over, settled, split_recipe
from lib.config import Config


@dataclass(frozen=True, kw_only=True)
class Options:
    space: str | None = None
    """A JSON file: {"method": "bayes", "parameters": {"lr": {"min": 1e-5, "max": 1e-3, "distribution":
    "log_uniform_values"}, "batch": {"values": [16, 32]}}}. None: the learning rate, a tenth to ten times."""
    trials: int | None = None
    """How many trials there are in the end. None: the file's run_cap, else 20 (3 with --smoke)."""
    config: Unnamed[Config]


def main() -> int:
    """Parse and check first, so that --help and mistakes need no torch."""
    name, argv = split_recipe(sys.argv[1:])
    default = recipe.load(name).config
    asked = over(Options(config=default), argv, f"sweep.py {name}", recipe.described(__doc__, argv))
    config = settled(asked.config, default)
    from lib.sweep import space

    searched = space.read(asked.space, config)
    from lib.process import dist
    from lib.sweep.sweep import sweep

    if dist.under_torchrun():
        raise ValueError("a sweep starts one run after another; leave torchrun out and use --devices N")
    return sweep(config, searched, asked.trials)


if __name__ == "__main__":
    sys.exit(exits.run(main))
