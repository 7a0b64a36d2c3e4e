"""The table of contents: every piece of a run is made and joined here and nowhere else."""

import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from lib import recipe as recipes
from lib.base.console import speak
from lib.base.exits import BAD_INPUT, CRASHED, DONE, StoppedError, code_of
from lib.base.files import write_json
from lib.config import CompleteConfig, Config
from lib.corpus import lint
from lib.corpus.corpus import PROBES
from lib.corpus.encoded import Encoded
from lib.data import text
from lib.data.loader import Loader, evaluation_batches
from lib.data.rows import Rows
from lib.evaluation import scoring
from lib.evaluation.predictor import Predictor
from lib.evaluation.trained import TrainedRun
from lib.job import Job
from lib.models import flops, frozen_weights, padding
from lib.models.heads import Encoder
from lib.process import dist
from lib.process.signals import StopFlag
from lib.process.world import World
from lib.recipe import Recipe, Scores
from lib.reports import summary
from lib.reports.report import write_report
from lib.runs import of_model, record, resume
from lib.runs.folder import RunFolder
from lib.runs.limits import Limits
from lib.runs.prepare import Prepared, prepare
from lib.runs.reading import Read, Reader
from lib.task import Task
from lib.tasks import make as make_task
from lib.tracking.tracker import Tracker, clock
from lib.training import checkpoint, loop, memory, strategies
from lib.training.engine import Engine, MakeBatch
from lib.training.progress import Progress


def train(config: Config, stop: StopFlag | None = None, command: Sequence[str] | None = None) -> int:
    """One run from rows to report. Raises what lib.base.exits knows; returns 0. `stop`: the flag of whoever
    trains several, so that no signal is lost between two; `command`: what to type for this run (None: what
    was typed)."""
    alone = config.compute.strategy == "ddp"  # DeepSpeed wants a group of one too
    world = dist.setup(config.compute.threads, stop or StopFlag(), group_of_one=not alone)
    recipe = recipes.load(config.recipe)
    try:
        if config.optim.batch < world.size:
            raise ValueError(
                f"--batch {config.optim.batch} is smaller than {world.size} ranks; use at least {world.size}"
            )
        strategies.check(config)
        if config.tracking.lint_only:
            dist.on_main(lambda: look_through(config, recipe, world))
        else:
            _train(config, recipe, world, command or record.typed())
    finally:
        dist.leave()
    return DONE


def look_through(config: Config, recipe: Recipe, world: World) -> None:
    """--lint-only: what can be said of the rows before any weight loads, without a run folder."""
    read = Reader.of(config, recipe, world.stop.raise_if_requested).look_through(recipe)
    for line in (*read.facts, "tokens of the training sequences:", *lint.histogram(read.lint)):
        speak(line)
    speak(f"nothing is beyond its threshold; all of it is in {read.encoded.lint}")


def _train(config: Config, recipe: Recipe, world: World, command: Sequence[str]) -> None:
    held: list[tuple[RunFolder, Read]] = []  # rank 0 keeps the lock of the folder, and holds the rows

    def on_rank_0() -> dict[str, Any]:
        folder, read, prepared = prepare(config, recipe, world, command)
        held.append((folder, read))
        return asdict(prepared)

    prepared = Prepared(**dist.on_main(on_rank_0))
    folder = held[0][0] if held else RunFolder(Path(prepared.folder))
    world = world.settled(prepared.precision, prepared.threads)
    optim = {"precision": prepared.precision, "token_budget": prepared.token_budget}
    config = resume.settled(config, prepared.model_commit, **optim)
    config = frozen_weights.settled(config, folder.record().get("base_precision"))
    config = strategies.with_own_folder(config, folder.path.name)
    tracker = Tracker(folder.path, config.tracking, world)
    job = Job(config, recipe, folder, world, tracker, Limits.of(config.limits, folder, world))
    try:
        job.tracker.log(f"run folder {folder.path}")  # prepare spoke it, before the rows were read
        for line in (f"{world}, {strategies.in_words(config)}", *prepared.facts):
            job.tracker.say(line)
        _to_the_end(job, Encoded(Path(prepared.encoded)), prepared.begin)
    except BaseException as error:
        _say_how_it_ended(job, error)
        raise
    finally:
        job.tracker.close()
        job.end_sitting()
        folder.unlock()


def _say_how_it_ended(job: Job, error: BaseException) -> None:
    code = code_of(error)
    job.write_status(phase="ended", exit_code=code)
    job.tracker.log(f"run {job.folder.path} ends with exit code {code}: {error}")  # exits.run speaks it
    if code == CRASHED:
        job.tracker.log(traceback.format_exc())
    if job.world.is_main and code == BAD_INPUT and not job.folder.checkpoints.exists():
        job.folder.remove()  # refused: a model that cannot be loaded


def _to_the_end(job: Job, encoded: Encoded, begin: Path | None) -> None:
    """Train, fresh or from the checkpoint `begin`, then score and report."""
    parts = _assemble(job, encoded, begin)
    try:
        progress = Progress.of_state(checkpoint.read_state(begin)) if begin else Progress()
        try:
            progress = loop.train(parts, progress)
        finally:
            parts.engine.end()
        job = parts.job  # its token budget may be smaller
        del parts  # the trained model, its gradients and moments: the best one needs the room
        memory.give_back(job.world.device)
        try:
            _finish(job, encoded, progress)
        except StoppedError as error:
            if not job.world.stop.timed:
                raise
            raise job.stopped(None, "the last scoring") from error
    except ValueError as error:  # by now it is our fault, not the user's
        raise RuntimeError(f"{type(error).__name__} while training: {error}") from error


def _assemble(job: Job, encoded: Encoded, begin: Path | None) -> loop.Parts:
    """Make every part of the loop."""
    config, world = job.config, job.world
    task = make_task(job.recipe, config)
    rows = encoded.rows("train")
    model: Any = task.build(begin)
    if config.compute.gradient_checkpointing:
        model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    dist.on_main(lambda: of_model.record_weights(job, model, task, fresh=begin is None))
    frozen_weights.narrow(model, config)
    model = strategies.place(model, config, world)
    if dist.any_rank(world.stop.requested):
        raise StoppedError("stopped while the model was loaded; the same command goes on")
    shortest = task.collate(rows, (int(rows.longest_by_row().argmin()),))
    paper = strategies.shared_out(config)
    if not paper:
        shortest = shortest.to(world.device)
        _refuse_mixing(model, task, rows)
    flops_of_each, most = flops.of_each(model, shortest.inputs, world, paper), of_model.peak_flops(job)
    engine = strategies.make(model, config, world)
    job = _fit(job, engine, task, rows)
    if paper:
        with engine.whole():
            _refuse_mixing(model, task, rows)
    of_model.describe(job, model)
    for part in model.called() if config.compute.compile else ():
        part.compile(dynamic=True)
    moments = safetensors.torch.load_file(begin / "optimizer.safetensors") if begin else None
    engine.start(shortest.to(world.device), task.loss, moments)
    predictor = Predictor(task, model, world, job.config.optim.token_budget)
    if begin is None:
        with engine.whole() as whole:
            _answer_before(job, encoded, predictor.among(whole))
    evaluate = _evaluation(job, encoded, predictor, engine)

    loader = Loader(task.costs(rows), job.config.optim)
    writer = checkpoint.Writer(job.folder.checkpoints, config.tracking.keep)
    return loop.Parts(job, task, engine, rows, loader, writer, evaluate, flops_of_each, most)


def _refuse_mixing(model: nn.Module, task: Task, rows: Rows) -> None:
    if isinstance(model, Encoder):
        longest = rows.sequences_of(int(rows.longest_by_row().argmax()))[0]
        padding.refuse_mixing(model, task.described, longest, text.specials_of(task.tokenizer).pad)


def _answer_before(job: Job, encoded: Encoded, predictor: Predictor) -> None:
    """What the model says before it is trained: of the probes, and of the test rows where it writes texts."""
    task = job.config.task
    splits = [PROBES] if job.recipe.probes else []
    if isinstance(task, CompleteConfig) and predictor.together:
        job.tracker.say("no texts before training and within it: the whole model has no room on a device")
        return
    if isinstance(task, CompleteConfig) and task.base_texts:
        job.tracker.say("the test rows before training (--no-base-texts leaves them out)")
        splits.append("test")
    for split in splits:
        said = predictor.predict(encoded.rows(split))
        if job.world.is_main:
            said = scoring.kept(said, encoded.examples()[split], job.recipe)
            job.folder.write_predictions(scoring.before(split), said)


def _evaluation(job: Job, encoded: Encoded, predictor: Predictor, engine: Engine) -> Callable[[], Scores]:
    """Scores of the validation rows with the weights as they are."""
    recipe, task, rows = job.recipe, job.config.task, encoded.rows("validation")
    texts = isinstance(task, CompleteConfig)
    words = encoded.examples()["validation"] if texts else []
    written = scoring.some(rows, task.eval_generate) if isinstance(task, CompleteConfig) else None
    if written:
        job.limits.scoring *= len(rows) / len(written)

    def evaluate() -> Scores:
        began_s = time.perf_counter()
        with engine.whole() as whole:
            predictions = predictor.among(whole).predict(rows, written)
        job.limits.took("evaluation", time.perf_counter() - began_s)
        return recipe.score(scoring.kept(predictions, words, recipe) if texts else predictions)

    return evaluate


def _fit(job: Job, engine: Engine, task: Task, rows: Rows) -> Job:
    """The job with the token budget that fits into memory; what no gradient reaches is frozen."""
    wanted = job.config.optim.token_budget
    fitted = engine.fit(_costliest(task, rows, engine.one_call), task.loss, wanted)
    if fitted.unused:
        job.tracker.say(f"no gradient reaches {', '.join(fitted.unused)}: frozen")
    if fitted.token_budget != wanted:
        job.tracker.say(
            f"--token-budget {wanted} does not fit into memory; {fitted.token_budget} does and is used"
        )
    optim = replace(job.config.optim, token_budget=fitted.token_budget)
    return replace(job, config=replace(job.config, optim=optim))


def _costliest(task: Task, rows: Rows, one_call: bool) -> MakeBatch:
    def make(budget: int) -> tuple[Any, str]:
        piece = max(evaluation_batches(task.costs(rows), budget), key=lambda piece: piece.cost)
        longest = max(int(rows.longest_by_row()[row]) for row in piece.rows)
        words = f"{len(piece.rows)} rows, the longest sequence {longest} tokens"
        return task.collate(rows, piece.rows, one_call), words

    return make


def _last_predictor(run: TrainedRun, job: Job) -> Predictor:
    """The best model, whole on each device; where it has no room there, block by block from the disk."""
    size = 4 * job.folder.record()["parameters"]["total"]
    if not strategies.shared_out(job.config) or memory.has_room(size, job.world.device):
        return run.predictor(job.world)
    job.tracker.say("the model has no room on a device: its weights are read from the disk, block by block")
    with tempfile.TemporaryDirectory() as index:
        return run.predictor(job.world, Path(index))


def _finish(job: Job, encoded: Encoded, progress: Progress) -> None:
    """Score validation and test with the best checkpoint; write predictions, scores and the report."""
    # From the folder, also with --wandb online: its artifact is uploaded by a process that no run waits for.
    # `evaluate.py RUN --from-artifact` loads it back and must give the same digits.
    folder, tracker = job.folder, job.tracker
    best = folder.checkpoints / checkpoint.name_of(progress.best_step or progress.step)
    tracker.say(f"scoring with the best checkpoint, {best.name}")
    dist.on_main(lambda: checkpoint.require_whole(best))
    run = TrainedRun(folder, best, job.config, job.recipe)
    splits = ("validation", "test", *([PROBES] if job.recipe.probes else []))
    rows, examples = {split: encoded.rows(split) for split in splits}, encoded.examples()
    scores = scoring.score(run, _last_predictor(run, job), rows, examples, folder)
    if not job.world.is_main:
        return
    write_json(folder.path / "scores.json", scores)
    for split, scored in scores["splits"].items():
        tracker.say(f"{split} ({scored['num_rows']:,} rows in {scored['num_groups']:,} groups)")
        for line in summary.table(scored):
            tracker.say("  " + line)
    folder.write_record(training_seconds=progress.seconds, peak_gib=memory.peak_gib(job.world.device))
    report = write_report(folder, examples)
    job.write_status(phase="done", step=progress.step, exit_code=DONE)
    tracker.say_where()
    tracker.say(f"done in {clock(progress.seconds)} of training; report: {report}")
