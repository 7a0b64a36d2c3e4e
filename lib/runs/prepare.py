"""What happens before any weight is loaded, on rank 0 alone: the rows, their token ids, the run folder, every
check."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.base.console import speak
from lib.base.contents import Record
from lib.base.exits import code_of
from lib.config import Config
from lib.config_tree import experiment
from lib.process import precision
from lib.process.world import World
from lib.recipe import Recipe
from lib.runs import folder as folders
from lib.runs import limits, record, resume, sittings
from lib.runs.folder import RunFolder
from lib.runs.reading import Read, Reader
from lib.task import Task
from lib.tracking import login
from lib.training import checkpoint, optim


@dataclass(frozen=True)
class Prepared:
    """What every rank needs to know of it; JSON values only."""

    folder: str
    encoded: str
    checkpoint: str | None
    """Where to go on from; None for a new run."""
    token_budget: int
    precision: str
    model_commit: str | None
    """Of a hub model: every rank takes the same."""
    threads: int
    facts: list[str]
    """Lines for people."""

    @property
    def begin(self) -> Path | None:
        return Path(self.checkpoint) if self.checkpoint else None


def prepare(
    config: Config, recipe: Recipe, world: World, command: Sequence[str]
) -> tuple[RunFolder, Read, Prepared]:
    """The locked folder, the rows, and the facts. `command` is kept in run.json. A new run that is
    refused leaves nothing behind but its rejected rows."""
    if config.tracking.wandb == "online":
        login.require_key()
    decision = resume.decide(config)
    begun = _begun(decision.folder)
    settled = resume.settled(config, model_commit=begun.get("model_commit"))
    reader = Reader.of(settled, recipe, world.stop.raise_if_requested)
    optim.check(config.optim, world.device)
    world = _as_begun(world, begun.get("environment", {}), config, reader.task)
    limits.refuse_spent(config.limits, decision.folder, world)
    folder = decision.folder or folders.create(config)
    if decision.folder:
        folder.lock()
        if folder.config().data.data != config.data.data:
            resume.settle_at(folder, config.data.data)
    speak(f"run folder {folder.path} (report.html in it when done)")
    try:
        if decision.folder is None:
            folder.write_config(config)
            _require_disk(folder, reader.task)
        sittings.begin(folder, config.limits.price)
        folder.write_status(phase="preparing", exit_code=None)
        read = reader.for_run(recipe, folder, begun.get("fingerprints"))
        facts = [decision.reason, *read.facts]
        checkpoint.clean(folder.checkpoints)
        last = checkpoint.newest_verified(folder.checkpoints, facts.append) if decision.folder else None
        _write_record(folder, config, read, reader.task, world)
        folder.write_record(command=shlex.join(command))
        # both may have been halved to fit into memory
        budget = checkpoint.read_state(last)["token_budget"] if last else config.optim.token_budget
    except BaseException as error:
        _abandon(folder, decision.folder is None, error)
        raise
    return (
        folder,
        read,
        Prepared(
            folder=str(folder.path),
            encoded=str(read.encoded.folder),
            checkpoint=str(last) if last else None,
            token_budget=min(budget, begun.get("token_budget", budget)),
            precision=world.precision,
            model_commit=reader.task.described.commit,
            threads=world.threads,
            facts=facts,
        ),
    )


def _begun(folder: RunFolder | None) -> Record:
    """What is recorded of the run that goes on; empty for a new one. Raises ValueError when it never
    began."""
    if folder is None:
        return {}
    begun = folder.record()
    if "fingerprints" not in begun:
        raise ValueError(
            f"{folder.path} was refused or killed before it began; start over with --resume never"
        )
    return begun


def _as_begun(world: World, environment: dict[str, Any], config: Config, task: Task) -> World:
    """The precision, and the number of threads on as many ranks, that the run began with: others round
    otherwise."""
    wanted = environment.get("precision", config.optim.precision)
    same_ranks = config.compute.threads is None and environment.get("ranks") == world.size
    threads = environment["threads"] if same_ranks else None
    return world.settled(precision.resolve(wanted, world.device, task.model_type), threads)


def _require_disk(folder: RunFolder, task: Task) -> None:
    """Raises ValueError when two checkpoints would not fit on the disk (one is written while another
    stands)."""
    free, needed = shutil.disk_usage(folder.path).free, 2 * task.checkpoint_bytes()
    if free < needed:
        raise ValueError(
            f"{folder.path} has {free / 2**30:.2f} GiB free, two checkpoints take {needed / 2**30:.2f} GiB; "
            "make room or choose another disk with --runs-dir"
        )


def _abandon(folder: RunFolder, fresh: bool, error: BaseException) -> None:
    if fresh and not folder.rejected.exists() and not folder.lint.exists():
        folder.remove()
    else:
        folder.write_status(phase="ended", exit_code=code_of(error))
        speak(f"what was found is kept in {folder.path}")
    folder.unlock()


def _write_record(folder: RunFolder, config: Config, read: Read, task: Task, world: World) -> None:
    corpus = read.corpus
    folder.write_record(
        rows=corpus.sizes(),
        counts=corpus.counts | read.encoded.counts(),
        num_rejected=len(corpus.rejected),
        revision=corpus.revision,
        files=corpus.files,
        lists=corpus.lists,
        fingerprints=read.fingerprints,
        licence=corpus.recipe.licence,
        environment=record.environment(world),
        model_commit=task.described.commit,
        experiment=experiment(config),
    )
