"""Stop and go on: bit for bit on the same ranks, to 1e-6 on others, whatever ends a run."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lib import recipe
from lib.base.exits import STOPPED
from tests.tools import ROOT, SHORT, losses, metrics, only_run, run, start, status, weights_hash, wide_model


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    model = wide_model(tmp_path_factory.mktemp("model"))
    return ["arena", *SHORT, "--model", model, "--init", "random"]


def finished(arguments: list[str], runs_dir: Path, devices: int) -> Path:
    done = run(*arguments, "--devices", str(devices), "--runs-dir", str(runs_dir))
    assert done.returncode == 0, done.stderr
    return only_run(runs_dir)


def with_rows(arguments: list[str], at: Path, devices: int, *stop: str) -> Path:
    """The run under at/runs, begun or gone on with; what each rank computes is kept in at/rows."""
    (at / "rows").mkdir(exist_ok=True)
    words = [str(at / "rows"), *arguments, "--devices", str(devices), "--runs-dir", str(at / "runs"), *stop]
    done = run(*words, script=str(ROOT / "tests" / "row_checks.py"))
    assert done.returncode == (75 if stop else 0), done.stderr
    return only_run(at / "runs")


def rows_by_step(at: Path) -> dict[int, dict[str, list[int]]]:
    """step -> row id -> the ranks that computed it, once for each time."""
    steps: dict[int, dict[str, list[int]]] = {}
    for file in (at / "rows").iterdir():
        for line in map(json.loads, file.read_text().splitlines()):
            for row in line["ids"]:
                steps.setdefault(line["step"], {}).setdefault(row, []).append(line["rank"])
    return steps


def same_training(folder: Path, reference: Path) -> None:
    assert losses(folder) == losses(reference)
    assert weights_hash(folder, 6) == weights_hash(reference, 6)
    assert json.loads((folder / "scores.json").read_text()) == json.loads(
        (reference / "scores.json").read_text()
    )


@pytest.fixture(scope="module")
def reference(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, never stopped."""
    return with_rows(arguments, tmp_path_factory.mktemp("reference"), 2)


def test_three_ranks_go_on_bit_for_bit_after_a_stop(arguments: list[str], tmp_path: Path) -> None:
    """Sums over three ranks depend on the order of DDP's buckets; two ranks cannot show that."""
    reference = finished(arguments, tmp_path / "whole", 3)
    half = run(*arguments, "--devices", "3", "--runs-dir", str(tmp_path / "parts"), "--stop-at", "3")
    assert half.returncode == 75, half.stderr
    same_training(finished(arguments, tmp_path / "parts", 3), reference)


def test_two_then_one_then_two_ranks_train_on_the_same_rows_to_1e_6(
    arguments: list[str], reference: Path, tmp_path: Path
) -> None:
    for devices, stop in ((2, ["--stop-at", "2"]), (1, ["--stop-at", "4"]), (2, [])):
        folder = with_rows(arguments, tmp_path, devices, *stop)
    assert losses(folder) == pytest.approx(losses(reference), rel=1e-6)
    asked = [[line["flops"] for line in metrics(each, "train")] for each in (folder, reference)]
    assert asked[0] == asked[1], "what a step asks for depends on its rows alone"
    assert len(json.loads((folder / "run.json").read_text())["peaks"]) == 2  # of two ranks, and of one
    rows, unbroken = rows_by_step(tmp_path), rows_by_step(reference.parents[2])
    assert sorted(rows) == sorted(unbroken) == [1, 2, 3, 4, 5, 6]
    for step, ranks in rows.items():
        assert sorted(ranks) == sorted(unbroken[step])
        assert all(len(times) == 1 for times in ranks.values()), "every row counts once"
        assert {rank for (rank,) in ranks.values()} == ({0} if step in (3, 4) else {0, 1})
    # batches of 8: three steps and the 6 rows that are left make an epoch of 30
    assert [len(rows[step]) for step in range(1, 7)] == [8, 8, 8, 6, 8, 8]
    assert len({row for step in range(1, 5) for row in rows[step]}) == 30


def test_sigterm_then_kill_9_then_on_is_as_if_nothing_had_happened(
    arguments: list[str], reference: Path, tmp_path: Path
) -> None:
    """SIGTERM to the launcher saves the step and exits 75; kill -9 of all loses what was not saved yet."""
    whole = [*arguments, "--devices", "2", "--runs-dir", str(tmp_path)]
    process = start_and_wait_for("1/6", whole)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    process.stdout.read()
    assert process.wait(60) == 75
    folder = only_run(tmp_path)
    assert "SIGTERM" in (folder / "train.log").read_text()
    assert status(folder)["exit_code"] == 75 and 1 <= status(folder)["step"] < 5
    process = start_and_wait_for("5/6", [*whole, "--save-every", "2"])
    kill_tree(process.pid)
    process.wait()
    assert status(folder)["exit_code"] is None  # nobody was left to write it
    done = run(*whole)
    assert done.returncode == 0, done.stderr
    assert "the newest unfinished run of this experiment" in done.stdout
    same_training(folder, reference)


@pytest.mark.faults
@pytest.mark.parametrize("kill", range(50))
def test_kill_9_at_a_random_moment_changes_nothing(
    kill: int, arguments: list[str], reference: Path, tmp_path: Path
) -> None:
    """From the first import to the report: about half of the 10 s that such a run takes is start-up."""
    whole = [*arguments, "--devices", "2", "--runs-dir", str(tmp_path), "--save-every", "1"]
    process = start(*whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(random.Random(kill).uniform(1, 12))
    kill_tree(process.pid)
    process.wait()
    done = run(*whole)
    assert done.returncode == 0, done.stderr
    newest = max(
        tmp_path.glob("arena/*")
    )  # a run that was killed before its first checkpoint stays as it was
    same_training(newest, reference)


def start_and_wait_for(line_start: str, arguments: list[str]) -> subprocess.Popen[str]:
    """A training process that has just printed a line that begins with this."""
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.strip().startswith(line_start):
            return process
    raise AssertionError("".join(seen))


def kill_tree(pid: int) -> None:
    """kill -9 a process and all its descendants; each is stopped first, so that none starts another."""
    for each in stopped(pid):
        with contextlib.suppress(ProcessLookupError):  # it had just ended by itself
            os.kill(each, signal.SIGKILL)
    time.sleep(0.5)


def stopped(pid: int) -> list[int]:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid, *(each for child in children for each in stopped(int(child)))]


def test_the_same_bytes_at_another_place_are_the_same_rows(tmp_path: Path) -> None:
    """Moved while a run was stopped, and called otherwise when it was done."""
    rows = [json.dumps(row) for row in recipe.load("arena").sample(90, 0)]
    places = [tmp_path / name for name in ("one/rows.jsonl", "two/rows.jsonl", "three/other.jsonl")]
    for place in places:
        place.parent.mkdir()
    places[0].write_text("\n".join(rows) + "\n")
    words = ["arena", "--data", "{}", *SHORT[4:], "--runs-dir", str(tmp_path / "runs")]

    def train(place: Path, *more: str) -> subprocess.CompletedProcess[str]:
        return run(*[word.format(place) for word in words], *more)

    assert train(places[0], "--stop-at", "3").returncode == STOPPED
    places[0].rename(places[1])
    done = train(places[1])
    assert done.returncode == 0 and "the newest unfinished run of this experiment" in done.stdout
    folder = only_run(tmp_path / "runs")
    places[1].rename(places[2])
    lost = run(str(folder), script="evaluate.py")
    assert lost.returncode == 2 and "--moved-to PATH" in lost.stderr
    found = run(str(folder), "--moved-to", str(places[2]), "--json", script="evaluate.py")
    assert "the same to the last digit" in found.stderr and json.loads(found.stdout)["same"] is True
    places[2].write_text("\n".join(rows[1:]) + "\n")
    other = run(str(folder), "--moved-to", str(places[2]), script="evaluate.py")
    assert other.returncode == 2 and "does not hold the bytes" in other.stderr
