"""Who says what to try next: optuna's TPE sampler here, or wandb's service. One interface: ask, tell.

The only places where optuna and wandb's sweeps are named.
"""

import itertools
import math
import os
import queue
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from lib.base.console import speak
from lib.base.exits import StoppedError
from lib.config import Config
from lib.sweep.folder import SweepFolder, Trial
from lib.sweep.space import MOST_COMBINATIONS, Parameter, Space, taken
from lib.tracking import login
from lib.tracking.artifact import project_of

FIRST_RANDOM = 5  # trials before TPE has something to go by
# What wandb's agent sets for the one run that it starts; a run's own follower must not take it for its own.
AGENTS = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")


class Search(Protocol):
    def ask(self, number: int, finished: Sequence[Trial]) -> Trial:
        """The next trial."""

    def tell(self, trial: Trial) -> None:
        """What came of it."""


def make(config: Config, space: Space, folder: SweepFolder, give_up: Callable[[], None]) -> Search:
    if config.tracking.wandb == "online":
        login.require_key()
        return WandbSearch(config, space, folder, give_up)
    return TpeSearch(space, config.optim.seed)


class TpeSearch:
    """A trial is a pure function of space, seed, number and the finished trials: nothing else is kept, so
    nothing can be lost by a stop."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed

    def ask(self, number: int, finished: Sequence[Trial]) -> Trial:
        import optuna
        from optuna.trial import TrialState, create_trial

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = (self.seed * 1_000_003 + number) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST_RANDOM)
        study = optuna.create_study(direction=self.space.goal, sampler=sampler)
        searched = {item.name: _distribution(item) for item in self.space.parameters}
        for trial in finished:
            # TPE takes one that was pruned without a value for worse than all that have one
            state = TrialState.COMPLETE if trial.score is not None else TrialState.PRUNED
            inner = {item.name: _index(item, trial.parameters[item.name]) for item in self.space.parameters}
            study.add_trial(
                create_trial(state=state, value=trial.score, params=inner, distributions=searched)
            )
        chosen = study.ask(searched).params
        values = {
            item.name: item.values[chosen[item.name]] if item.values else chosen[item.name]
            for item in self.space.parameters
        }
        tried = [trial.parameters for trial in finished]
        if values in tried and (self.space.size or math.inf) <= MOST_COMBINATIONS:
            values = random.Random(seed).choice([other for other in self._all() if other not in tried])
        return Trial(number=number, parameters=values)

    def _all(self) -> Iterator[dict[str, Any]]:
        """Every setting of a space that has so many; the same one twice would give the same bits."""
        parameters = self.space.parameters
        choices = [item.values or range(int(item.low), int(item.high) + 1) for item in parameters]
        for values in itertools.product(*choices):
            yield {item.name: value for item, value in zip(parameters, values, strict=True)}

    def tell(self, trial: Trial) -> None:
        """It is among the finished ones of the next question."""


def _distribution(item: Parameter) -> Any:
    """Values go by their places in the list: optuna knows no tuples."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if item.values:
        return CategoricalDistribution(range(len(item.values)))
    if item.kind == "whole":
        return IntDistribution(int(item.low), int(item.high))
    return FloatDistribution(item.low, item.high, log=item.kind == "log")


def _index(item: Parameter, value: Any) -> Any:
    return item.values.index(value) if item.values else value


def sweep_configuration(space: Space, name: str) -> dict[str, Any]:
    """What is sent to wandb."""
    return space.tree | {"name": name, "metric": {"name": space.metric, "goal": space.goal}}


class WandbSearch:
    """wandb's own Bayesian search. Its agent calls a function for each trial, in a thread; here that function
    hands the parameters over, waits for the score and reports it, so that training stays where signals
    arrive."""

    def __init__(
        self, config: Config, space: Space, folder: SweepFolder, give_up: Callable[[], None]
    ) -> None:
        self.space, self.folder, self.give_up = space, folder, give_up
        self.project = project_of(config.recipe)
        self._agent: threading.Thread | None = None
        self._asked: queue.Queue[tuple[str, dict[str, Any]] | BaseException] = queue.Queue()
        self._told: queue.Queue[Trial] = queue.Queue()

    def ask(self, number: int, finished: Sequence[Trial]) -> Trial:
        self._agent = threading.Thread(target=self._run_agent, name="wandb agent", daemon=True)
        self._agent.start()
        while True:
            try:
                reply = self._asked.get(timeout=0.5)
                break
            except queue.Empty:
                self.give_up()  # raises when a signal has come
        if isinstance(reply, BaseException):
            raise StoppedError(
                f"wandb could not be asked what to try next ({type(reply).__name__}: {reply}). Finished "
                "trials are kept: log in (`wandb login`) or wait for the network and type the same command; "
                "--wandb offline searches without wandb"
            ) from reply
        run_id, values = reply
        return Trial(number=number, parameters=self._checked(values), tracked=run_id)

    def _run_agent(self) -> None:
        import wandb

        try:
            sweep_id = self.folder.description().get("wandb")
            if sweep_id is None:
                sweep_id = wandb.sweep(
                    sweep_configuration(self.space, self.folder.path.name), project=self.project
                )
                self.folder.describe(wandb=sweep_id)
            wandb.agent(sweep_id, self._trial, project=self.project, count=1)
            self._asked.put(
                RuntimeError("the sweep gives no more trials")
            )  # read only if none was handed over
        except Exception as error:
            self._asked.put(error)

    def _trial(self) -> None:
        """Called by the agent, in a thread of its own."""
        import wandb

        with wandb.init(project=self.project, settings=_quiet()) as run:
            for name in AGENTS:
                os.environ.pop(name, None)
            self._asked.put((run.id, dict(run.config)))
            self._report(run, self._told.get())

    def tell(self, trial: Trial) -> None:
        import wandb

        if self._agent is None:  # begun by a process that is gone: its run in wandb is opened again
            try:
                with wandb.init(
                    project=self.project, id=trial.tracked, resume="allow", settings=_quiet()
                ) as run:
                    self._report(run, trial)
            except wandb.Error as error:
                speak(f"WARNING: wandb was not told of trial {trial.number} ({error}); it is kept here")
            return
        self._told.put(trial)
        self._agent.join()
        self._agent, self._asked = None, queue.Queue()

    def _report(self, run: Any, trial: Trial) -> None:
        run.summary.update({"run folder": trial.run, "state": trial.state})
        if trial.score is not None:
            run.log({self.space.metric: trial.score})

    def _checked(self, values: dict[str, Any]) -> dict[str, Any]:
        """What the service sent, as the configuration keeps it. Raises ValueError when it does not fit."""
        return {item.name: taken(item, values.get(item.name)) for item in self.space.parameters}


def _quiet() -> Any:
    import wandb

    return wandb.Settings(console="off", disable_git=True, save_code=False, x_disable_stats=True)
