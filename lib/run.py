"""The table of contents: every piece of a run is made and joined here and nowhere else."""

import math
import shutil
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from lib import recipe as recipes
from lib.config import Config
from lib.data import rows as encoded_rows
from lib.data.loader import Loader, evaluation_batches
from lib.data.rows import Rows
from lib.evaluation import evaluate, scoring, summary
from lib.evaluation.report import write_report
from lib.exits import BAD_INPUT, CRASHED, DONE, code_of
from lib.files import read_json, write_json
from lib.models import adapters, backbone
from lib.models.freezing import frozen_names
from lib.models.placement import place
from lib.recipe import Prediction, Recipe
from lib.runs import lint, resume
from lib.runs.folder import RunFolder
from lib.runs.prepare import PROBES, Prepared, checkpoint_path, prepare, read_examples
from lib.runs.record import base_fingerprint
from lib.task import Task
from lib.tasks import make as make_task
from lib.tracking import Tracker, clock
from lib.training import checkpoint, dist, loop, memory, optim
from lib.training.dist import World
from lib.training.engine import Ddp, freeze_unused
from lib.training.progress import Progress
from lib.training.signals import StopFlag


def train(config: Config, stop: StopFlag | None = None) -> int:
    """One run from rows to report. Raises what lib.exits knows; returns 0. `stop`: the flag of whoever trains
    several, so that no signal is lost between two."""
    stop = stop or StopFlag()
    world = dist.setup(config.compute.threads)
    try:
        return _train(config, world, stop)
    finally:
        dist.leave()


def _train(config: Config, world: World, stop: StopFlag) -> int:
    if config.optim.batch < world.size:
        raise ValueError(
            f"--batch {config.optim.batch} is smaller than {world.size} ranks; use at least {world.size}"
        )
    recipe = recipes.load(config.recipe)
    held: list[RunFolder] = []  # rank 0 keeps the lock

    def on_rank_0() -> dict[str, Any]:
        folder, prepared = prepare(config, recipe, world, stop)
        held.append(folder)
        return asdict(prepared)

    prepared = Prepared(**dist.on_main(on_rank_0))
    folder = held[0] if held else RunFolder(Path(prepared.folder))
    world = dist.with_threads(world, prepared.threads)
    tracker = Tracker(folder.path, config.tracking, world)
    try:
        for line in (f"run folder {folder.path} (report.html in it when done)", str(world), *prepared.facts):
            tracker.say(line)
        if config.tracking.lint_only:
            return _stop_after_lint(folder, tracker)
        settled = {"precision": prepared.precision, "token_budget": prepared.token_budget}
        config = resume.settled(config, prepared.model_commit, **settled)
        begin = checkpoint_path(prepared)
        parts = _assemble(config, recipe, folder, begin, world, prepared.precision, stop, tracker)
        try:
            progress = loop.train(parts, _progress(begin))
            config = parts.config  # its token budget may be smaller
            del parts  # the trained model, its gradients and moments: the best one needs the room
            memory.give_back(world.device)
            _finish(config, recipe, folder, progress, world, stop, tracker)
        except ValueError as error:  # by now it is our fault, not the user's
            raise RuntimeError(f"{type(error).__name__} while training: {error}") from error
    except BaseException as error:
        code = code_of(error)
        if world.is_main:
            folder.write_status(phase="ended", exit_code=code)
        tracker.say(f"run {folder.path} ends with exit code {code}: {error}")
        if code == CRASHED:
            tracker.log(traceback.format_exc())
        if world.is_main and code == BAD_INPUT and not folder.checkpoints.exists():
            folder.remove()  # refused: a model that cannot be loaded
        raise
    finally:
        tracker.close()
        folder.unlock()
    return DONE


def _stop_after_lint(folder: RunFolder, tracker: Tracker) -> int:
    if tracker.world.is_main:
        tracker.say("tokens of the training sequences:")
        for line in lint.histogram(read_json(folder.lint)):
            tracker.say(line)
        shutil.rmtree(folder.encoded)
        folder.write_status(phase="linted", exit_code=DONE)
    tracker.say(f"nothing is beyond its threshold; all of it is in {folder.lint}")
    return DONE


def _assemble(
    config: Config,
    recipe: Recipe,
    folder: RunFolder,
    begin: Path | None,
    world: World,
    precision_name: str,
    stop: StopFlag,
    tracker: Tracker,
) -> loop.Parts:
    """Make every part of the loop, fresh or from the checkpoint `begin`."""
    task = make_task(recipe, config)
    rows, validation = (encoded_rows.load(folder.encoded / split) for split in ("train", "validation"))
    model: Any = place(task.build(begin), world.device, precision_name)
    if config.compute.gradient_checkpointing:
        model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    dist.on_main(lambda: _record_weights(model, task, folder, fresh=begin is None))
    config = _fit_memory(config, task, model, rows, world, precision_name, tracker)
    _describe(model, config, precision_name, folder, tracker)
    for part in model.called() if config.compute.compile else ():
        part.compile(dynamic=True)
    engine = Ddp(model, config, world, precision_name)
    if begin is not None:
        engine.load_optimizer_state(safetensors.torch.load_file(begin / "optimizer.safetensors"))
    shortest = int(rows.longest_by_row().argmin())
    engine.warm_up(task.collate(rows, (shortest,)).to(world.device), task.loss)

    def predict(rows: Rows) -> list[Prediction]:
        return evaluate.predict(model, task, rows, config.optim.token_budget, world, precision_name, stop)

    if begin is None and recipe.probes:
        said = predict(encoded_rows.load(folder.encoded / PROBES))
        if world.is_main:
            folder.write_predictions(f"{PROBES} before", said)

    return loop.Parts(
        config=config,
        world=world,
        task=task,
        engine=engine,
        rows=rows,
        loader=make_loader(config, rows),
        writer=checkpoint.Writer(folder.checkpoints, config.tracking.keep),
        tracker=tracker,
        stop=stop,
        evaluate=lambda: recipe.score(predict(validation)),
        better=better(recipe),
        status=folder.write_status if world.is_main else lambda **values: None,
    )


def _record_weights(model: nn.Module, task: Task, folder: RunFolder, fresh: bool) -> None:
    """Keep the fingerprints of the weights that a run begins with. Raises CheckError when those that no
    checkpoint keeps (a frozen base) are not what they were."""
    if fresh:
        fingerprints = base_fingerprint(model, task)
        folder.write_record(weights=backbone.fingerprint(model.state_dict()), base=fingerprints.get("base"))
    else:
        resume.check_base(folder, model, task)


def better(recipe: Recipe) -> Callable[[float, float | None], bool]:
    """Is a new first score better than the best so far? One that is not finite never is."""
    sign = 1 if recipe.better == "higher" else -1
    return lambda new, old: math.isfinite(new) and (old is None or sign * new > sign * old)


def make_loader(config: Config, rows: Rows) -> Loader:
    """The training rows in steps, as the configuration says."""
    optim = config.optim
    return Loader(
        rows,
        batch=optim.batch,
        epochs=optim.epochs,
        max_steps=optim.max_steps,
        token_budget=optim.token_budget,
        min_micro_batches=optim.min_micro_batches,
        seed=optim.seed,
    )


def _progress(begin: Path | None) -> Progress:
    if begin is None:
        return Progress()
    return Progress(
        **{key: value for key, value in checkpoint.read_state(begin).items() if key != "token_budget"}
    )


def _fit_memory(
    config: Config,
    task: Task,
    model: nn.Module,
    rows: Rows,
    world: World,
    precision_name: str,
    tracker: Tracker,
) -> Config:
    """Try the costliest micro-batch, halve the token budget until it fits, freeze what no gradient
    reaches."""

    def costliest(budget: int) -> tuple[Any, str]:
        piece = max(evaluation_batches(rows, budget), key=lambda piece: piece.cost)
        longest = max(int(rows.longest_by_row()[row]) for row in piece.rows)
        return task.collate(
            rows, piece.rows
        ), f"{len(piece.rows)} rows, the longest sequence {longest} tokens"

    room = optim.state_bytes(model, config.optim)
    budget, used = memory.probe(
        model, costliest, task.loss, config.optim.token_budget, room, world, precision_name
    )
    unused = freeze_unused(model, used)
    if unused:
        tracker.say(f"no gradient reaches {', '.join(unused)}: frozen")
    if budget != config.optim.token_budget:
        tracker.say(
            f"--token-budget {config.optim.token_budget} does not fit into memory; {budget} does and is used"
        )
    return replace(config, optim=replace(config.optim, token_budget=budget))


def _describe(
    model: nn.Module, config: Config, precision_name: str, folder: RunFolder, tracker: Tracker
) -> None:
    size = adapters.count(model)
    if tracker.world.is_main:
        folder.write_record(parameters=size)
    adapter, kept = config.adapter, precision_name
    kept += f", LoRA of rank {adapter.lora_rank}" if adapter.lora_rank else ""
    kept += f" on a base in {adapter.quantize}" if adapter.quantize != "none" else ""
    tracker.say(
        f"model {config.model.model}: {size['trainable']:,} of {size['total']:,} parameters train, "
        f"{size['bytes'] / 2**20:,.0f} MiB of weights, {kept}"
    )
    if adapter.quantize != "none" and tracker.world.device.type == "cpu":
        tracker.say("products with quantized weights are slow on a CPU; --quantize none is faster there")
    if frozen := frozen_names(model):
        tracker.say(f"frozen: {', '.join(frozen)}")
    dropout = config.model.attention_dropout
    why = "" if dropout else " (0 keeps CPU attention on its fast path)"
    tracker.say(f"attention dropout {dropout:g}{why}")


def _finish(
    config: Config,
    recipe: Recipe,
    folder: RunFolder,
    progress: Progress,
    world: World,
    stop: StopFlag,
    tracker: Tracker,
) -> None:
    """Score validation and test with the best checkpoint; write predictions, scores and the report."""
    # From the folder, also with --wandb online: its artifact is uploaded by a process that no run waits for.
    # `evaluate.py RUN --from-artifact` loads it back and must give the same digits.
    best = folder.checkpoints / checkpoint.name_of(progress.best_step or progress.step)
    tracker.say(f"scoring with the best checkpoint, {best.name}")
    dist.on_main(lambda: checkpoint.require_whole(best))
    examples = read_examples(folder)
    task = make_task(recipe, config, best)
    splits, unscored = ("validation", "test"), (PROBES,) if recipe.probes else ()
    scores = scoring.score(
        config, recipe, task, folder, folder, best, examples, splits, unscored, world, stop
    )
    if not world.is_main:
        return
    write_json(folder.path / "scores.json", scores)
    for split, found in scores["splits"].items():
        tracker.say(f"{split} ({found['num_rows']} rows)")
        for line in summary.table(found):
            tracker.say("  " + line)
    folder.write_record(training_seconds=progress.seconds, peak_gib=memory.peak_gib(world.device))
    report = write_report(folder, examples)
    shutil.rmtree(folder.encoded)
    folder.write_status(phase="done", step=progress.step, exit_code=DONE)
    tracker.say(f"done in {clock(progress.seconds)} of training; report: {report}")
