"""scripts/runs.py: every run folder as it stands, also damaged ones; nothing is written, no torch needed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lib.config import Config
from lib.config_tree import to_dict
from lib.runs import listing
from lib.runs.folder import RunFolder
from tests.tools import ROOT


def write_run(path: Path, status: dict[str, Any] | None, steps: bool = True, **files: Any) -> Path:
    """A run folder as it is left by a run that ended so."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(to_dict(Config())))
    (path / "run.json").write_text(json.dumps({"command": f"train.py arena --name {path.name}"}))
    if status is not None:
        (path / "status.json").write_text(json.dumps(status))
    if steps:
        (path / "checkpoints").mkdir()
    for name, value in files.items():
        (path / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def scores(split: str, value: float) -> dict[str, Any]:
    found = {"log_loss": {"value": value, "low": value - 0.1, "high": float("nan")}}
    return {"splits": {split: {"scores": found}}}


def states(runs: Path) -> dict[str, str]:
    return {run.run: run.state for run in listing.all_runs(str(runs))}


def test_each_state_has_its_word_and_the_newest_stands_first(tmp_path: Path) -> None:
    above = tmp_path / "arena"
    write_run(
        above / "20250101_120000", {"exit_code": 0, "step": 9, "num_steps": 9}, scores=scores("test", 0.5)
    )
    write_run(above / "20250102_120000", {"exit_code": 75, "step": 4, "num_steps": 9})
    write_run(above / "20250103_120000", {"exit_code": 4})
    write_run(above / "20250104_120000", {"exit_code": None, "step": 2})
    write_run(above / "20250105_120000", {"exit_code": 3}, steps=False)
    write_run(above / "20250106_120000", None, scores="{half")
    running = write_run(above / "20250107_120000", {"exit_code": None})
    (above / ".encoded").mkdir()
    holder = RunFolder(running)
    holder.lock()
    found = states(tmp_path)
    holder.unlock()
    assert list(found.values())[:1] == ["running"] and found["20250106_120000"].startswith("unreadable: ")
    assert list(found) == sorted(found, reverse=True)
    known = {
        name: state for name, state in found.items() if name not in ("20250106_120000", "20250107_120000")
    }
    assert known == {
        "20250105_120000": "refused",
        "20250104_120000": "killed",
        "20250103_120000": "failed (4)",
        "20250102_120000": "stopped",
        "20250101_120000": "done",
    }


def test_lines_fit_and_what_never_began_stands_apart(tmp_path: Path) -> None:
    write_run(
        tmp_path / "arena/20250101_120000",
        {"exit_code": 0, "step": 9, "num_steps": 9},
        scores=scores("validation", 0.5),
    )
    write_run(tmp_path / "arena/20250102_120000-cut", {"exit_code": 3}, steps=False, lint={})
    lines = listing.table(listing.all_runs(str(tmp_path)), 79)
    assert max(map(len, lines)) <= 79
    assert lines[1].split()[:6] == ["20250101_120000", "arena", "done", "9/9", "log_loss", "0.5000"]
    assert lines[-2:] == ["without a saved step:", "  20250102_120000-cut  arena  refused, see lint.json"]


def test_what_not_all_runs_of_a_recipe_were_told_stands_beside_each(tmp_path: Path) -> None:
    commands = [
        "--data a.csv --lr 0.1 --seed 1",
        "--data a.csv --lr 0.2",
        "--data a.csv --lr 0.1 --runs-dir x",
    ]
    for number, flags in enumerate(commands, 1):
        path = write_run(tmp_path / f"arena/2025010{number}_120000", {"exit_code": 75})
        (path / "run.json").write_text(json.dumps({"command": f"train.py arena {flags}"}))
    trial = tmp_path / "arena/20250105_120009-20250105_120000-trial-001"
    write_run(trial, {"exit_code": 0})
    _, third, second, first, last = listing.table(listing.all_runs(str(tmp_path)), None)
    told = [line.partition(" d  ")[2] for line in (first, second, third)]
    assert told == ["--lr 0.1 --seed 1", "--lr 0.2", "--lr 0.1"]
    assert last == f"1 trials of the sweep {tmp_path}/arena/sweeps/20250105_120000, which has a result.html"


def test_what_runs_cost_has_a_column_where_one_had_a_price(tmp_path: Path) -> None:
    for day, price in ((1, None), (2, 0.5), (3, 0.5)):
        ended = {"exit_code": 0 if day == 2 else 75, "expected": 4.0}
        path = write_run(tmp_path / f"arena/2025010{day}_120000", ended)
        RunFolder(path).write_record(sittings=[{"began": 0.0, "ended": 5 * 3600.0, "price": price}])
    runs = listing.all_runs(str(tmp_path))
    assert [(run.spent, run.expected) for run in runs] == [(2.5, 4.0), (2.5, None), (None, None)]
    lines = [line.split("  ") for line in listing.table(runs, None)]
    assert [[cell.strip() for cell in line if cell][5] for line in lines] == [
        "cost",
        "2.50 of 4.00",
        "2.50",
        "-",
    ]
    assert "cost" not in listing.table(runs[2:], None)[0]


@pytest.mark.parametrize("name", ["status", "run", "config", "scores"])
def test_a_damaged_file_spoils_its_own_run_only(name: str, tmp_path: Path) -> None:
    write_run(tmp_path / "arena/20250101_120000", {"exit_code": 0})
    bad = write_run(tmp_path / "arena/20250102_120000", {"exit_code": 0})
    (bad / f"{name}.json").write_text("[]")
    found = states(tmp_path)
    assert found["20250101_120000"] == "done" and len(found) == 2
    expected = "killed" if name == "status" else "unreadable: "  # without a status nobody knows how it ended
    assert found["20250102_120000"].startswith(expected)


def test_two_recipes_may_have_runs_of_one_name(tmp_path: Path) -> None:
    for recipe in ("arena", "boolq"):
        write_run(tmp_path / recipe / "20250101_120000", {"exit_code": 0})
    assert set(states(tmp_path)) == {f"{tmp_path}/{recipe}/20250101_120000" for recipe in ("arena", "boolq")}
    write_run(tmp_path / "boolq/20250102_120000", {"exit_code": 0})
    write_run(tmp_path / "boolq/20250102_120000-long", {"exit_code": 0})  # has the other's timestamp, too
    assert set(states(tmp_path)) >= {f"{tmp_path}/boolq/20250102_120000", "20250102_120000-long"}
    *_, one = listing.all_runs(str(tmp_path), "boolq")
    assert one.recipe == "boolq"
    with pytest.raises(ValueError, match="unknown recipe 'bolq'"):
        listing.all_runs(str(tmp_path), "bolq")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (3599, "59 min"), (3600, "1 h"), (90_000, "1 d"), (None, "-")],
)
def test_an_age_in_its_largest_unit(seconds: float | None, words: str) -> None:
    assert listing.age(seconds) == words


def test_the_command_needs_no_torch_and_prints_one_json_list(tmp_path: Path) -> None:
    write_run(tmp_path / "arena/20250101_120000", {"exit_code": 0}, scores=scores("test", 0.5))
    program = f"""
import sys
from runpy import run_path
sys.argv[0] = "runs.py"
try:
    run_path({str(ROOT / "scripts/runs.py")!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code and "torch" not in sys.modules, end.code
"""
    words = [sys.executable, "-c", program, "--json", "--runs-dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert (found["state"], found["split"], found["command"]) == (
        "done",
        "test",
        "train.py arena --name 20250101_120000",
    )
    assert found["scores"]["log_loss"] == {"value": 0.5, "low": 0.4, "high": None}  # NaN is no JSON


def test_no_run_is_said_and_no_folder_is_refused(tmp_path: Path) -> None:
    def ends(*words: str) -> tuple[int, str]:
        command = [sys.executable, str(ROOT / "scripts/runs.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    assert ends("--runs-dir", str(tmp_path)) == (0, f"no run under {tmp_path}\n")
    code, text = ends("--runs-dir", str(tmp_path / "nowhere"))
    assert code == 2 and "is no folder" in text
