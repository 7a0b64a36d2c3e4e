"""A run that has a best checkpoint, opened: for scoring again, predicting, exporting."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from lib import recipe as recipes
from lib.base.console import speak
from lib.base.contents import Summary
from lib.base.files import read_json
from lib.config import Config
from lib.corpus import contexts
from lib.corpus.contexts import Retrieved
from lib.corpus.corpus import Corpus
from lib.evaluation.predictor import Predictor
from lib.models import frozen_weights
from lib.models.offload import stored
from lib.models.placement import place
from lib.process import dist, precision
from lib.process.signals import StopFlag
from lib.process.world import World
from lib.recipe import Recipe
from lib.retrieval.folder import Index
from lib.runs import resume
from lib.runs.folder import RunFolder
from lib.task import Task
from lib.tasks import make as make_task
from lib.tracking import artifact
from lib.training import checkpoint


@dataclass(frozen=True)
class OtherRows:
    """Rows that a run has never seen."""

    data: str
    columns: str | None = None
    """What they call the recipe's columns. None: as the run's own rows do; empty: as the recipe does."""


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder and what its numbers belong to."""

    folder: RunFolder
    checkpoint: Path
    config: Config
    """With what it left open as the run settled it: the model's commit, the precision, the token budget."""
    recipe: Recipe

    @staticmethod
    def open(path: Path, from_artifact: bool = False) -> "TrainedRun":
        """Raises ValueError (no run, no checkpoint yet), RepeatsError (the checkpoint is damaged)."""
        folder = RunFolder(path)
        best = fetched_checkpoint(folder) if from_artifact else best_checkpoint(folder)
        config = resume.as_trained(folder, best)
        return TrainedRun(folder, best, config, recipes.load(config.recipe))

    def world(self, threads: int | None = None) -> World:
        """This process, computing as training did: with as many threads, if nobody says another number."""
        return dist.setup(threads or self.folder.record()["environment"]["threads"], StopFlag())

    def task(self) -> Task:
        """With the checkpoint's own tokenizer and model configuration."""
        return make_task(self.recipe, self.config, self.checkpoint)

    def model(self, task: Task, advice: str = resume.PUT_BACK) -> nn.Module:
        """Raises CheckError when the base that the checkpoint stands on is another by now."""
        model = task.build(self.checkpoint)
        resume.check_base(self.folder, model, task, advice)
        return model

    def predictor(self, world: World, offload: Path | None = None) -> Predictor:
        """`offload`: a folder for the index of a model that is run from the disk. Raises CheckError."""
        task = self.task()
        world = world.settled(precision.resolve(self.config.optim.precision, world.device, task.model_type))
        if offload is None:
            model = self.model(task)
            frozen_weights.narrow(model, self.config)
            model = place(model, world.device)
        else:
            model = task.build_on_disk(self.checkpoint, offload, world)
            resume.check_base(self.folder, model, task, weights=stored(offload))
        return Predictor(task, model, world, self.config.optim.token_budget)

    def corpus(self) -> Corpus:
        """The run's own rows, as they were. Raises ValueError (they are gone), CheckError (they changed)."""
        try:
            read = Corpus.read(self.config.data, self.recipe)
            read = read.usable(lambda rows: self.task().unusable(rows, lambda: None), self.config.task)
            corpus = read.complete().finished(self.config.task)
        except ValueError as error:
            raise ValueError(
                f"the run's own rows are needed (for baselines, and to see that others are new): {error}; "
                "if they were moved, say where to: scripts/evaluate.py RUN --moved-to PATH"
            ) from error
        if (file := self.folder.path / contexts.FILE).is_file():
            corpus = corpus.with_splits(contexts.kept(corpus.splits, self.config, file))
        self._check(corpus.fingerprints())
        return corpus

    def other_rows(self, rows: OtherRows, with_label: bool) -> Corpus:
        """They, all in one split. Raises ValueError."""
        config = replace(self.config.data, data=rows.data)
        if rows.columns is not None:
            config = replace(config, columns=rows.columns)
        lists = self.folder.record().get("lists")
        return Corpus.read(config, self.recipe, with_label, lists).whole().finished(self.config.task)

    def index(self) -> Index | None:
        """The one that the run's contexts came from. Raises CheckError when it changed."""
        index = contexts.check(self.config)
        if index is not None:
            self._check({"index": index.fingerprint})
        return index

    def retrieved(self, corpus: Corpus, index: Index, world: World) -> Retrieved:
        """Contexts for other rows."""
        runs, between = self.folder.path.parent, world.stop.raise_if_requested
        return contexts.retrieve(corpus.splits, self.config, index, runs, between)

    def _check(self, now: dict[str, str]) -> None:
        before = self.folder.record()["fingerprints"]
        resume.check_fingerprints({key: before[key] for key in now}, now, "put it back")

    def scores(self, split: str) -> Summary | None:
        """What training reported for this split, if it did."""
        path = self.folder.path / "scores.json"
        return read_json(path)["splits"].get(split) if path.exists() else None


def best_checkpoint(folder: RunFolder) -> Path:
    """The best checkpoint, verified. Raises ValueError when there is none, RepeatsError when it is
    damaged."""
    folder.config()  # raises when this is no run folder at all
    scores = folder.path / "scores.json"
    if scores.is_file():
        best: Path | None = folder.checkpoints / read_json(scores)["checkpoint"]
    else:
        best = checkpoint.best_in(folder.checkpoints)
        if best is not None:
            speak(f"WARNING: {folder.path} has not ended; this is its best checkpoint so far, {best.name}")
    if best is None or not best.is_dir():
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
