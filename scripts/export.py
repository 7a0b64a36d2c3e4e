"""Export a finished run: scripts/export.py RUN OUT [--adapter-only] [--push ORG/NAME [--public] [--dry-run]]

Examples:
    python scripts/export.py runs/arena/20261122_101500 exported        # opens with AutoModel.from_pretrained
    python scripts/export.py runs/boolq/20261122_101500 adapter --adapter-only --push me/boolq-lora --dry-run
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import exits  # says what to type where packages are missing

# isort: split
import tyro


def export(
    run: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    adapter_only: bool = False,
    base: Literal["dequantized", "full"] | None = None,
    check: bool = True,
    push: str | None = None,
    public: bool = False,
    dry_run: bool = False,
    runs_dir: str = "runs",
) -> int:
    """Write a run's best model as a folder that plain transformers (or peft) opens.

    Args:
        run: A run's folder, timestamp or name.
        out: The folder to make; nothing is overwritten.
        adapter_only: The adapter alone, as peft keeps it, instead of a whole model.
        base: What the adapter of a quantized run is merged into: the weights its 4 or 8 bits stand for (the
            same scores), or the full-precision ones (other scores). None: dequantized.
        check: Score up to 64 stored rows (and the rest of their batch) from the exported files.
        push: Send the folder to this repository of the Hugging Face hub; the token comes from HF_TOKEN or
            its file.
        public: Make a new repository public instead of private.
        dry_run: With --push: say what would be sent, and send nothing.
        runs_dir: Where timestamps and names are looked up.
    """
    from lib.export import push as pushing

    pushing.refuse(push, public, dry_run)
    from lib.export import make
    from lib.runs.folder import find

    checked = make.export(find(run, runs_dir), out, adapter_only, base, check)
    print(make.said(out, checked))
    if push is not None:
        print(pushing.send(out, push, private=not public, dry_run=dry_run))
    return exits.DONE


if __name__ == "__main__":
    sys.exit(exits.run(lambda: tyro.cli(export, description=__doc__)))
