"""A finished run and rows of its own, changed one thing at a time -> whether it reads what it cites."""

from dataclasses import dataclass
from pathlib import Path

from lib.answers import twins
from lib.answers.twins import Twins
from lib.base.files import write_json
from lib.contradictions import refuse_threads
from lib.data.rows import pack
from lib.evaluation.scoring import kept
from lib.evaluation.trained import TrainedRun
from lib.recipe import Prediction
from lib.reports.report import write_report

FILE = "twins.json"


@dataclass(frozen=True)
class Asked:
    """What came of it."""

    path: Path
    found: Twins

    def in_words(self) -> str:
        return "\n".join([*twins.lines(self.found), f"kept in {self.path}, and on the run's report.html"])


def ask(path: Path, split: str, threads: int | None) -> Asked:
    """Write the run's twins.json, and its report anew. Raises ValueError (no such run, a recipe whose answers
    name no sources), CheckError (rows changed), StoppedError."""
    refuse_threads(threads)
    run = TrainedRun.open(path)
    if run.recipe.answers != "cited":
        raise ValueError(
            f"--twins: answers of {run.config.recipe} name no sources, so there is nothing to ask"
        )
    corpus = run.corpus()
    rows = twins.make(corpus.splits[split])
    if not rows["as it is"]:
        raise ValueError(f"--twins: no {split} row has an answer in its context")
    predictor = run.predictor(run.world(threads))
    predictions: dict[str, list[Prediction]] = {}
    for name, examples in rows.items():
        predictions[name] = []
        if not examples:  # with one chunk in every row, none can be removed or moved
            continue
        encoded = pack(predictor.task.encode(examples, predictor.world.stop.raise_if_requested, refuse=False))
        texts = {row["id"]: row for some in predictor.texts(encoded, range(len(encoded))) for row in some}
        predictions[name] = kept([texts[identity] for identity in encoded.ids], examples, run.recipe)
    found = twins.judge(split, predictions)
    write_json(run.folder.path / FILE, found)
    write_report(run.folder, corpus.with_probes())
    return Asked(run.folder.path / FILE, found)
