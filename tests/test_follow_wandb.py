"""What the process beside a run hands to wandb, and when it ends; wandb itself is replaced."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib.tracking import artifact, follow_wandb


class Board:
    """Keeps what it is told."""

    url, dir = "https://wandb.example/run", "/runs/one/wandb/run-one/files"

    def __init__(self) -> None:
        self.logged: list[tuple[int | None, dict[str, Any]]] = []
        self.began: dict[str, Any] = {}
        self.finished = self.best = 0

    def init(self, **words: Any) -> "Board":
        self.began = words
        return self

    def log(self, values: dict[str, Any], step: int | None) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    board = Board()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=board.init, Settings=dict))
    monkeypatch.setattr(artifact, "log_best", lambda run, folder: setattr(run, "best", run.best + 1))
    return board


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "arena"}))
    status(tmp_path, None)
    return tmp_path


def status(folder: Path, exit_code: int | None, pid: int | None = None) -> None:
    (folder / "status.json").write_text(json.dumps({"exit_code": exit_code, "pid": pid or os.getpid()}))


def write(folder: Path, text: str) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(text)


def each_poll(monkeypatch: pytest.MonkeyPatch, *happenings: Callable[[], None]) -> None:
    """What happens at the run while the follower sleeps the first time, the second ..."""
    coming = iter(happenings)
    monkeypatch.setattr(follow_wandb.time, "sleep", lambda seconds: next(coming)())


def test_lines_are_handed_over_whole_in_order_and_to_the_last(
    board: Board, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, '{"kind": "train", "step": 1, "loss": 2.5, "note": "no number"}\n{"kind": "train", "st')

    def ends() -> None:
        write(folder, '{"kind": "validation", "step": 2, "scores": {"accuracy": 0.5}}\n')
        status(folder, 0)

    each_poll(monkeypatch, lambda: write(folder, 'ep": 2, "loss": 2.0}\n'), ends)
    follow_wandb.main(folder, "offline")
    assert board.logged == [
        (1, {"train/loss": 2.5}),
        (2, {"train/loss": 2.0}),
        (2, {"validation/accuracy": 0.5}),
    ]
    assert (board.best, board.finished) == (1, 1)
    assert board.began["id"] == folder.name and board.began["mode"] == "offline"
    where = json.loads((folder / follow_wandb.WHERE).read_text())
    assert where == {"url": board.url, "folder": "/runs/one/wandb/run-one"}


@pytest.mark.parametrize("exit_code", [75, 4])
def test_a_run_that_is_not_done_has_no_best_checkpoint_yet(
    exit_code: int, board: Board, folder: Path
) -> None:
    write(folder, '{"kind": "train", "step": 1, "loss": 2.5}\n')
    status(folder, exit_code)
    follow_wandb.main(folder, "offline")
    assert len(board.logged) == 1 and (board.best, board.finished) == (0, 1)


def test_the_follower_of_a_killed_run_ends(board: Board, folder: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    status(folder, None, process.pid)
    write(folder, '{"kind": "train", "step": 1, "loss": 2.5}\n')
    follow_wandb.main(folder, "offline")
    assert len(board.logged) == 1 and (board.best, board.finished) == (0, 1)


@pytest.mark.parametrize(("mode", "resume"), [("online", "allow"), ("offline", None)])
def test_only_a_run_online_can_be_gone_on_with(
    mode: str, resume: str | None, board: Board, folder: Path
) -> None:
    write(folder, "")
    status(folder, 75)
    follow_wandb.main(folder, mode)
    assert board.began["resume"] == resume
