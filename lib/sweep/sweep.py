"""The sweep: ask for a trial, train it as an ordinary run, keep its score, until there are enough.

Killed anywhere, the same command goes on: a trial is written down before it begins, its run resumes by
itself, and a finished one is never trained again.
"""

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lib import recipe as recipes
from lib.base.console import speak
from lib.base.exits import BAD_INPUT, DONE, REPEATS, StoppedError, code_of
from lib.base.files import read_lines
from lib.command_line import parse, words
from lib.config import Config
from lib.launching.start import Once, done_or_trained, once
from lib.process.signals import StopFlag
from lib.runs.folder import RunFolder, parent
from lib.runs.resume import check_same_rows
from lib.sweep import folder as folders
from lib.sweep import result, search
from lib.sweep.folder import SweepFolder, Trial
from lib.sweep.space import Space
from lib.training import checkpoint

TRIALS, SMOKE_TRIALS = 20, 3  # when nobody says how many
LONGEST_NAME = 70  # a trial's run is named after the sweep, and a name has at most 100 letters


def sweep(config: Config, space: Space, trials: int | None) -> int:
    """All trials that are lacking. Raises ValueError and CheckError before the first; ends with the code of a
    trial that could not be trained."""
    num_trials = trials or (SMOKE_TRIALS if config.smoke else space.trials or TRIALS)
    _check(config, num_trials)
    if space.size is not None and space.size < num_trials:
        speak(f"the space has {space.size} settings, and each is tried once: --trials {space.size}")
        num_trials = space.size
    stop = StopFlag()
    folder, reason = folders.find(config, space, num_trials)
    folder.write_status(phase="searching", exit_code=None)
    speak(reason)
    speak(f"what the trials say: {folder.path / 'console.log'}")
    try:
        code = _all_trials(config, space, num_trials, folder, stop)
        if folder.path.exists():
            folder.write_status(phase="done" if code == DONE else "ended", exit_code=code)
        return code
    except BaseException as error:
        folder.write_status(phase="ended", exit_code=code_of(error))
        raise
    finally:
        folder.unlock()


def _check(config: Config, num_trials: int) -> None:
    if num_trials < 1:
        raise ValueError(f"--trials is {num_trials}; it must be above 0")
    if config.tracking.seeds > 1:
        raise ValueError(
            "--seeds: a sweep trains each setting once; train the best one with --seeds afterwards"
        )
    if config.tracking.lint_only:
        raise ValueError("--lint-only trains nothing; lint with scripts/train.py, then sweep")
    if len(config.tracking.name or "") > LONGEST_NAME:
        raise ValueError(
            f"--name has {len(config.tracking.name or '')} letters; a sweep's has {LONGEST_NAME}"
        )


def _all_trials(config: Config, space: Space, num_trials: int, folder: SweepFolder, stop: StopFlag) -> int:
    def give_up() -> None:
        if stop.requested:
            raise StoppedError(f"{stop.reason} between two trials; the same command goes on")

    searching = search.make(config, space, folder, give_up)
    while True:
        finished = folder.trials()
        if finished:
            result.write(folder, config, space, num_trials)
        if len(finished) >= num_trials:
            break
        give_up()
        trial = folder.begun() or searching.ask(len(finished) + 1, finished)
        folder.begin(trial)
        folder.write_status(trial=trial.number, num_trials=num_trials)
        one = run_of(config, space, folder, trial)
        began_s = time.monotonic()
        code = _train(one, folder, partial(once, stop=stop))
        ended = outcome(trial, one, code, space)
        if ended is None:
            if code == BAD_INPUT and not finished:
                folder.remove()  # refused, as a run that leaves nothing behind
                return code
            speak(
                f"the sweep stops in trial {trial.number} (exit code {code}); the same command goes on there"
            )
            return code
        check_same_rows([RunFolder(parent(one) / str(trial.run)) for trial in (*finished[:1], ended)])
        folder.finish(ended)
        searching.tell(ended)
        line = result.line(ended, space, [*finished, ended], num_trials)
        speak(f"trial {line}  {time.monotonic() - began_s:.0f} s")
    for text in result.table(folder, config, space):
        speak(text)
    return DONE if result.best(folder.trials(), space) else REPEATS


def run_of(config: Config, space: Space, folder: SweepFolder, trial: Trial) -> Config:
    """The configuration of a trial's run: exactly what its command says."""
    tracking = replace(config.tracking, name=f"{folder.path.name}-trial-{trial.number:03d}", resume="auto")
    one = replace(space.apply(config, trial.parameters), tracking=tracking)
    default = recipes.load(config.recipe).config
    return parse(default, words(one, default), "train.py")


def run_folders(one: Config) -> list[RunFolder]:
    """Those that the trial's run has made, newest first. Its name is no other's."""
    return [RunFolder(path) for path in sorted(parent(one).glob(f"*-{one.tracking.name}"), reverse=True)]


def _train(one: Config, folder: SweepFolder, once: Once) -> int:
    """The exit code; a run that failed for good before a kill is not tried again, one that was killed before
    its first checkpoint leaves nothing behind."""
    for run in run_folders(one):
        if run.status().get("exit_code") == REPEATS and diverged(run):
            return REPEATS
        if run.status().get("exit_code") != DONE and checkpoint.newest_step(run.checkpoints) is None:
            run.lock()  # raises when a worker of the killed sweep is still at it
            run.remove()
    with _said_elsewhere(folder.path / "console.log"):
        code, _ = done_or_trained(one, once)
    return code


@contextmanager
def _said_elsewhere(path: Path) -> Iterator[None]:
    """What this process and those it starts print goes into a file; warnings and errors stay."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with (
            path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as file,
            redirect_stdout(file),
        ):
            os.dup2(file.fileno(), 1)
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _lines(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    lines = read_lines(run.metrics) if run.metrics.exists() else []
    return [line for line in lines if line["kind"] == kind]


def diverged(run: RunFolder) -> bool:
    """Did it end for want of a finite loss? A full disk ends with the same exit code, and would end every
    other trial, too."""
    last = max((line["step"] for line in _lines(run, "train")), default=0)
    skipped_last = any(line["step"] > last for line in _lines(run, "skipped"))
    return skipped_last or not all(math.isfinite(_first(line)) for line in _lines(run, "validation")[-1:])


def _first(validation: dict[str, Any]) -> float:
    return next(iter(validation["scores"].values()))


def outcome(trial: Trial, one: Config, code: int, space: Space) -> Trial | None:
    """The finished trial; None when its run did not end, or ended by something that is not the trial's
    fault."""
    run = next(iter(run_folders(one)), None)
    if run is None or code not in (DONE, REPEATS):
        return None
    seconds = sum(line["seconds"] for line in _lines(run, "train"))
    ended = replace(trial, run=run.path.name, seconds=seconds)
    points = [(_first(line), line["step"]) for line in _lines(run, "validation")]
    points = [point for point in points if math.isfinite(point[0])]
    if code == DONE and points:
        sign = 1 if space.goal == "minimize" else -1
        score, step = min(points, key=lambda point: sign * point[0])  # the first of equals, as in training
        return replace(ended, state="done", score=score, step=step)
    if code == DONE:
        return replace(ended, state="failed", why=f"no finite {space.metric}")
    if not diverged(run):
        return None
    skipped = _lines(run, "skipped")
    return replace(
        ended, state="failed", why=skipped[-1]["reason"] if skipped else f"no finite {space.metric}"
    )
