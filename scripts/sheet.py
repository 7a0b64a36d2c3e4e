"""Texts of two models, graded by people: scripts/sheet.py RUN OUT.xlsx

Examples:
    # 50 test rows, each with a text of the base and of the tuned model, blind to whose they are
    python scripts/sheet.py 20261122_101500 review.xlsx
    # what the reviewers found, each in a copy of that file
    python scripts/sheet.py --read anna.xlsx ben.xlsx
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.base.console import speak, speak_json, words_aside
from lib.command_line import FlagCreatePairsOff, RunOrNone, SheetOrNone, options


@dataclass(frozen=True)
class Options:
    run: RunOrNone = None
    """A run's folder, timestamp or name."""
    out: SheetOrNone = None
    """The sheet to make; nothing is overwritten."""
    read: tuple[Path, ...] = ()
    """Filled sheets to read instead, one a reviewer, all copies of one sheet."""
    split: str = "test"
    """Whose rows to judge."""
    rows: int = 50
    """How many of them; drawn by their ids, so every run on the same rows gets the same."""
    seed: int = 0
    """Draws other rows, and another order of the two texts."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object instead; what people read goes to stderr."""
    runs_dir: str = "runs"
    """Where timestamps and names are looked up."""


def main() -> None:
    """Make a sheet, or say what filled ones hold. Ends with 2 for what is not as it was written."""
    asked = options(Options, __doc__)
    if asked.read and asked != replace(Options(), read=asked.read, json=asked.json):
        raise ValueError("--read takes the run, split and seed from the sheets; give it sheets only")
    if asked.read:
        from lib.reports import sheet_result
        from lib.reports.sheet_read import read_sheets

        found = sheet_result.review(read_sheets(asked.read))
        speak_json(found) if asked.json else speak("\n".join(sheet_result.lines(found)))
        return
    if asked.run is None or asked.out is None:
        raise ValueError("give RUN OUT.xlsx to make a sheet, or --read SHEET.xlsx ... to read filled ones")
    from lib.evaluation.to_review import make
    from lib.runs.folder import find

    with words_aside(asked.json):
        made = make(find(asked.run, asked.runs_dir), asked.out, asked.split, asked.rows, asked.seed)
        speak(made.in_words())
    if asked.json:
        speak_json(made)


if __name__ == "__main__":
    sys.exit(exits.run(main))
