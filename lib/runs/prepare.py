"""What happens before any weight is loaded, on rank 0 alone: the run folder, the rows, their token ids, every
check."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from lib.config import Config, experiment
from lib.console import speak
from lib.data import rows as encoded_rows
from lib.data import sources, splits
from lib.data.rows import EncodedRow
from lib.data.sources import Source
from lib.data.splits import Examples
from lib.exits import code_of
from lib.files import read_json, write_json, write_lines
from lib.recipe import Example, Recipe
from lib.retrieval import contexts
from lib.retrieval.folder import Index
from lib.runs import folder as folders
from lib.runs import lint, record, resume
from lib.runs.folder import RunFolder
from lib.task import Task
from lib.tasks import make as make_task
from lib.training import checkpoint, optim, precision
from lib.training.dist import World
from lib.training.signals import StopFlag

PROBES = "probes"  # the split name of a recipe's probes


@dataclasses.dataclass
class Prepared:
    """What every rank needs to know of it; JSON values only."""

    folder: str
    checkpoint: str | None
    """Where to go on from; None for a new run."""
    token_budget: int
    precision: str
    model_commit: str | None
    """Of a hub model: every rank takes the same."""
    threads: int
    facts: list[str]
    """Lines for people."""


def prepare(config: Config, recipe: Recipe, world: World, stop: StopFlag) -> tuple[RunFolder, Prepared]:
    """The locked folder and the facts. A new run that is refused leaves nothing behind but its rejected
    rows."""
    decision = resume.decide(config)
    begun = _begun(decision.folder)
    task = make_task(recipe, resume.settled(config, model_commit=begun.get("model_commit")))
    task.check()
    index = contexts.check(config.data, recipe)
    optim.check(config.optim, world.device)
    environment = begun.get("environment", {})
    wanted = environment.get("precision", config.optim.precision)
    precision_name = precision.resolve(wanted, world.device, task.model_type)
    if config.compute.threads is None and environment.get("ranks") == world.size:
        world = dataclasses.replace(world, threads=environment["threads"])  # another number rounds otherwise
    folder = decision.folder or folders.create(config)
    if decision.folder:
        folder.lock()
    try:
        if decision.folder is None:
            folder.write_config(config)
            _require_disk(folder, task)
        folder.write_status(phase="preparing", exit_code=None)
        before = begun.get("fingerprints")
        source, examples = _read_rows(config, recipe, folder, keep_rejected=before is None)
        found = _find_contexts(config, index, examples, folder, stop)
        fingerprints = examples.fingerprints() | task.fingerprints() | {"code": record.code_fingerprint()}
        if index is not None:
            fingerprints["index"] = index.fingerprint
        if before is not None:
            resume.check_fingerprints(before, fingerprints)
        read = _encode_rows(config, source, examples, recipe, task, folder, stop)
        facts = [decision.reason, *found, *read]
        checkpoint.clean(folder.checkpoints)
        last = checkpoint.newest_verified(folder.checkpoints, facts.append) if decision.folder else None
        folder.write_record(
            fingerprints=fingerprints,
            licence=recipe.licence,
            environment=record.environment(world, precision_name),
            command=record.command(),
            model_commit=task.described.commit,
            experiment=experiment(config),
        )
    except BaseException as error:
        _abandon(folder, decision.folder is None, error)
        raise
    budget = token_budget_of(last) if last else config.optim.token_budget
    return folder, Prepared(
        folder=str(folder.path),
        checkpoint=str(last) if last else None,
        token_budget=budget,
        precision=precision_name,
        model_commit=task.described.commit,
        threads=world.threads,
        facts=facts,
    )


def _begun(folder: RunFolder | None) -> dict[str, Any]:
    """What is recorded of the run that goes on; empty for a new one. Raises ValueError when it never
    began."""
    if folder is None:
        return {}
    found = folder.record()
    if "fingerprints" not in found:
        raise ValueError(
            f"{folder.path} was refused or killed before it began; start over with --resume never"
        )
    return found


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


def _read_rows(
    config: Config, recipe: Recipe, folder: RunFolder, keep_rejected: bool
) -> tuple[Source, Examples]:
    """Read, check and split the rows."""
    source = sources.load(config.data, recipe)
    examples = splits.make(source, recipe)
    if examples.rejected and keep_rejected:
        write_lines(folder.rejected, map(dataclasses.asdict, examples.rejected))
    return source, splits.complete(examples, config.data)


def _find_contexts(
    config: Config, index: Index | None, examples: Examples, folder: RunFolder, stop: StopFlag
) -> list[str]:
    """Contexts for the rows that want one: those found when the run began, or found now."""
    if index is None:
        return []
    file = folder.path / contexts.FILE
    if file.is_file():
        examples.splits = contexts.kept(examples.splits, config.data, file)
        return [f"contexts as they were found when the run began: {file}"]
    found = contexts.retrieve(
        examples.splits, config.data, index, folder.path.parent, stop.raise_if_requested
    )
    found.write(file)
    examples.splits = found.splits
    return found.facts + ([f"what was found is kept in {file}"] if found.lines else [])


def _encode_rows(
    config: Config,
    source: Source,
    examples: Examples,
    recipe: Recipe,
    task: Task,
    folder: RunFolder,
    stop: StopFlag,
) -> list[str]:
    """Write the rows' token ids, and what was read into the record; what is to be said of it."""
    probes = {PROBES: splits.probes(recipe)} if recipe.probes else {}
    encoded = encode(task, examples.splits | probes, folder, stop)
    sizes = {split: len(rows) for split, rows in examples.splits.items()}
    counts = examples.counts | {name: count for name, count in task.counts.items() if count}
    folder.write_record(
        rows=sizes,
        counts=counts,
        num_rejected=len(examples.rejected),
        revision=source.revision,
        files=source.files,
    )
    facts = [
        f"data {source.name}: " + ", ".join(f"{split} {size}" for split, size in sizes.items()) + " rows"
    ]
    if source.revision:
        facts.append(f"commit {source.revision}")
    if num_rejected := len(examples.rejected):
        facts.append(f"{num_rejected} of {examples.num_read} rows rejected, listed in {folder.rejected}")
    if counts:
        facts.append("counted: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    if not folder.lint.exists():  # a resumed run has seen it
        found = lint.inspect(recipe, task, examples.splits, encoded, stop.raise_if_requested)
        write_json(folder.lint, found)
        facts += lint.lines(found)
        lint.refuse(found, config.data, folder.lint)
    return facts


def encode(
    task: Task, examples: dict[str, list[Example]], folder: RunFolder, stop: StopFlag
) -> dict[str, list[EncodedRow]]:
    """Write token ids and examples of each split, for all ranks to map into memory."""
    found = {}
    for split, rows in examples.items():
        found[split] = task.encode(rows, stop.raise_if_requested)
        encoded_rows.save(encoded_rows.pack(found[split]), folder.encoded / split)
    write_json(folder.encoded / "examples.json", examples)
    return found


def read_examples(folder: RunFolder) -> dict[str, list[Example]]:
    """The examples that `encode` wrote."""
    found: Any = read_json(folder.encoded / "examples.json")
    return found


def token_budget_of(folder: Path) -> int:
    """The token budget that a checkpoint was made with (it may have been halved to fit into memory)."""
    return int(checkpoint.read_state(folder)["token_budget"])


def checkpoint_path(prepared: Prepared) -> Path | None:
    return Path(prepared.checkpoint) if prepared.checkpoint else None
