"""Stop and go on: bit for bit on the same ranks, to 1e-6 on others, whatever ends a run."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.tools import SHORT, command, losses, metrics, only_run, run, status, weights_hash, wide_model


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    model = wide_model(tmp_path_factory.mktemp("model"))
    return ["arena", *SHORT, "--model", model, "--init", "random"]


def finished(arguments: list[str], runs_dir: Path, devices: int) -> Path:
    done = run(*arguments, "--devices", str(devices), "--runs-dir", str(runs_dir))
    assert done.returncode == 0, done.stderr
    return only_run(runs_dir)


def same_training(folder: Path, reference: Path) -> None:
    assert losses(folder) == losses(reference)
    assert weights_hash(folder, 6) == weights_hash(reference, 6)
    assert json.loads((folder / "scores.json").read_text()) == json.loads(
        (reference / "scores.json").read_text()
    )


@pytest.fixture(scope="module")
def reference(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, never stopped."""
    return finished(arguments, tmp_path_factory.mktemp("reference"), 2)


def test_two_ranks_go_on_bit_for_bit_after_a_stop_and_print_why(
    arguments: list[str], reference: Path, tmp_path: Path
) -> None:
    half = run(*arguments, "--devices", "2", "--runs-dir", str(tmp_path), "--stop-at", "2")
    assert half.returncode == 75, half.stderr
    folder = only_run(tmp_path)
    assert status(folder)["exit_code"] == 75
    rest = run(*arguments, "--devices", "2", "--runs-dir", str(tmp_path))
    assert rest.returncode == 0, rest.stderr
    assert "the newest unfinished run of this experiment" in rest.stdout
    same_training(only_run(tmp_path), reference)


def test_three_ranks_go_on_bit_for_bit_after_a_stop(arguments: list[str], tmp_path: Path) -> None:
    """Sums over three ranks depend on the order of DDP's buckets; two ranks cannot show that."""
    reference = finished(arguments, tmp_path / "whole", 3)
    half = run(*arguments, "--devices", "3", "--runs-dir", str(tmp_path / "parts"), "--stop-at", "3")
    assert half.returncode == 75, half.stderr
    same_training(finished(arguments, tmp_path / "parts", 3), reference)


def test_two_then_one_then_two_ranks_train_on_the_same_rows_to_1e_6(
    arguments: list[str], reference: Path, tmp_path: Path
) -> None:
    for devices, stop in (("2", ["--stop-at", "2"]), ("1", ["--stop-at", "4"]), ("2", [])):
        done = run(*arguments, "--devices", devices, "--runs-dir", str(tmp_path), *stop)
        assert done.returncode == (75 if stop else 0), done.stderr
    folder = only_run(tmp_path)
    assert [line["tokens"] for line in metrics(folder, "train")] == [
        line["tokens"] for line in metrics(reference, "train")
    ]
    assert losses(folder) == pytest.approx(losses(reference), rel=1e-6)


def test_sigterm_to_the_launcher_saves_the_step_and_exits_75(
    arguments: list[str], reference: Path, tmp_path: Path
) -> None:
    whole = [*arguments, "--devices", "2", "--runs-dir", str(tmp_path)]
    process = subprocess.Popen(command(*whole), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().startswith("1/6"):
            process.send_signal(signal.SIGTERM)
            break
    process.stdout.read()
    assert process.wait(60) == 75
    folder = only_run(tmp_path)
    assert "SIGTERM" in (folder / "train.log").read_text()
    assert 1 <= status(folder)["step"] < 6
    assert run(*whole).returncode == 0
    same_training(folder, reference)


def test_kill_9_of_everything_loses_only_steps_since_the_last_checkpoint(
    arguments: list[str], reference: Path, tmp_path: Path
) -> None:
    whole = [*arguments, "--devices", "2", "--runs-dir", str(tmp_path), "--save-every", "1"]
    process = subprocess.Popen(command(*whole), stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().startswith("4/6"):
            break
    kill_tree(process.pid)
    process.wait()
    folder = only_run(tmp_path)
    done = run(*whole)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout
    same_training(folder, reference)


def kill_tree(pid: int) -> None:
    """kill -9 a process and all its children at once."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    for each in (pid, *map(int, children)):
        os.kill(each, signal.SIGKILL)
    time.sleep(0.5)
