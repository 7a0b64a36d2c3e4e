"""A finished run and new rows -> its answers. The rows need no label; nothing is scored."""

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.answers import load as answers_of
from lib.base.console import Meter, speak
from lib.base.exits import RepeatsError
from lib.base.files import write_csv, write_lines, write_text
from lib.base.heap import give_back_at_once
from lib.contradictions import refuse_threads
from lib.corpus.corpus import OTHER, counted
from lib.corpus.splits import digest
from lib.data.rows import Rows
from lib.evaluation.predictor import SAY_EVERY_S, Predictor
from lib.evaluation.scoring import kept
from lib.evaluation.trained import OtherRows, TrainedRun
from lib.recipe import Prediction

SUBMISSION, CONTEXTS, REJECTED = ".submission.csv", ".contexts.jsonl", ".rejected.jsonl"
PART = ".part.jsonl"  # texts, as they come: a stopped process goes on behind them


@dataclass(frozen=True)
class Written:
    """What came of it."""

    path: Path
    submission: Path | None
    num_rows: int
    num_rejected: int
    rejected: Path | None
    """The rows that cannot be used, with reasons, if there are any."""

    def in_words(self) -> str:
        lines = [f"{self.num_rows} rows predicted: {self.path}"]
        if self.rejected is not None:
            none = f"{self.num_rejected} rows that cannot be used have no prediction"
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
    going_on = out.with_suffix(PART).exists()  # then what lies beside it was left by the same command
    _refuse_taken(out, [] if going_on else others, offload)
    corpus = run.other_rows(other, with_label=False)
    retrieved = run.retrieved(corpus, index, world) if index is not None else None
    if retrieved is not None:
        corpus = corpus.with_splits(retrieved.splits)
    for note in corpus.notes:
        speak(note)
    predictor = run.predictor(world, offload)
    answers = answers_of(run.recipe)
    rows = corpus.encode(OTHER, predictor.task, world.stop.raise_if_requested, refuse=False)
    for line in counted({name: count for name, count in predictor.task.counts.items() if count}):
        speak(line)
    if predictor.task.writes:
        predictions = _texts(predictor, rows, Part(out.with_suffix(PART), _key(run, rows)))
    else:
        predictions = predictor.predict(rows)
    predictions = kept(predictions, corpus.splits[OTHER], run.recipe)
    if broken := [row["id"] for row in predictions if _has_nan(row)]:
        raise RepeatsError(
            f"{path}: its model has no finite answer to {len(broken)} of {len(predictions)} rows (row "
            f"{broken[0]}, say); its weights are broken, so name another run"
        )
    if predictor.task.writes:
        for warning in answers.warnings(predictions):
            speak(f"WARNING: {warning}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if retrieved is not None:
        retrieved.write(out.with_suffix(CONTEXTS))
    if corpus.rejected:
        write_lines(out.with_suffix(REJECTED), map(asdict, corpus.rejected), new=not going_on)
    lines = [row | {"answer": answers.words(answers.answer(row), row)} for row in predictions]
    write_lines(out, lines, new=True)
    out.with_suffix(PART).unlink(missing_ok=True)
    if submission is not None and run.recipe.submission is not None:
        write_csv(submission, [run.recipe.submission(row) for row in predictions], new=True)
    rejected = out.with_suffix(REJECTED) if corpus.rejected else None
    return Written(out, submission, len(predictions), len(corpus.rejected), rejected)


@dataclass(frozen=True)
class Part:
    """Texts that are written already, a line each behind one that says whose they are."""

    path: Path
    key: str

    def read(self) -> dict[str, Prediction]:
        """Raises ValueError when they are of another model, or of other rows."""
        if not self.path.exists() or not self.path.stat().st_size:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps({"key": self.key}) + "\n")
        head, *lines = self.path.read_text().splitlines() or [""]
        if head != json.dumps({"key": self.key}):
            raise ValueError(
                f"{self.path} holds texts of another model or of other rows; remove it, or name another --out"
            )
        rows = []
        for line in lines:
            with suppress(ValueError):  # cut off in the middle by a kill: that one is written again
                rows.append(json.loads(line))
        return {row["id"]: row for row in rows}

    def add(self, rows: list[Prediction]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def _has_nan(row: Prediction) -> bool:
    values = [one for value in row.values() for one in (value if isinstance(value, list) else [value])]
    return any(isinstance(one, float) and math.isnan(one) for one in values)


def _key(run: TrainedRun, rows: Rows) -> str:
    """Of the weights and the token ids."""
    manifest = (run.checkpoint / "manifest.json").read_text()
    return digest([manifest, rows.ids, hashlib.sha256(rows.tokens.tobytes()).hexdigest()])


def _texts(predictor: Predictor, rows: Rows, part: Part) -> list[Prediction]:
    """All texts, in the order of the rows. Raises StoppedError; what is written by then is kept."""
    done = part.read()
    if done:
        speak(f"{len(done)} of {len(rows)} texts are written already: {part.path}")
    left = [row for row, identity in enumerate(rows.ids) if identity not in done]
    with Meter(len(rows), "texts written", done=len(done), every_s=SAY_EVERY_S) as meter:
        for some in predictor.texts(rows, left) if left else ():
            part.add(some)
            done |= {row["id"]: row for row in some}
            meter.step(len(done))
    return [done[identity] for identity in rows.ids]


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
