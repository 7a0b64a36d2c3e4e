"""THE LOOP: one for every recipe, task, strategy and device."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial

import torch

from lib.base.exits import RepeatsError, StoppedError
from lib.data.ahead import Ahead, pinned
from lib.data.amounts import Amounts
from lib.data.loader import Loader, MicroBatch, Step, deal
from lib.data.rows import Rows
from lib.job import Job
from lib.process import dist
from lib.recipe import Scores
from lib.task import Batch, Task
from lib.training.checkpoint import Snapshot, Writer, newest_step
from lib.training.engine import Engine, Turn
from lib.training.memory import is_out_of_memory
from lib.training.optim import learning_rate
from lib.training.progress import Progress
from lib.training.votes import Done, Votes, agree

MOST_SKIPPED = 3  # steps in a row without a finite loss: then it is the model, not a row


@dataclass
class Parts:
    """Everything the loop works with, made in lib.run."""

    job: Job
    task: Task
    engine: Engine
    rows: Rows
    loader: Loader
    writer: Writer
    evaluate: Callable[[], Scores]
    """Score the validation rows with the weights as they are."""
    flops_of_each: Amounts
    """What one of each of a batch's amounts takes, forward and backward."""
    peak: float
    """FLOP/s of all ranks together at most."""

    def shares(self, step: Step) -> list[list[MicroBatch]]:
        """Each rank's micro-batches of a step."""
        return deal(step.micro_batches, self.job.world.size, self.engine.in_order)


def due(step: int, every: int, last: int) -> bool:
    """Is it time? The last step always is."""
    return step % every == 0 or step == last


def draw_of(seed: int, step: int, micro_batch: int) -> int:
    """The dropout seed of one micro-batch: the same whoever computes it."""
    return (seed * 1_000_003 + step) * 4099 + micro_batch


def train(parts: Parts, progress: Progress) -> Progress:
    """Steps progress.step + 1 .. num_steps. Raises StoppedError (saved, resumable) or RepeatsError."""
    loader, last = parts.loader, parts.loader.num_steps
    eval_every = parts.job.config.optim.eval_every or loader.steps_per_epoch
    parts.job.begin(progress.step, last, eval_every)
    parts.job.tracker.begin(progress.step + 1, last, parts.job.limits.priced)
    parts.job.write_status(phase="training", step=progress.step, num_steps=last)
    if progress.evaluation_due:  # stopped between a step and its evaluation
        settle(parts, progress, Votes())
    with Ahead(batches(parts, range(progress.step + 1, last + 1))) as ready:
        for number in range(progress.step + 1, last + 1):
            began_s = time.perf_counter()
            step = loader.step(number)
            try:
                done = compute(parts, step, ready)
            except (RuntimeError, MemoryError) as error:
                out_of_memory(parts, progress, step, error)
                raise
            votes = agree(parts.job, parts.writer, step, parts.shares(step), done)
            update(parts, progress, step, votes, began_s)
            progress.evaluation_due = due(number, eval_every, last)
            settle(parts, progress, votes)
    parts.writer.wait()
    if progress.best_step is None:
        raise RepeatsError(
            f"no evaluation gave a finite {parts.job.recipe.metrics[0].name}: the model's numbers have "
            "overflowed; a lower --lr or --precision fp32 will help"
        )
    dist.barrier()  # the other ranks read what rank 0 has just written
    return progress


def settle(parts: Parts, progress: Progress, votes: Votes) -> None:
    """After a step: evaluate, save, stop, each when it is time; at a limit all three."""
    tracking, last = parts.job.config.tracking, parts.loader.num_steps
    parts.job.note_writes(parts.writer.writes_s)
    save_now = votes.save or votes.limit or bool(votes.stop)
    save_now |= (
        due(progress.step, tracking.save_every, last) if tracking.save_every else progress.evaluation_due
    )
    evaluated = progress.evaluation_due and not votes.stop
    if evaluated:
        try:
            save_now |= evaluate(parts, progress)
        except StoppedError as error:
            votes.stop, save_now = str(error), True
    if save_now:
        save(parts, progress)
    if votes.limit and not votes.stop and not evaluated:
        with suppress(StoppedError):  # saved already
            look(parts, progress)
    if votes.stop or votes.limit:
        parts.writer.wait()
        parts.job.note_writes(parts.writer.writes_s)
        raise parts.job.stopped(votes.stop, f"step {progress.step} of {last}")


def batches(parts: Parts, steps: Iterable[int]) -> Iterator[Batch]:
    """This rank's share of these steps, on its device."""
    world = parts.job.world
    on_gpu = world.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(world.device)  # of this thread, which else pins memory for the first GPU
    for number in steps:
        for piece in parts.shares(parts.loader.step(number))[world.rank]:
            batch = parts.task.collate(parts.rows, piece.rows, parts.engine.one_call)
            yield (pinned(batch) if on_gpu else batch).to(world.device)


def compute(parts: Parts, step: Step, ready: Iterator[Batch]) -> Done:
    """Forward and backward passes of this rank's share of a step. Nothing here waits for the device."""
    done, engine, seed = Done(), parts.engine, parts.job.config.optim.seed
    share = parts.shares(step)[parts.job.world.rank]
    for place, piece in enumerate(share):
        batch = next(ready)
        began_s = time.perf_counter()
        draw = draw_of(seed, step.number, piece.number)
        turn = Turn(draw, place == len(share) - 1, piece.number, len(step.micro_batches))
        output = engine.forward(batch, turn)
        loss_sum = parts.task.loss(output, batch)
        engine.backward(loss_sum, piece.weight / step.num_targets)
        done.add(piece, batch, loss_sum, parts.task.hits(output, batch))
        done.seconds += time.perf_counter() - began_s
    done.flops = done.amounts.at(parts.flops_of_each)
    done.norm = engine.norm()
    return done


def update(parts: Parts, progress: Progress, step: Step, votes: Votes, began_s: float) -> None:
    """Move the weights, unless a loss or the gradient is not finite: then all ranks skip the step and say
    whose it was; too many in a row end the run."""
    update_s = time.perf_counter()
    rate = learning_rate(step.number, parts.loader.num_steps, parts.job.config.optim)
    progress.step = step.number
    if not votes.finite:
        parts.engine.forget()
        progress.skipped_in_a_row += 1
        return report_skipped(parts, progress, step, votes)
    parts.engine.step(rate)
    progress.skipped_in_a_row = 0
    now_s = time.perf_counter()
    parts.job.limits.took("update", now_s - update_s)
    seconds = now_s - began_s
    progress.seconds += seconds
    said = parts.job.tracker.step(
        {
            "step": step.number,
            "epoch": step.epoch,
            "loss": votes.loss_sum / step.num_targets,
            "accuracy": votes.hits / step.num_targets,
            "targets": step.num_targets,
            "lr": rate,
            "grad_norm": votes.norm,
            "rows": step.num_rows,
            "tokens": int(votes.tokens),
            "computed": int(votes.computed),
            "flops": int(votes.flops),
            "mfu": votes.flops / (seconds * parts.peak),
            "seconds": seconds,
            "busy": votes.busy + now_s - update_s,
            **parts.job.limits.status(),
        }
    )
    if said and parts.job.limits.priced:
        parts.job.write_status()


def report_skipped(parts: Parts, progress: Progress, step: Step, votes: Votes) -> None:
    """Name the step, the rank and the rows. Raises RepeatsError after too many in a row; nothing bad was
    saved."""
    whose = []
    for rank, number in votes.bad:
        piece = next(piece for piece in step.micro_batches if piece.number == number)
        ids = ", ".join(parts.rows.ids[row] for row in piece.rows)
        whose.append(f"rank {rank} had a loss that is not finite in micro-batch {number}, rows {ids}")
    text = "; ".join(whose) or "the gradient is not finite, though every loss is"
    parts.job.tracker.say(f"WARNING: step {step.number} skipped on all ranks: {text}")
    parts.job.tracker.record("skipped", step=step.number, reason=text)
    if progress.skipped_in_a_row >= MOST_SKIPPED:
        parts.writer.wait()  # for one that is on its way to the disk
        saved = newest_step(parts.writer.checkpoints)
        kept = "nothing was saved yet" if saved is None else f"the newest checkpoint is of step {saved}"
        kept += f", the best of step {progress.best_step}" if progress.best_step is not None else ""
        raise RepeatsError(
            f"{MOST_SKIPPED} steps in a row without a finite gradient, the last one step {step.number}; "
            f"{kept}. A lower --lr, --precision fp32, or a look at the rows named "
            "above will help"
        )


def out_of_memory(parts: Parts, progress: Progress, step: Step, error: BaseException) -> None:
    """Halve the token budget and raise StoppedError, if memory was the reason. Where weights are the same on
    all ranks, whichever rank runs out can save the state before this step. Raises RepeatsError where nothing
    can be gone on from."""
    if not is_out_of_memory(error):
        return
    lengths = sorted((int(parts.rows.longest_by_row()[row]) for row in step.row_numbers()), reverse=True)
    halved = parts.job.config.optim.token_budget // 2
    where = (
        f"out of memory at step {step.number} ({step.num_rows} rows, longest sequences {lengths[:4]} tokens)"
    )
    if parts.engine.whole_on_each_rank:
        parts.engine.forget()
        write_checkpoint(parts, progress, snapshot(parts, alone=True), halved)
        parts.writer.wait()
        what = f"{where}; the state before it is saved"
    else:  # the others have a part of it each, and wait in a step that this rank will never make
        saved = newest_step(parts.writer.checkpoints)
        if saved is None:
            raise RepeatsError(f"{where}, before a checkpoint; use --token-budget {halved}") from error
        parts.job.folder.write_record(token_budget=halved)
        what = f"{where}; no rank has the whole state alone, so the newest checkpoint is of step {saved}"
    what += f", with the token budget halved to {halved}. The same command goes on from there"
    parts.job.tracker.say_alone(what)
    raise StoppedError(what) from error


def evaluate(parts: Parts, progress: Progress) -> bool:
    """Score the validation rows; True when they are the best so far."""
    scores = parts.evaluate()
    first = next(iter(scores.values()))
    improved = parts.job.recipe.improves(first, progress.best_score)
    if improved:
        progress.best_step, progress.best_score = progress.step, first
    progress.evaluation_due = False
    tracker = parts.job.tracker
    training = tracker.training_since_validation()
    tracker.record("validation", step=progress.step, scores=scores, training=training)
    words = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    tracker.say(f"validation at step {progress.step}: {words}{'  (best so far)' if improved else ''}")
    if training:
        words = "  ".join(f"{name} {value:.4f}" for name, value in training.items())
        tracker.say(f"  training since the validation before: {words}")
    return improved


def look(parts: Parts, progress: Progress) -> None:
    """An evaluation that is not due, at a limit: said, but it chooses no best step, or a run that goes on
    would end with another model than one that was never stopped."""
    scores = parts.evaluate()
    parts.job.tracker.record("interim", step=progress.step, scores=scores)
    words = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    parts.job.tracker.say(f"interim validation at step {progress.step}: {words}")


def save(parts: Parts, progress: Progress) -> None:
    """All ranks take the snapshot now, rank 0 writes it while training goes on."""
    began_s = time.perf_counter()
    parts.writer.wait()  # for the checkpoint before: two copies of a model at once may be too many
    taken = snapshot(parts)
    if parts.job.world.is_main:
        write_checkpoint(parts, progress, taken, parts.job.config.optim.token_budget)
    stalled = time.perf_counter() - began_s
    parts.job.tracker.record("checkpoint", step=progress.step, stalled=stalled)
    parts.writer.last_s = time.monotonic()
    parts.job.saved(stalled)


def snapshot(parts: Parts, alone: bool = False) -> Snapshot:
    return parts.engine.snapshot(parts.task.state(parts.engine.module), alone)


def write_checkpoint(parts: Parts, progress: Progress, taken: Snapshot, token_budget: int) -> None:
    """Hand the copies and the progress to the writer."""
    state = asdict(progress) | {"token_budget": token_budget}
    parts.writer.save(taken, partial(parts.task.save, parts.engine.module), state)
    parts.job.write_status(phase="training", step=progress.step)
