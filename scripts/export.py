"""Export a finished run: scripts/export.py RUN OUT

Examples:
    # opens with AutoModel.from_pretrained
    python scripts/export.py 20261122_101500 exported
    python scripts/export.py 20261122_101500 adapter --adapter-only
    python scripts/export.py 20261122_101500 model --push me/boolq --dry-run
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base import exits
from lib.base.console import speak, speak_json, words_aside
from lib.command_line import FlagCreatePairsOff, Out, Run, options


@dataclass(frozen=True)
class Options:
    run: Run
    """A run's folder, timestamp or name."""
    out: Out
    """The folder to make; nothing is overwritten."""
    adapter_only: bool = False
    """The adapter alone, as peft keeps it, instead of a whole model."""
    base: Literal["dequantized", "full"] | None = None
    """What the adapter of a quantized run is merged into: the weights its 4 or 8 bits stand for (the same
    scores), or the full-precision ones (other scores). None: dequantized."""
    check: bool = True
    """Score up to 64 stored rows (and the rest of their batch) from the exported files."""
    push: str | None = None
    """Send the folder to this repository of the hub; the token comes from HF_TOKEN or its file."""
    public: bool = False
    """Make a new repository public instead of private."""
    dry_run: bool = False
    """With --push: say what would be sent, and send nothing."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object instead; what people read goes to stderr."""
    runs_dir: str = "runs"
    """Where timestamps and names are looked up."""


def main() -> None:
    """Write a run's best model as a folder that plain transformers (or peft) opens."""
    asked = options(Options, __doc__)
    from lib.export import push

    push.refuse(asked.push, asked.public, asked.dry_run)
    from lib.runs.folder import find

    run = find(asked.run, asked.runs_dir)
    with words_aside(asked.json):
        speak(f"exporting {run}")
        from lib.export import make

        checked = make.export(run, asked.out, asked.adapter_only, asked.base, asked.check)
        speak(make.in_words(asked.out, checked))
        if asked.push is not None:
            speak(push.send(asked.out, asked.push, private=not asked.public, dry_run=asked.dry_run))
    if asked.json:
        pushed = None if asked.dry_run else asked.push
        speak_json({"folder": asked.out, "checked": checked, "pushed": pushed})


if __name__ == "__main__":
    sys.exit(exits.run(main))
