"""What scripts/evaluate.py can be asked. Needs no torch, so `--help` answers at once."""

from dataclasses import dataclass
from typing import Literal

from lib.command_line import FlagCreatePairsOff, Run


@dataclass(frozen=True)
class Options:
    run: Run
    """A run's folder, timestamp or name; with --model a recipe."""
    split: Literal["train", "validation", "test"] | None = None
    """One of the run's own. None: test; validation when prompts are tried."""
    data: str | None = None
    """Score these rows instead (a .csv, .jsonl or .parquet file, a folder, a hub id)."""
    columns: str | None = None
    """What these rows call the recipe's columns: question=q,passage=text. None: as the run's rows do."""
    moved_to: str | None = None
    """Where the run's own rows are now, if they were moved; kept in its config.json."""
    twins: FlagCreatePairsOff[bool] = False
    """Ask rows again with one thing changed in their context: does the model cite because it has read?"""
    model: str | None = None
    """Try prompts on this model, which has not been trained: a hub id or a folder."""
    prompt_file: tuple[str, ...] = ()
    """Files with a prompt each, with {names} where a row's texts stand. None named: the recipe's own."""
    rows: int = 50
    """How many rows each prompt is tried on, always the same ones."""
    max_length: int | None = None
    """Most tokens of a prompt and its text, when prompts are tried. None: as the recipe has it."""
    threads: int | None = None
    """CPU threads. None: as many as training used, so that the scores are the same bits."""
    from_artifact: bool = False
    """Load the best checkpoint back from wandb (a run with --wandb online)."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object instead; what people read goes to stderr."""
    runs_dir: str = "runs"
    """Where timestamps and names are looked up."""
