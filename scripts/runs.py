"""All runs, the newest first: scripts/runs.py [RECIPE] [--json]

Examples:
    # what runs, what is done, what was stopped
    python scripts/runs.py
    # everything about them, for programs
    python scripts/runs.py boolq --json
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.base.console import speak, speak_json
from lib.command_line import FlagCreatePairsOff, RecipeName, options


@dataclass(frozen=True)
class Options:
    recipe: RecipeName = None
    """Only its runs."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON list instead, with whole commands, paths and all scores."""
    runs_dir: str = "runs"
    """Where run folders are."""


def main() -> None:
    """Read every run folder; change nothing."""
    asked = options(Options, __doc__)
    from lib.runs import listing

    runs = listing.all_runs(asked.runs_dir, asked.recipe)
    if asked.json:
        speak_json(runs)
        return
    width = shutil.get_terminal_size((80, 24)).columns - 1 if sys.stdout.isatty() else None
    lines = listing.table(runs, width)
    speak("\n".join(lines) if lines else f"no run under {asked.runs_dir}")


if __name__ == "__main__":
    sys.exit(exits.run(main))
