"""The rows of a recipe as it reads them, as parquet files: scripts/dataset.py RECIPE OUT --data PATH

Examples:
    # checked, split, and cleaned of all but letters, digits and white space
    python scripts/dataset.py meta_review processed --data zqz979/meta-review --letters-only
    python scripts/dataset.py meta_review processed --data reviews.jsonl --push me/processed_meta_review
    # read back by name
    python scripts/train.py meta_review --data me/processed_meta_review
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import recipe as recipes
from lib.base import exits
from lib.base.console import speak, speak_json, words_aside
from lib.command_line import FlagCreatePairsOff, Out, RecipeName, options
from lib.config import CompleteConfig


@dataclass(frozen=True)
class Options:
    recipe: RecipeName
    """Whose rows."""
    out: Out
    """The folder to make; nothing is overwritten."""
    data: str = "sample"
    """Where the rows are (a .csv, .jsonl or .parquet file, a folder, a hub id, sample)."""
    columns: str | None = None
    """What they call the recipe's columns: Input=reviews,Output=summary."""
    letters_only: FlagCreatePairsOff[bool] = False
    """Keep only a-z, A-Z, 0-9 and white space, in what is to be written too."""
    push: str | None = None
    """Send the folder to this data set of the hub; the token comes from HF_TOKEN or its file."""
    public: bool = False
    """Make a new data set public instead of private."""
    dry_run: bool = False
    """With --push: say what would be sent, and send nothing."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object instead; what people read goes to stderr."""


def main() -> None:
    """Write the usable rows, a file a split."""
    asked = options(Options, __doc__)
    from lib.export import dataset, push

    push.refuse(asked.push, asked.public, asked.dry_run)
    recipe = recipes.load(asked.recipe or "")
    config, task = recipe.config, recipe.config.task
    if isinstance(task, CompleteConfig):
        task = replace(task, letters_only=asked.letters_only)
    data = replace(config.data, data=asked.data, columns=asked.columns)
    with words_aside(asked.json):
        written = dataset.write(replace(config, data=data, task=task), recipe, asked.out)
        speak(written.in_words())
        if asked.push is not None:
            speak(push.send(asked.out, asked.push, not asked.public, asked.dry_run, kind="dataset"))
    if asked.json:
        speak_json(written)


if __name__ == "__main__":
    sys.exit(exits.run(main))
