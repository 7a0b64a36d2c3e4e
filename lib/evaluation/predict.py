"""A finished run and new rows -> its answers. The rows need no label; nothing is scored."""

from dataclasses import asdict, dataclass
from pathlib import Path

from lib.answers import load as answers_of
from lib.base.console import speak
from lib.base.files import write_csv, write_lines
from lib.base.heap import give_back_at_once
from lib.command_line import refuse_threads
from lib.corpus.corpus import OTHER
from lib.evaluation.scoring import kept
from lib.evaluation.trained import OtherRows, TrainedRun

SUBMISSION, CONTEXTS, REJECTED = ".submission.csv", ".contexts.jsonl", ".rejected.jsonl"


@dataclass(frozen=True)
class Written:
    """What came of it."""

    path: Path
    submission: Path | None
    num_rows: int
    num_rejected: int
    rejected: Path | None
    """The malformed rows, with reasons, if there are any."""

    def in_words(self) -> str:
        lines = [f"{self.num_rows} rows predicted: {self.path}"]
        if self.rejected is not None:
            none = f"{self.num_rejected} malformed rows have no prediction"
            lines.append(f"WARNING: {none}: {self.rejected} says why")
        if self.submission is not None:
            lines.append(f"submission: {self.submission}")
        return "\n".join(lines)


def predict(
    path: Path, other: OtherRows, out: Path | None, offload: Path | None, threads: int | None
) -> Written:
    """Write what the run's best checkpoint says of all `other` rows. Raises ValueError (no such run, bad
    rows, a file in the way), RepeatsError (damaged checkpoint), StoppedError."""
    refuse_threads(threads)
    if offload is not None:
        give_back_at_once()
    run = TrainedRun.open(path)
    world = run.world(threads)
    out = out or run.folder.path / "predicted" / f"{Path(other.data).stem or 'data'}.jsonl"
    submission = out.with_suffix(SUBMISSION) if run.recipe.submission is not None else None
    index = run.index()
    others = [submission, out.with_suffix(CONTEXTS) if index else None, out.with_suffix(REJECTED)]
    _refuse_taken(out, others, offload)
    corpus = run.other_rows(other, with_label=False)
    retrieved = run.retrieved(corpus, index, world) if index is not None else None
    if retrieved is not None:
        corpus = corpus.with_splits(retrieved.splits)
    for note in corpus.notes:
        speak(note)
    predictor = run.predictor(world, offload)
    answers = answers_of(run.recipe)
    rows = corpus.encode(OTHER, predictor.task, world.stop.raise_if_requested, refuse=False)
    if count := predictor.task.counts.get("questions cut"):
        speak(f"WARNING: {count} rows are longer than the model can read: their questions lost the end")
    predictions = predictor.predict(rows)
    predictions = kept(predictions, corpus.splits[OTHER], run.recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    if retrieved is not None:
        retrieved.write(out.with_suffix(CONTEXTS))
    if corpus.rejected:
        write_lines(out.with_suffix(REJECTED), map(asdict, corpus.rejected), new=True)
    lines = [row | {"answer": answers.words(answers.answer(row), row)} for row in predictions]
    write_lines(out, lines, new=True)
    if submission is not None and run.recipe.submission is not None:
        write_csv(submission, [run.recipe.submission(row) for row in predictions], new=True)
    rejected = out.with_suffix(REJECTED) if corpus.rejected else None
    return Written(out, submission, len(predictions), len(corpus.rejected), rejected)


def _refuse_taken(out: Path, others: list[Path | None], offload: Path | None) -> None:
    for path in filter(None, (out, *others)):
        if path.exists():
            raise ValueError(f"{path} is there and is not overwritten; name another file with --out")
    if out.suffix != ".jsonl":
        raise ValueError(f"--out {out} must end in .jsonl")
    above = next(path for path in out.absolute().parents if path.exists())
    if not above.is_dir():
        raise ValueError(f"--out {out}: {above} is a file, not a folder")
    if offload is None or not offload.exists():
        return
    if not offload.is_dir() or {path.name for path in offload.iterdir()} - {"index.json"}:
        raise ValueError(f"--offload {offload} is in use for something else; name a folder of its own")
