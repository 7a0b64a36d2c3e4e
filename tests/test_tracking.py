"""What a run says of itself, line by line, and what happens when it cannot be written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.config import TrackingConfig
from lib.process.signals import StopFlag
from lib.process.world import World
from lib.tracking.tracker import COLUMNS, PRICED, Tracker, clock


def tracker(folder: Path, rank: int = 0, log_every: int = 2) -> Tracker:
    world = World(rank, 2, torch.device("cpu"), "", 1, StopFlag(deaf=True))
    return Tracker(folder, TrackingConfig(log_every=log_every), world)


def values(step: int, **other: Any) -> dict[str, Any]:
    common = {"epoch": step / 4, "loss": float(step), "lr": 1e-4, "grad_norm": 0.5, "accuracy": 0.25}
    counts = {"rows": 8, "targets": 8, "tokens": 90, "computed": 100, "seconds": 0.5, "mfu": 0.25}
    return {"step": step, **common, **counts, **other}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_is_about_the_steps_since_the_last_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tracker(tmp_path, log_every=3)
    told.begin(1, 7)
    for step in range(1, 8):
        told.step(values(step, seconds=step / 2, mfu=step / 10))
    told.close()
    said = capsys.readouterr().out.splitlines()
    assert {len(line) for line in said} == {80}, "what a terminal shows in one line"
    header, *printed = (line.split() for line in said)
    assert header == list(COLUMNS)
    # the first step, every third and the last; their losses are means over 1; 2, 3; 4, 5, 6; 7
    assert [(row[0], row[2]) for row in printed] == [
        ("1/7", "1.0000"),
        ("3/7", "2.5000"),
        ("6/7", "5.0000"),
        ("7/7", "7.0000"),
    ]
    # step 2 took 1 s and step 3 1.5 s: 16 rows and 180 tokens of 200 in 2.5 s, which
    # had 0.2 and 0.3 of the peak's FLOPs in them; four more take 5 s
    named = dict(zip(COLUMNS, printed[1], strict=True))
    shown = [named[name] for name in ("rows/s", "tok/s", "pad", "mfu", "left")]
    assert shown == ["6.4", "72", "10%", "26.0%", "0:00:05"]
    assert (tmp_path / "train.log").read_text().count("\n") == 5
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_with_a_price_a_line_says_what_is_spent_and_what_the_whole_will_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tracker(tmp_path, log_every=1)
    told.begin(1, 4, priced=True)
    for step, money in enumerate(
        [(0.004, None, None), (0.1, None, 1.5), (99.94, 99.99, 99.9), (100, 1234, 1)], 1
    ):
        told.step(values(step) | dict(zip(("spent", "expected", "at_least"), money, strict=True)))
    told.close()
    said = capsys.readouterr().out.splitlines()
    assert {len(line) for line in said} == {80}
    assert said[0].split() == list(PRICED) and "spent/whole" in PRICED
    column = said[0].split().index("spent/whole")
    assert [line.split()[column] for line in said[1:]] == [
        "0.004/-",
        "0.100/>1.50",
        "99.94/99.99",
        "100/1,234",
    ]


def test_records_of_steps_that_are_computed_again_are_dropped(tmp_path: Path) -> None:
    told = tracker(tmp_path)
    told.begin(1, 6)
    told.record("lint", rows=3)  # of no step
    for step in (1, 2, 3):
        told.step(values(step))
    told.record("validation", step=3, scores={"accuracy": 0.5})
    told.close()  # killed; the checkpoint is of step 2
    told = tracker(tmp_path)
    told.begin(3, 6)
    told.step(values(3, loss=9.0))
    told.close()
    kept = [(line["kind"], line.get("step"), line.get("loss")) for line in lines(tmp_path)]
    assert kept == [("lint", None, None), ("train", 1, 1.0), ("train", 2, 2.0), ("train", 3, 9.0)]


def test_only_rank_0_speaks_and_records_and_each_rank_keeps_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in (0, 1):
        told = tracker(tmp_path, rank)
        told.begin(1, 2)
        told.say(f"from rank {rank}")
        told.record("note", step=1, rank=rank)
        assert told.training_since_validation() == {}
        told.close()
    assert "from rank 0" in (out := capsys.readouterr().out) and "from rank 1" not in out
    assert [line["rank"] for line in lines(tmp_path)] == [0]
    assert (tmp_path / "train.rank1.log").read_text() == "from rank 1\n"
    assert "from rank 0\n" in (tmp_path / "train.log").read_text()


def test_training_since_the_validation_before_weighs_by_targets_also_over_a_stop(tmp_path: Path) -> None:
    told = tracker(tmp_path)
    told.begin(1, 9)
    told.step(values(1, loss=100.0))
    told.record("validation", step=1, scores={})
    told.step(values(2, loss=1.0, accuracy=0.5, targets=6))
    told.close()
    told = tracker(tmp_path)
    told.begin(3, 9)
    told.step(values(3, loss=3.0, accuracy=1.0, targets=2))
    # (6 * 1 + 2 * 3) / 8 and (6 * 0.5 + 2 * 1) / 8
    assert told.training_since_validation() == {"loss": 1.5, "accuracy": 0.625}
    told.close()


def test_a_full_disk_costs_one_warning_and_closing_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr(Tracker, "_open", staticmethod(lambda path: full.open("w", buffering=1)))
    told = tracker(tmp_path)
    told.begin(1, 3)
    for step in (1, 2, 3):
        told.step(values(step))
    told.close()
    out = capsys.readouterr().out
    assert out.count("the log cannot be written (No space left on device); the run goes on") == 1
    assert "3/3" in out


def test_a_log_that_cannot_be_opened_is_named_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.log").mkdir()
    told = tracker(tmp_path)
    told.say("still here")
    told.record("note", step=1)
    told.close()
    warning, said = capsys.readouterr().out.splitlines()
    assert "train.log cannot be written (Is a directory); the run goes on without it" in warning
    assert said == "still here" and lines(tmp_path)[0]["kind"] == "note"


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05")])
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
