"""Score a finished run once more, in a fresh process, from its best checkpoint: the same rows, or others."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib import artifact
from lib import recipe as recipes
from lib.config import MOST_THREADS, Config
from lib.console import speak
from lib.data import sources, splits
from lib.evaluation import scoring
from lib.files import read_json, write_json
from lib.recipe import Example, Recipe
from lib.retrieval import contexts
from lib.retrieval.folder import Index
from lib.runs import resume
from lib.runs.folder import RunFolder, new_folder
from lib.runs.prepare import encode
from lib.tasks import make as make_task
from lib.training import checkpoint, dist
from lib.training.signals import StopFlag

OTHER = "data"  # the split name of rows given by --data


def rescore(
    run: Path, split: str | None, data: str | None, threads: int | None, from_artifact: bool = False
) -> dict[str, Any]:
    """Scores of `split` (test by default), or of every row of `data`, written with the predictions into a
    folder of their own under the run's `evaluations/`. Threads default to what training used, so that the
    scores are the same bits. Raises ValueError (no such run, bad rows), CheckError (rows changed, rows seen
    in training)."""
    if split is not None and data is not None:
        raise ValueError(f"--split {split} is a split of the run's own rows; leave it out with --data")
    if threads is not None and not 0 < threads <= MOST_THREADS:
        raise ValueError(f"--threads is {threads}; it must be from 1 to {MOST_THREADS}")
    folder = RunFolder(run)
    best = fetched_checkpoint(folder) if from_artifact else best_checkpoint(folder)
    config = resume.as_trained(folder, best)
    recipe = recipes.load(config.recipe)
    stop = StopFlag()
    world = dist.setup(threads or folder.record()["environment"]["threads"])
    task = make_task(recipe, config, best)
    examples = own_examples(config, recipe, folder)
    split = split or "test"
    index = None
    if data is not None:
        split = OTHER
        index = index_of(config, recipe, folder)
        examples[OTHER] = _other_rows(config, recipe, data, examples)
    into = RunFolder(new_folder(folder.path / "evaluations"))
    try:
        if index is not None:
            rows = {OTHER: examples[OTHER]}
            found = contexts.retrieve(rows, config.data, index, folder.path.parent, stop.raise_if_requested)
            found.write(into.path / contexts.FILE)
            examples |= found.splits
        encode(task, {split: examples[split]}, into, stop)
        scores = scoring.score(config, recipe, task, folder, into, best, examples, (split,), (), world, stop)
        shutil.rmtree(into.encoded)
        write_json(into.path / "scores.json", scores | {"data": data})
    except BaseException:
        into.remove()
        raise
    return {"folder": str(into.path), "scores": scores["splits"][split], "said": _said_before(folder, split)}


def best_checkpoint(folder: RunFolder) -> Path:
    """The best checkpoint, verified. Raises ValueError when there is none, RepeatsError when it is
    damaged."""
    folder.config()  # raises when this is no run folder at all
    link = folder.checkpoints / "best"
    best = (link if link.exists() else folder.checkpoints / "last").resolve()
    if not best.is_dir():
        raise ValueError(f"{folder.path} has no checkpoint yet; let the run reach its first evaluation")
    checkpoint.require_whole(best)
    return best


def fetched_checkpoint(folder: RunFolder) -> Path:
    """The best checkpoint as wandb's artifact has it, verified by its own manifest; when it cannot be had,
    that of the run folder, which has the same bytes."""
    config = folder.config()
    if config.tracking.wandb != "online":
        speak(f"this run was followed with --wandb {config.tracking.wandb}: read from its folder")
        return best_checkpoint(folder)
    try:
        best = artifact.fetch(folder.path, config.recipe)
        problem = checkpoint.verify(best, artifact.LEFT_OUT)
        if problem is None:
            speak(f"from the artifact: {best}")
            return best
        problem = f"{best}: {problem}"
    except artifact.FetchError as error:
        problem = str(error)
    speak(f"WARNING: the artifact is not used ({problem}); the checkpoint is read from the run folder")
    return best_checkpoint(folder)


def own_examples(config: Config, recipe: Recipe, folder: RunFolder) -> dict[str, list[Example]]:
    """The run's own rows, as they were. Raises ValueError (they are gone), CheckError (they changed)."""
    source = sources.load(config.data, recipe)
    examples = splits.complete(splits.make(source, recipe), config.data)
    if (file := folder.path / contexts.FILE).is_file():
        examples.splits = contexts.kept(examples.splits, config.data, file)
    before = folder.record()["fingerprints"]
    resume.check_fingerprints(
        {key: before[key] for key in ("data", "split")}, examples.fingerprints(), "put it back"
    )
    return examples.splits


def index_of(config: Config, recipe: Recipe, folder: RunFolder) -> Index | None:
    """The index that the run's contexts came from, for other rows. Raises CheckError when it changed."""
    index = contexts.check(config.data, recipe)
    if index is not None:
        before = folder.record()["fingerprints"]
        resume.check_fingerprints({"index": before["index"]}, {"index": index.fingerprint}, "put it back")
    return index


def _other_rows(config: Config, recipe: Recipe, data: str, own: dict[str, list[Example]]) -> list[Example]:
    source = sources.load(replace(config.data, data=data), recipe)
    found = splits.make(source, recipe)
    splits.refuse_rejected(found, config.data, listed=False)
    rows = [row for split in found.splits.values() for row in split]
    splits.refuse_doubled_ids({OTHER: rows})
    splits.refuse_leaks({"train": own["train"], "validation": own["validation"], OTHER: rows})
    return rows


def _said_before(folder: RunFolder, split: str) -> dict[str, Any] | None:
    """What training reported for this split, if it did."""
    path = folder.path / "scores.json"
    return read_json(path)["splits"].get(split) if path.exists() else None
