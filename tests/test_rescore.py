"""evaluate.py: the rows it scores were never seen, and what it cannot do it says."""

import json
import shutil
from pathlib import Path

import pytest

from lib import recipe, run
from lib.base import exits
from lib.base.exits import CheckError
from lib.base.files import read_json, read_lines
from lib.command_line import parse
from lib.evaluation.rescore import rescore
from lib.evaluation.trained import OtherRows, TrainedRun
from tests.tools import SHORT, only_run

ROWS = recipe.load("arena").sample(60, 0)


def write(file: Path, rows: list[dict[str, object]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("rescore")
    data = at / "data"
    data.mkdir()
    for split, rows in (("train", ROWS[:40]), ("validation", ROWS[40:50]), ("test", ROWS[50:])):
        write(data / f"{split}.jsonl", rows)
    words = [*SHORT, "--data", str(data), "--model", "tiny", "--init", "random", "--max-steps", "2"]
    config = parse(recipe.load("arena").config, [*words, "--runs-dir", str(at / "runs")], "test")
    assert exits.run(lambda: run.train(config)) == 0
    return only_run(at / "runs")


@pytest.mark.parametrize(("first", "split"), [(0, "train"), (40, "validation")])
def test_rows_that_made_or_chose_the_model_are_no_new_rows(
    first: int, split: str, finished: Path, tmp_path: Path
) -> None:
    """Validation rows chose the best checkpoint."""
    rows = [row | {"id": f"renamed {number}"} for number, row in enumerate(ROWS[first : first + 5])]
    with pytest.raises(CheckError, match=f"5 prompts stand in both the {split} and the data rows"):
        rescore(finished, None, OtherRows(write(tmp_path / "rows.jsonl", rows)), None)


def test_test_rows_are_new_to_the_run(finished: Path, tmp_path: Path) -> None:
    found = rescore(finished, None, OtherRows(write(tmp_path / "rows.jsonl", ROWS[50:])), None)
    assert found.now["num_rows"] == 10
    assert sorted(path.name for path in found.folder.iterdir()) == ["predictions", "scores.json"]


def test_rows_that_cannot_be_scored_and_rows_that_training_nearly_knew_are_said(
    finished: Path, tmp_path: Path
) -> None:
    nearly = [
        row | {"id": f"near {n}", "prompt": f'{row["prompt"][:-2]}."]'} for n, row in enumerate(ROWS[:3])
    ]
    broken = ROWS[50] | {"id": "broken", "winner_tie": 7}
    many = [ROWS[50] | {"id": f"again {number}"} for number in range(100)]
    found = rescore(finished, None, OtherRows(write(tmp_path / "rows.jsonl", [*nearly, broken, *many])), None)
    assert found.now["num_rows"] == 103
    first, second = found.notes
    assert first.startswith("WARNING: 3 of 103 rows say nearly what a row of training says, near 0 and ")
    assert second.startswith("WARNING: 1 rows that cannot be used are not scored: ")
    assert [line["where"] for line in read_lines(found.folder / "rejected.jsonl")] == ["rows.jsonl:4"]
    assert read_json(found.folder / "scores.json")["num_rejected"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("test", OtherRows("rows.jsonl"), None), "leave it out with --data"),
        ((None, None, 0), "--threads is 0"),
        ((None, None, -1), "--threads is -1"),
    ],
)
def test_what_contradicts_itself_is_refused(
    arguments: tuple[str | None, OtherRows | None, int | None], words: str, finished: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        rescore(finished, *arguments)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.json", "[1]", "is no run folder"),
        ("config.json", '{"recipe": "x"}', "unknown recipe"),
        ("config.json", "{", "cannot be read"),
        ("run.json", "{}", "run.json is missing or says too little"),
        ("run.json", None, "run.json is missing or says too little"),
        ("run.json", "", "cannot be read"),
    ],
)
def test_a_run_whose_files_say_nothing_is_refused(
    file: str, text: str | None, words: str, finished: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    (copy / file).unlink()
    if text is not None:
        (copy / file).write_text(text)
    with pytest.raises(ValueError, match=words):
        rescore(copy, "test", None, None)


@pytest.mark.parametrize("links", ["followed", "dropped", "as text"])
def test_a_copied_run_is_scored_whatever_became_of_its_links(
    links: str, finished: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy", symlinks=links != "followed")
    for name in ("best", "last") if links != "followed" else ():
        (copy / "checkpoints" / name).unlink()
        if links == "as text":
            (copy / "checkpoints" / name).write_text("step-000001")
    found = rescore(copy, "test", None, None)
    assert found.before is not None and found.now["scores"] == found.before["scores"]
    (copy / "scores.json").unlink()  # not scored yet: its newest checkpoint knows the best
    assert TrainedRun.open(copy).checkpoint.name == TrainedRun.open(finished).checkpoint.name


def test_a_failed_evaluation_leaves_no_folder(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.evaluation import scoring

    def stopped(*arguments: object) -> None:
        raise exits.StoppedError("stopped during evaluation")

    before = list(finished.glob("evaluations/*"))
    monkeypatch.setattr(scoring, "score", stopped)
    with pytest.raises(exits.StoppedError):
        rescore(finished, "test", None, None)
    assert list(finished.glob("evaluations/*")) == before
