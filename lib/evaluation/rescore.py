"""Score a finished run once more, in a fresh process, from its best checkpoint: the same rows, or others."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from lib.base.contents import Summary
from lib.base.files import write_json, write_lines
from lib.contradictions import refuse_threads
from lib.corpus import contexts, doubles, splits
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
    notes: list[str] = field(default_factory=list)
    """What to mind: rows that could not be scored, rows that training nearly knew."""

    @property
    def same(self) -> bool | None:
        """To the last digit? None: there is nothing to compare with."""
        return None if self.before is None else summary.values_of(self.before) == summary.values_of(self.now)

    def in_words(self) -> str:
        lines = [*self.notes, *summary.table(self.now)]
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
    index, rejected, notes = None, [], []
    if other is not None:
        split, index = OTHER, run.index()
        read = run.other_rows(other, with_label=True)
        rejected, notes = read.rejected, [*read.notes, *_nearly_known(corpus, read)]
        corpus = corpus.with_splits(corpus.splits | {OTHER: read.splits[OTHER]})
    into = RunFolder(new_folder(run.folder.path / "evaluations"))
    try:
        if rejected:
            write_lines(into.rejected, map(asdict, rejected))
            notes.append(
                f"WARNING: {len(rejected)} rows that cannot be used are not scored: {into.rejected} says why"
            )
        if index is not None:
            asked = corpus.with_splits({OTHER: corpus.splits[OTHER]})
            retrieved = run.retrieved(asked, index, world)
            retrieved.write(into.path / contexts.FILE)
            corpus = corpus.with_splits(corpus.splits | retrieved.splits)
        predictor = run.predictor(world)
        rows = {split: corpus.encode(split, predictor.task, world.stop.raise_if_requested)}
        scores = scoring.score(run, predictor, rows, corpus.splits, into)
        about = {"data": other.data if other else None, "num_rejected": len(rejected)}
        write_json(into.path / "scores.json", scores | about)
    except BaseException:
        into.remove()
        raise
    return Rescored(into.path, scores["splits"][split], run.scores(split) if other is None else None, notes)


def _nearly_known(own: Corpus, other: Corpus) -> list[str]:
    """A line when some of the other rows say nearly what a row of training says. Raises CheckError when the
    run has seen some of these."""
    known = {split: own.splits[split] for split in ("train", "validation")}
    splits.refuse_leaks(known | {OTHER: other.splits[OTHER]})
    pairs = doubles.across_splits({"train": known["train"], OTHER: other.splits[OTHER]})
    if not (alike := pairs.get(f"{OTHER} and train", [])):
        return []
    return [
        f"WARNING: {len(alike)} of {len(other.splits[OTHER])} rows say nearly what a row of training says, "
        f"{' and '.join(alike[0])} for example; their scores may be too good"
    ]
