"""What the launcher says for its workers, and what workers do without one."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.base import ranks
from lib.base.exits import BAD_INPUT, CRASHED, REPEATS, STOPPED
from lib.base.ranks import Ranks
from lib.launching.workers import _code_after_failure, _code_after_signal
from tests.tools import ROOT, SHORT, command, only_run, status


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([75, 75], STOPPED),
        ([0, 75], STOPPED),  # the signal came when one had just ended
        ([75], CRASHED),  # the other was killed before it could save
        ([], CRASHED),
        ([75, 4], REPEATS),
    ],
)
def test_stopped_is_said_only_when_every_worker_says_so(codes: list[int], expected: int) -> None:
    assert _code_after_signal(codes, 2) == expected


@pytest.mark.parametrize(
    ("codes", "first", "expected"),
    [
        ([4], 1, REPEATS),  # the others noticed first that rank 0 was gone
        ([75, 4], 75, REPEATS),  # they stopped well; rank 0 could not save
        ([2, 2], 2, BAD_INPUT),
        ([75, 75], 75, STOPPED),
        ([1], -9, CRASHED),  # killed from outside
        ([], -9, CRASHED),
    ],
)
def test_who_knows_that_it_would_repeat_has_the_last_word(
    codes: list[int], first: int, expected: int
) -> None:
    assert _code_after_failure(codes, first) == expected


ONE_OF_TWO = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({}, None),
        ({"RANK": "3"}, None),  # alone it is somebody's leftover
        (ONE_OF_TWO, Ranks(0, 2, 0, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Ranks(0, 1, 0, 1)),
        (
            {"RANK": "0", "WORLD_SIZE": "2"},
            "without LOCAL_RANK and LOCAL_WORLD_SIZE: .*unset",
        ),
        (ONE_OF_TWO | {"RANK": ""}, "RANK= .*: not all of them are numbers"),
        (ONE_OF_TWO | {"RANK": "2"}, "no launcher starts that"),
        (ONE_OF_TWO | {"LOCAL_RANK": "-1"}, "no launcher starts that"),
    ],
)
def test_who_a_process_is_stands_in_its_environment(
    there: dict[str, str], expected: Ranks | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ranks.NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            ranks.of_environment()
    else:
        assert ranks.of_environment() == expected


@pytest.mark.parametrize("script", ["evaluate.py", "predict.py", "export.py", "index.py", "compare.py"])
def test_a_script_that_runs_alone_is_refused_as_one_of_several(script: str) -> None:
    words = {"predict.py": ["--data", "rows.csv"], "export.py": ["out"], "index.py": ["out"]}.get(script, [])
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "run", *words],
        capture_output=True,
        text=True,
        env=os.environ | ONE_OF_TWO,
    )
    assert done.returncode == BAD_INPUT and f"{script} runs in one process, this is one of 2" in done.stderr


def test_devices_that_the_launcher_did_not_start_are_refused(tmp_path: Path) -> None:
    environment = os.environ | {"RANK": "0", "WORLD_SIZE": "1"}
    words = command("arena", "--devices", "2", "--runs-dir", str(tmp_path))
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert (
        done.returncode == BAD_INPUT
        and "--devices 2, but this process was started as one of 1" in done.stderr
    )


def test_a_worker_that_waits_for_the_others_can_be_stopped(tmp_path: Path) -> None:
    environment = os.environ | ONE_OF_TWO | {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    words = command("arena", *SHORT, "--runs-dir", str(tmp_path))
    # port 0: any free one, where nobody will ever come
    waiting = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    time.sleep(8)  # by then it waits
    waiting.send_signal(signal.SIGTERM)
    _, said = waiting.communicate(timeout=20)
    assert waiting.returncode == STOPPED
    assert "stopped: SIGTERM while rank 0 of 2 waits for the others at localhost:0" in said


def workers_of(launcher: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True)
    return list(map(int, found.stdout.split()))


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("phase", ["started", pytest.param("joining", marks=pytest.mark.faults), "training"])
def test_workers_end_with_whoever_started_them(phase: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = command("arena", *SHORT[:-2], "--max-steps", "5000", "--devices", "2", "--runs-dir", str(runs))
    launcher = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(workers := workers_of(launcher.pid)) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(workers) == 2
    if phase == "joining":
        time.sleep(2.5)
    while phase == "training" and time.monotonic() < end:
        if any(path.read_text() for path in runs.rglob("metrics.jsonl")):  # a step has been made
            break
        time.sleep(0.1)
    launcher.kill()
    launcher.wait()
    end = time.monotonic() + 60  # a step, a save, on a busy machine
    while any(map(lives, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    left = [worker for worker in workers if lives(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left
    if phase == "training":
        folder = only_run(runs)
        assert status(folder)["exit_code"] == STOPPED
        assert re.search(r"asked to stop .*saved", (folder / "train.log").read_text())
