"""Whatever a user gets wrong: a message with what was seen, what is allowed and what to type, the right exit
code, no weight loaded, and no folder left behind."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib import recipe, run
from lib.base import exits
from lib.command_line import parse
from lib.models import backbone
from tests.tools import ROOT, SHORT, wide_model
from tests.tools import run as run_script

Row = dict[str, Any]
GOOD: list[Row] = recipe.load("arena").sample(120, 0)


def write_csv(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Exit code of a run that must end before weights are loaded."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def no_weights(*arguments: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(backbone, "load", no_weights)

    def call(*flags: str, runs_dir: Path = tmp_path / "runs") -> int:
        def work() -> int:
            words = [*SHORT, "--model", "tiny", "--init", "random", "--runs-dir", str(runs_dir), *flags]
            return run.train(parse(recipe.load("arena").config, words, "train.py arena"))

        return exits.run(work)

    return call


def changed(**values: Any) -> list[Row]:
    """120 good rows, ten of them with other values: more than the 1 % that is allowed."""
    return [row | values if number % 12 == 0 else row for number, row in enumerate(GOOD)]


BAD_ROWS: dict[str, tuple[Row, str]] = {
    "both winners": ({"winner_model_a": 1, "winner_model_b": 1, "winner_tie": 0}, "more than one winner"),
    "no winner": ({"winner_model_a": 0, "winner_model_b": 0, "winner_tie": 0}, "no winner"),
    "wrong label": ({"winner_tie": 7}, "it must be 0 or 1"),
    "broken JSON": ({"prompt": '["half'}, "no JSON list of turns"),
    "not text": ({"response_a": "[true]"}, "turn 1, is True, expected text"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_malformed_rows_are_listed_with_line_and_reason_and_kept(
    name: str, train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, reason = BAD_ROWS[name]
    file = write_jsonl(tmp_path / "rows.jsonl", changed(**values))
    assert train("--data", str(file)) == 2
    said = capsys.readouterr().err
    assert "10 of 120 rows cannot be used" in said and "rows.jsonl:13: " in said and "--max-rejected" in said
    assert reason in said
    (kept,) = tmp_path.glob("runs/arena/*/rejected.jsonl")
    assert [json.loads(line)["where"] for line in kept.read_text().splitlines()][:2] == [
        "rows.jsonl:1",
        "rows.jsonl:13",
    ]


Made = Callable[[Path], list[str]]
BAD_FLAGS: dict[str, tuple[Made, str]] = {
    "missing file": (lambda at: ["--data", str(at / "none.csv")], "cannot be read"),
    "no data file": (
        lambda at: ["--data", str(write_jsonl(at / "rows.txt", GOOD))],
        "use one of .csv, .jsonl",
    ),
    "no rows": (lambda at: ["--data", str(write_jsonl(at / "rows.jsonl", []))], "holds no rows"),
    "missing column": (
        lambda at: ["--data", str(write_csv(at / "x.csv", [{"id": 1, "prompt": "[]"}]))],
        "lacks the column response_a, response_b",
    ),
    "doubled ids": (
        lambda at: ["--data", str(write_jsonl(at / "x.jsonl", [GOOD[0], *GOOD]))],
        "ids stand on more than one row (0)",
    ),
    "unknown hub id": (lambda at: ["--data", "no/such-data"], "no/such-data"),
    "unknown model": (lambda at: ["--model", "no/such-model"], "--model no/such-model cannot be loaded"),
    "model folder without a model": (lambda at: ["--model", str(at)], "cannot be loaded"),
    "too long": (lambda at: ["--max-length", "513"], "use at most 512"),
    "too short": (lambda at: ["--max-length", "19"], "use at least 20"),
    "zero": (lambda at: ["--batch", "0", "--lr", "-1"], "--lr is -1"),
    "runs-dir is a file": (
        lambda at: ["--runs-dir", str(write_jsonl(at / "runs.txt", GOOD))],
        "is a file, not a folder",
    ),
    "random and frozen": (lambda at: ["--freeze", "all"], "use --freeze none"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flags_and_files_exit_2_with_a_message(
    name: str, train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = BAD_FLAGS[name]
    assert train(*make(tmp_path)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/arena/*")), "a run that never began leaves no folder"


def test_the_same_prompt_in_train_and_test_files_exits_3(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "train.jsonl", GOOD[:100])
    write_jsonl(tmp_path / "test.jsonl", [GOOD[3] | {"id": "other"}, *GOOD[100:]])
    assert train("--data", str(tmp_path)) == 3
    assert "1 prompts stand in both the train and the test" in capsys.readouterr().err


def test_too_little_disk_for_two_checkpoints_exits_2(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    model = wide_model(tmp_path / "model")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        assert train("--model", model, runs_dir=disk) == 2
        # two blocks of about 12 * 384**2 weights each are 3.5 million; with embeddings, pooler and head 3.9;
        # as many moments twice: 3 * 4 * 3.9 MB = 47 MB, two of them are 0.09 GiB, and 40 MiB are 0.04
        assert "has 0.04 GiB free, two checkpoints take 0.09 GiB" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("spare", "code"), [(-1, 2), (0, 1)])
def test_just_room_for_two_checkpoints_is_enough(
    spare: int, code: int, train: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the toy has 125,059 + 4,160 weights, and two moments of all
    free = 2 * 3 * 4 * 129_219 + spare
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert train() == code  # 1: it went on to load weights


def test_batch_smaller_than_the_ranks_is_refused_before_anything_starts() -> None:
    done = run_script("arena", "--batch", "2", "--devices", "4")
    assert done.returncode == 2
    assert "--batch 2 is smaller than 4 ranks; use at least 4" in done.stderr


def test_typos_exit_2_and_name_the_nearest() -> None:
    flag, name = run_script("arena", "--epoch", "3"), run_script("arean")
    assert flag.returncode == name.returncode == 2
    assert "--epochs" in flag.stderr + flag.stdout
    assert "did you mean 'arena'?" in name.stderr


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_without_the_packages_every_script_says_what_to_type(script: str) -> None:
    # -S leaves out site-packages: what a fresh machine's python3 has
    done = subprocess.run(
        [sys.executable, "-S", f"scripts/{script}"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2 and "bash setup.sh" in done.stderr and "Traceback" not in done.stderr
