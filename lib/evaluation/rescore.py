"""Score a finished run once more, in a fresh process, from its best checkpoint: the same rows, or others."""

from dataclasses import dataclass
from pathlib import Path

from lib.base.contents import Summary
from lib.base.files import write_json
from lib.command_line import refuse_threads
from lib.corpus import contexts, splits
from lib.corpus.corpus import OTHER, Corpus
from lib.evaluation import scoring
from lib.evaluation.trained import OtherRows, TrainedRun
from lib.reports import summary
from lib.runs.folder import RunFolder, new_folder


@dataclass(frozen=True)
class Rescored:
    """The scores of one split, now and as training reported them (None: it did not)."""

    folder: Path
    now: Summary
    before: Summary | None

    @property
    def same(self) -> bool | None:
        """To the last digit? None: there is nothing to compare with."""
        return None if self.before is None else summary.values_of(self.before) == summary.values_of(self.now)

    def in_words(self) -> str:
        lines = summary.table(self.now)
        if self.before is not None:
            same = "the same to the last digit" if self.same else "NOT the same"
            lines += [f"{same} as training reported", *([] if self.same else summary.table(self.before))]
        return "\n".join([*lines, f"predictions and scores: {self.folder}"])


def rescore(
    path: Path, split: str | None, other: OtherRows | None, threads: int | None, from_artifact: bool = False
) -> Rescored:
    """Scores of `split` (test by default), or of all `other` rows, written with the predictions into a
    folder of their own under the run's `evaluations/`. Threads default to what training used, so that the
    scores are the same bits. Raises ValueError (no such run, bad rows), CheckError (rows changed, rows seen
    in training)."""
    if split is not None and other is not None:
        raise ValueError(f"--split {split} is a split of the run's own rows; leave it out with --data")
    refuse_threads(threads)
    run = TrainedRun.open(path, from_artifact)
    world = run.world(threads)
    corpus, split = run.corpus(), split or "test"
    index = None
    if other is not None:
        split, index = OTHER, run.index()
        corpus = _with_other_rows(run, corpus, other)
    into = RunFolder(new_folder(run.folder.path / "evaluations"))
    try:
        if index is not None:
            asked = corpus.with_splits({OTHER: corpus.splits[OTHER]})
            retrieved = run.retrieved(asked, index, world)
            retrieved.write(into.path / contexts.FILE)
            corpus = corpus.with_splits(corpus.splits | retrieved.splits)
        predictor = run.predictor(world)
        rows = {split: corpus.encode(split, predictor.task, world.stop.raise_if_requested)}
        scores = scoring.score(run, predictor, rows, corpus.splits, into)
        write_json(into.path / "scores.json", scores | {"data": other.data if other else None})
    except BaseException:
        into.remove()
        raise
    return Rescored(into.path, scores["splits"][split], run.scores(split) if other is None else None)


def _with_other_rows(run: TrainedRun, own: Corpus, other: OtherRows) -> Corpus:
    """The run's own rows and the others. Raises CheckError when the run has seen some of these."""
    rows = run.other_rows(other, with_label=True).splits[OTHER]
    splits.refuse_leaks({"train": own.splits["train"], "validation": own.splits["validation"], OTHER: rows})
    return own.with_splits(own.splits | {OTHER: rows})
