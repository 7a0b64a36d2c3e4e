"""A new kind of answer is one file (and its part of the page beside it): nothing else is edited. Here it is a
number, made in the test, that goes through all that is said of answers."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lib.answers
import lib.recipes
from lib import recipe as recipes
from lib.answers import hits, intervals
from lib.answers import load as answers_of
from lib.base.contents import Lint
from lib.base.exits import CheckError
from lib.base.files import read_lines, write_json, write_lines
from lib.config import DataConfig
from lib.config_tree import to_dict
from lib.corpus import lint, splits
from lib.corpus.corpus import OTHER, Corpus
from lib.corpus.readers import RawRow
from lib.corpus.splits import group_digest
from lib.data.rows import EncodedRow
from lib.evaluation import predict as predicting
from lib.evaluation.trained import OtherRows, TrainedRun
from lib.recipe import Example, Prediction, Recipe
from lib.reports import summary
from lib.reports.compare import compare
from lib.reports.compare_words import lines
from lib.reports.report import write_report
from lib.runs.folder import RunFolder

NUMBER = """
from pathlib import Path

import numpy as np

from lib.answers import Answers


def errors(predictions):
    return np.array([abs(row["answer"] - row["target"]) for row in predictions])


class Number:
    template = Path(__file__).with_suffix(".html.jinja")
    chance = ("mean",)

    def __init__(self, recipe):
        self.recipe = recipe

    def target(self, row):
        return row.get("target")

    def answer(self, prediction):
        return prediction["answer"]

    def words(self, value, row):
        return f"{value:g} kg"

    def kept(self, prediction, example):
        return prediction

    def wrong(self, predictions):
        far = [row for row, error in zip(predictions, errors(predictions)) if error > 1]
        return sorted(far, key=lambda row: -abs(row["answer"] - row["target"]))

    def shown(self, wrong, most):
        return wrong[:most]

    def distance(self, new, old):
        return abs(new["answer"] - old["answer"])

    def counts(self, examples):
        return {}

    def baselines(self, train, rows):
        mean = sum(row["target"] for row in train) / len(train)
        means = [{"id": row["id"], "target": row["target"], "answer": mean} for row in rows]
        return {"mean": self.recipe.by_row(means)}

    def details(self, predictions):
        return {"largest": float(errors(predictions).max())}

    def warnings(self, predictions):
        return ["ALL THE SAME"] if len({row["answer"] for row in predictions}) == 1 else []


def make(recipe) -> Answers:
    return Number(recipe)
"""

PAGE = """
{% from "texts.html.jinja" import read %}
<h2>How far off</h2>
<p>At most {{ scores["splits"]["test"]["largest"] }} kg</p>
{% for row, passages in mistakes.worst %}
<p>true: {{ answers.words(answers.target(row), row) }},
said: {{ answers.words(answers.answer(row), row) }}</p>
{{ read(passages) }}
{% endfor %}
"""

WEIGHT = """
import numpy as np

from lib.config import Config
from lib.recipe import Example, Metric, Recipe


def to_example(row):
    example = Example(group=row["animal"], texts=[[row["animal"]]])
    return Example(**example, target=float(row["kg"])) if row.get("kg") else example


def errors(predictions):
    return np.array([abs(row["answer"] - row["target"]) for row in predictions])


RECIPE = Recipe(
    task="classify", answers="number", config=Config(recipe="weight"), columns=(("animal", "kg"),),
    label_columns=("kg",), sample=lambda num_rows, seed: [], to_example=to_example,
    metrics=(Metric("mean_absolute_error", errors, "lower"),),
)
"""


@pytest.fixture
def weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    """A recipe whose answers are numbers, from files of its own, found by their names."""
    for package, name, text in ((lib.answers, "number", NUMBER), (lib.recipes, "weight", WEIGHT)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    (tmp_path / "lib.answers" / "number.html.jinja").write_text(PAGE)
    importlib.invalidate_caches()
    yield recipes.load("weight")
    for module in ("lib.answers.number", "lib.recipes.weight"):
        sys.modules.pop(module, None)


def example(number: int, target: float | None = None) -> Example:
    row = Example(id=f"r{number}", group=f"g{number}", texts=[[f"animal {number}"]])
    return row if target is None else Example(**row, target=target)


def predictions(noise: float, num_rows: int = 60) -> list[Prediction]:
    """Targets 0, 1, 2 ...; answers off by up to `noise`."""
    draw = np.random.default_rng(0)
    return [
        Prediction(id=f"r{n}", target=float(n), answer=n + float(draw.uniform(-noise, noise)))
        for n in range(num_rows)
    ]


def examples(num_rows: int = 60) -> list[Example]:
    return [example(number, float(number)) for number in range(num_rows)]


def write_run(path: Path, recipe: Recipe, rows: list[Prediction]) -> Path:
    """A finished run that scored these predictions of its test split."""
    folder = RunFolder(path)
    folder.predictions("test").parent.mkdir(parents=True)
    write_json(path / "config.json", to_dict(recipe.config))
    folder.write_record(fingerprints={"data": "d", "split": "s"})
    folder.write_status(phase="done", exit_code=0)
    write_lines(folder.predictions("test"), rows)
    scored = summary.summarize(recipe, rows, answers_of(recipe).baselines(examples(), examples()))
    scores = {"checkpoint": "step-000020", "precision": "fp32", "splits": {"test": scored}}
    write_json(path / "scores.json", scores)
    return path


def test_a_row_without_its_number_is_no_row_to_learn_from(weight: Recipe) -> None:
    rows = [RawRow("a.csv:1", {"animal": "cat", "kg": "4"}), RawRow("a.csv:2", {"animal": "dog", "kg": ""})]
    usable, rejected = splits.to_examples(rows, weight, with_label=True)
    assert [row["target"] for row in usable] == [4.0]
    assert [row.reason for row in rejected] == ["there is no answer"]
    assert len(splits.to_examples(rows, weight, with_label=False)[0]) == 2


def test_the_baseline_is_that_of_the_kind_and_stands_beside_the_score(weight: Recipe) -> None:
    train, rows = [example(0, 1.0), example(1, 3.0)], [example(2, 2.5), example(3, 0.0)]
    beside = answers_of(weight).baselines(train, rows)
    said = [Prediction(id="r2", target=2.5, answer=3.5), Prediction(id="r3", target=0.0, answer=3.0)]
    scored: Any = summary.summarize(weight, said, beside)
    # the mean is 2: off by 0.5 and 2; the model by 1 and 3
    assert scored["baselines"]["mean"]["mean_absolute_error"]["value"] == 1.25
    assert scored["scores"]["mean_absolute_error"]["value"] == 2.0
    assert list(scored) == ["num_rows", "num_groups", "warnings", "scores", "baselines", "gains", "largest"]
    model, mean, warning = (" ".join(line.split()) for line in summary.table(scored))
    # two rows, 1 and 0.75 off the mean of their errors; Student's t with one degree of freedom is 12.7062
    assert model == "mean_absolute_error model 2.0000 [-10.7062, 14.7062]"
    assert mean == "mean 1.2500 [-8.2797, 10.7797]"
    assert warning.startswith(
        "WARNING: THE MODEL'S ANSWERS CANNOT BE TOLD FROM CHANCE: NO SCORE IS BETTER THAN MEAN"
    )


def test_a_model_that_has_learned_is_not_warned_of(weight: Recipe) -> None:
    beside = answers_of(weight).baselines(examples(), examples())
    assert summary.summarize(weight, predictions(0.5), beside)["warnings"] == []


def test_two_runs_are_paired_by_their_numbers(weight: Recipe, tmp_path: Path) -> None:
    good, bad = predictions(0.5), predictions(9.0)
    words = [str(write_run(tmp_path / f"run{n}", weight, rows)) for n, rows in enumerate((bad, good))]
    text = "\n".join(lines(compare(tuple(words), "test", False, "runs")))
    before, after = (weight.by_row(rows)["mean_absolute_error"] for rows in (bad, good))
    difference = intervals.difference(before, after, intervals.Groups.of(bad))
    assert intervals.signed(difference) in text
    assert "verdict by mean_absolute_error on 60 rows in 60 groups, B against A: better" in text


def test_two_runs_whose_rows_have_other_numbers_are_not_paired(weight: Recipe, tmp_path: Path) -> None:
    one, other = predictions(0.5), predictions(0.5)
    other[7]["target"] = 8.5
    words = [str(write_run(tmp_path / f"run{n}", weight, rows)) for n, rows in enumerate((one, other))]
    with pytest.raises(CheckError, match=r"1 of 60 common rows .*: row r7: A 7\.0, B 8\.5"):
        compare(tuple(words), "test", False, "runs").refuse()


def test_predictions_say_the_answer_in_words(
    weight: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Prediction(id="r0", answer=4.5)]
    encoded = [EncodedRow("r0", [np.array([1])], -1)]
    run = SimpleNamespace(recipe=weight, folder=RunFolder(tmp_path), index=lambda: None)
    run.world = lambda threads: SimpleNamespace(stop=SimpleNamespace(raise_if_requested=lambda: None))
    run.other_rows = lambda other, with_label: Corpus(DataConfig(), weight, {OTHER: [example(0)]}, [], 1)
    task = SimpleNamespace(encode=lambda examples, between, refuse: encoded, counts={}, writes=False)
    run.predictor = lambda world, offload: SimpleNamespace(task=task, predict=lambda encoded: rows)
    monkeypatch.setattr(TrainedRun, "open", lambda path: run)
    written = predicting.predict(tmp_path, OtherRows("rows.csv"), tmp_path / "out.jsonl", None, None)
    assert read_lines(written.path) == [{"id": "r0", "answer": "4.5 kg", "group": group_digest("g0")}]


def test_the_page_has_the_sections_of_its_kind_and_not_of_another(weight: Recipe, tmp_path: Path) -> None:
    run = RunFolder(write_run(tmp_path / "run", weight, predictions(9.0)))
    page = write_report(run, {"test": examples()}).read_text()
    worst = max(predictions(9.0), key=lambda row: abs(row["answer"] - row["target"]))
    true, said = f"{worst['target']:g} kg", f"{worst['answer']:g} kg"
    assert f"true: {true},\nsaid: {said}" in page and f"animal {worst['id'][1:]}<" in page
    assert "How far off" in page and "mean_absolute_error" in page and "lower is better" in page
    assert "Which class is taken for which" not in page and "false predictions" not in page
    assert "<small>target" not in page, "what is right is none of the texts that the model read"


def test_numbers_are_not_counted_before_training(weight: Recipe) -> None:
    lengths: Any = {"median": 3, "p95": 4, "longest": 5, "histogram": []}
    labels = answers_of(weight).counts(examples())
    train: Any = {"rows": 60, "rows_cut": 0, "lengths": lengths, "labels": labels}
    seen = Lint(splits={"train": train}, near_duplicates={}, read_as=["cat"], target="4 kg")
    assert lint.lines(seen)[0].endswith("0% of the rows cut") and lint.lines(seen)[-1] == "  -> 4 kg"
    lint.refuse(seen, DataConfig(max_prior=0.01), Path("lint.json"))


def test_the_retrievers_part_is_told_from_the_readers(weight: Recipe) -> None:
    rows = [Example(id=f"r{n}", passage_id="a", retrieved=[name]) for n, name in enumerate("aab")]
    answers = [0.5, 9.0, 2.0]  # to 0, 1 and 2: a number is wrong when it is off by more than 1
    said = [Prediction(id=f"r{n}", target=float(n), answer=value) for n, value in enumerate(answers)]
    counted = hits.summarize(answers_of(weight), rows, said)
    assert counted is not None and counted["errors"] == {
        "found, right": 1,
        "found, wrong": 1,
        "not found, right": 1,
        "not found, wrong": 0,
    }


def test_the_first_score_needs_no_labels(weight: Recipe) -> None:
    assert weight.labels == () and weight.metrics[0].name == "mean_absolute_error"


@pytest.mark.parametrize("name", recipes.names())
def test_the_first_score_is_one_that_the_recipe_gives(name: str) -> None:
    recipe = recipes.load(name)
    first = {"science_exam": "map_at_3", "german_rag": "loss", "meta_review": "loss"}
    assert recipe.metrics[0].name == first.get(name, "log_loss")


def test_a_probability_that_is_no_number_is_infinitely_far() -> None:
    distance, row = answers_of(recipes.load("arena")).distance, Prediction(probabilities=[0.5, 0.5])
    assert distance(Prediction(probabilities=[float("nan"), 0.5]), row) == float("inf")
    assert distance(Prediction(probabilities=[0.75, 0.25]), row) == 0.25
    swapped = [Prediction(probabilities=[0.5, 0.5], swapped=[share, 1 - share]) for share in (0.5, 0.875)]
    assert distance(*swapped) == 0.375
