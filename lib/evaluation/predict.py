"""A finished run and new rows -> its answers. The rows need no label; nothing is scored."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from lib import recipe as recipes
from lib.config import MOST_THREADS, Config
from lib.data import rows as encoded_rows
from lib.data import sources, splits
from lib.data.sources import Rejected
from lib.evaluation import evaluate
from lib.evaluation.rescore import OTHER, best_checkpoint, index_of
from lib.evaluation.scoring import built
from lib.files import write_csv, write_lines
from lib.models.offload import give_back_at_once, stored
from lib.models.placement import place
from lib.recipe import Example, Recipe
from lib.retrieval import contexts
from lib.runs import resume
from lib.runs.folder import RunFolder
from lib.task import Task
from lib.tasks import make as make_task
from lib.training import dist, precision
from lib.training.dist import World
from lib.training.signals import StopFlag

SUBMISSION, CONTEXTS, REJECTED = ".submission.csv", ".contexts.jsonl", ".rejected.jsonl"


@dataclass(frozen=True)
class Written:
    """What came of it."""

    path: Path
    submission: Path | None
    num_rows: int
    num_rejected: int
    rejected: Path
    """The malformed rows, with reasons, if there are any."""


def predict(run: Path, data: str, out: Path | None, offload: Path | None, threads: int | None) -> Written:
    """Write what the run's best checkpoint says of every row of `data`. Raises ValueError (no such run, bad
    rows, a file in the way), RepeatsError (damaged checkpoint), StoppedError."""
    if offload is not None:
        give_back_at_once()
    folder = RunFolder(run)
    best = best_checkpoint(folder)
    config = resume.as_trained(folder, best)
    recipe = recipes.load(config.recipe)
    if threads is not None and not 0 < threads <= MOST_THREADS:
        raise ValueError(f"--threads is {threads}; it must be from 1 to {MOST_THREADS}")
    out = out or folder.path / "predicted" / f"{Path(data).stem or 'data'}.jsonl"
    submission = out.with_suffix(SUBMISSION) if recipe.submission is not None else None
    others = [submission, out.with_suffix(CONTEXTS) if config.data.index else None, out.with_suffix(REJECTED)]
    _refuse_taken(out, others, offload)
    examples, rejected = read(config, recipe, data)
    stop = StopFlag()
    index = index_of(config, recipe, folder)
    if index is not None:
        found = contexts.retrieve(
            {OTHER: examples}, config.data, index, folder.path.parent, stop.raise_if_requested
        )
        examples = found.splits[OTHER]
    world = dist.setup(threads or folder.record()["environment"]["threads"])
    task = make_task(recipe, config, best)
    precision_name = precision.resolve(config.optim.precision, world.device, task.model_type)
    encoded = encoded_rows.pack(task.encode(examples, stop.raise_if_requested))
    model = _model(task, folder, best, offload, world, precision_name)
    said = evaluate.predict(model, task, encoded, config.optim.token_budget, world, precision_name, stop)
    out.parent.mkdir(parents=True, exist_ok=True)
    if index is not None:
        found.write(out.with_suffix(CONTEXTS))
    if rejected:
        write_lines(out.with_suffix(REJECTED), map(asdict, rejected), new=True)
    write_lines(out, [row | {"answer": recipe.labels[row["prediction"]]} for row in said], new=True)
    if submission is not None and recipe.submission is not None:
        write_csv(submission, [recipe.submission(row) for row in said], new=True)
    return Written(out, submission, len(said), len(rejected), out.with_suffix(REJECTED))


def _refuse_taken(out: Path, others: list[Path | None], offload: Path | None) -> None:
    for path in filter(None, (out, *others)):
        if path.exists():
            raise ValueError(f"{path} is there and is not overwritten; name another file with --out")
    if out.suffix != ".jsonl":
        raise ValueError(f"--out {out} must end in .jsonl")
    above = next(path for path in out.absolute().parents if path.exists())
    if not above.is_dir():
        raise ValueError(f"--out {out}: {above} is a file, not a folder")
    if offload is None or not offload.exists():
        return
    if not offload.is_dir() or {path.name for path in offload.iterdir()} - {"index.json"}:
        raise ValueError(f"--offload {offload} is in use for something else; name a folder of its own")


def read(config: Config, recipe: Recipe, data: str) -> tuple[list[Example], list[Rejected]]:
    """Every usable row of `data`, with or without a label, and those that could not be used."""
    source = sources.load(replace(config.data, data=data), recipe, with_label=False)
    found = splits.make(source, recipe, with_label=False)
    splits.refuse_rejected(found, config.data, listed=False)
    rows = [row for split in found.splits.values() for row in split]
    splits.refuse_doubled_ids({OTHER: rows})
    return rows, found.rejected


def _model(
    task: Task, folder: RunFolder, best: Path, offload: Path | None, world: World, precision_name: str
) -> nn.Module:
    if offload is None:
        return place(built(task, folder, best), world.device, precision_name)
    model = task.build_on_disk(best, offload, world.device, precision_name)
    resume.check_base(folder, model, task, weights=stored(offload))
    return model
