"""launch/pod.sh on this machine: a real tmux, a real supervisor, small commands with the exit codes that
count."""

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pod_host import Laptop, Place, needs, short_folder, wait_for

CANARY = "hf_canary_that_nobody_may_see"
FAST = ("--wait-s", "0.1")


@pytest.fixture(scope="module")
def laptop() -> Iterator[Laptop]:
    needs("tmux")
    with short_folder() as folder:
        yield Laptop(folder)


@pytest.fixture
def place(laptop: Laptop) -> Iterator[Place]:
    """An empty queue in this folder."""
    for folder in (".pod", "runs"):
        shutil.rmtree(laptop.root / folder, ignore_errors=True)
    place = Place(laptop.root, laptop.root.parent)
    yield place
    place.close()


def fake(*words: object) -> tuple[str, ...]:
    return ("--", "scripts/fake.py", *map(str, words))


def test_crashes_and_stops_by_the_machine_are_gone_on_with_until_done(
    laptop: Laptop, place: Place, tmp_path: Path
) -> None:
    laptop.pod("start", "--wait-s", "0.25", *fake(tmp_path / "a b", "1,75,kill,0", "1,2,3,4"))
    assert place.ended() == ["done"]
    (entry,) = place.entries()
    assert (entry["attempts"], entry["exit_code"]) == (4, 0)
    times = [turn["time"] for turn in place.turns(tmp_path / "a b")]
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    # twice as long each time
    assert len(gaps) == 3 and all(gap > wait for gap, wait in zip(gaps, (0.25, 0.5, 1.0), strict=True))
    assert entry["run"] == str(laptop.root / "runs" / "arena" / "fake run" / "a b")


def test_a_failed_command_does_not_stop_the_rest_and_done_ones_are_skipped(
    laptop: Laptop, place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "queue.txt"
    names, codes = ("a", "b", "c", "d"), ("3", "1", "1", "0")
    steps = ("", "7,7", "", "")  # b crashes twice at the same step
    lines = [
        f"scripts/fake.py '{tmp_path / name}' {code} {step}  # {name}\n"
        for name, code, step in zip(names, codes, steps, strict=True)
    ]
    file.write_text("".join(lines))
    laptop.pod("start", *FAST, "--file", str(file))
    assert place.ended() == ["failed", "failed", "failed", "done"]
    assert [entry["attempts"] for entry in place.entries()] == [1, 2, 2, 1]
    said = laptop.pod("status").stdout
    assert "refused by a check" in said and "twice at step 7: a restart made no progress" in said
    assert "twice before a step was saved" in said
    # the failed ones are tried again, the one that is done is not
    laptop.pod("start", *FAST, "--file", str(file))
    assert place.ended()[-1] == "done"
    assert [len(place.turns(tmp_path / name)) for name in names] == [2, 4, 4, 1]


def test_stop_waits_for_the_checkpoint_and_nothing_begins_again_until_start(
    laptop: Laptop, place: Place, tmp_path: Path
) -> None:
    laptop.pod("start", *FAST, *fake(tmp_path / "a", "stop,0"))
    laptop.pod("start", *FAST, *fake(tmp_path / "b", "0"))
    wait_for((tmp_path / "a" / "ready").exists)
    assert "at work in tmux session" in laptop.pod("status").stdout
    said = laptop.pod("stop").stdout
    assert "stopped: pod.sh start HOST goes on" in said and "saved, goes on" in said
    assert (place.states(), place.entries()[0]["exit_code"]) == (["stopped", "waiting"], 75)
    time.sleep(0.5)  # five times the wait before a restart
    assert len(place.turns(tmp_path / "a")) == 1 and not (tmp_path / "b").exists()
    laptop.pod("start")
    assert place.ended() == ["done", "done"]
    assert len(place.turns(tmp_path / "a")) == 2


def test_ctrl_c_in_its_terminal_stops_it_as_well(laptop: Laptop, place: Place, tmp_path: Path) -> None:
    laptop.pod("start", *FAST, *fake(tmp_path / "a", "stop"))
    wait_for((tmp_path / "a" / "ready").exists)
    subprocess.run(["tmux", "send-keys", "C-c"], env=laptop.env, check=True)
    assert place.ended() == ["stopped"]
    assert place.entries()[0]["exit_code"] == 75


def test_after_a_reboot_status_says_so_and_start_goes_on(
    laptop: Laptop, place: Place, tmp_path: Path
) -> None:
    laptop.pod("start", *FAST, *fake(tmp_path / "a", "stop,0"))
    wait_for((tmp_path / "a" / "ready").exists)
    child = place.entries()[0]["pid"]
    os.kill(place.supervisor(), signal.SIGKILL)
    subprocess.run(["tmux", "kill-server"], env=laptop.env)
    os.kill(child, signal.SIGKILL)
    said = laptop.pod("status").stdout
    assert "tmux is gone" in said and "cut off" in said and "pod.sh start HOST goes on" in said
    laptop.pod("start")
    assert place.ended() == ["done"]
    assert len(place.turns(tmp_path / "a")) == 2


@pytest.mark.faults
def test_a_process_that_outlived_its_supervisor_is_not_started_twice(
    laptop: Laptop, place: Place, tmp_path: Path
) -> None:
    laptop.pod("start", *FAST, *fake(tmp_path / "a", "stop,0"))
    wait_for((tmp_path / "a" / "ready").exists)
    os.kill(place.supervisor(), signal.SIGKILL)
    wait_for(lambda: "running alone" in laptop.pod("status").stdout)
    laptop.pod("start")
    time.sleep(0.5)
    assert len(place.turns(tmp_path / "a")) == 1
    laptop.pod("stop")
    assert (place.states(), len(place.turns(tmp_path / "a"))) == (["stopped"], 1)


def test_with_gpus_commands_run_side_by_side_each_on_its_own(
    laptop: Laptop, place: Place, tmp_path: Path
) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\nprintf 'GPU 0: A40\\nGPU 1: A40\\n'\n")
    smi.chmod(0o755)
    path = f"{smi.parent}:{os.environ['PATH']}"
    for name in ("a", "b", "c"):
        laptop.pod("start", *FAST, "--gpus", "1", *fake(tmp_path / name, "stop,0"), PATH=path)
    wait_for(lambda: (tmp_path / "a" / "ready").exists() and (tmp_path / "b" / "ready").exists())
    assert place.states() == ["running", "running", "waiting"]
    assert [place.turns(tmp_path / name)[0]["gpus"] for name in "ab"] == ["0", "1"]
    os.kill(place.entries()[0]["pid"], signal.SIGKILL)  # a crash; the next attempt ends well
    wait_for((tmp_path / "c" / "ready").exists)
    assert place.states() == ["done", "running", "running"]
    assert [place.turns(tmp_path / name)[-1]["gpus"] for name in "ac"] == ["0", "0"]
    said = laptop.pod("start", "--gpus", "3", *fake(tmp_path / "d", "0"), code=2, PATH=path).stderr
    assert "--gpus 3, but this host has 2 GPUs" in said
    laptop.pod("stop", "--now")
    assert place.states() == ["done", "stopped", "stopped"]


def test_two_who_start_at_once_share_one_queue(laptop: Laptop, place: Place, tmp_path: Path) -> None:
    both = [laptop.start("start", *FAST, *fake(tmp_path / name, "0")) for name in ("a", "b")]
    ended = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert place.ended() == ["done", "done"]
    assert [len(place.turns(tmp_path / name)) for name in "ab"] == [1, 1]


def test_what_is_malformed_is_refused_before_anything_starts(
    laptop: Laptop, place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "queue.txt"
    file.write_text(f"scripts/fake.py {tmp_path / 'a'} 0\nscripts/train.py arena --epoch 3\n")
    said = laptop.pod("start", "--file", str(file), code=2).stderr
    assert f"{file}, line 2" in said and "--epochs" in said
    assert not (laptop.root / ".pod" / "queue.json").exists() and not (tmp_path / "a").exists()
    assert "unrecognized arguments: --fole" in laptop.pod("start", "--fole", code=2).stderr
    assert "nothing is left to do here" in laptop.pod("start", code=2).stderr


def test_tokens_reach_the_command_and_nothing_else(laptop: Laptop, place: Place, tmp_path: Path) -> None:
    laptop.pod("start", *FAST, *fake(tmp_path / "a", "stop"), HF_TOKEN=CANARY)
    wait_for((tmp_path / "a" / "ready").exists)
    assert place.turns(tmp_path / "a")[0]["canary"] == CANARY
    lines = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline")]
    assert not any(CANARY.encode() in line for line in lines)
    shown = subprocess.run(["tmux", "show-environment", "-g"], env=laptop.env, capture_output=True, text=True)
    kept = laptop.root / ".pod" / "secrets.json"
    holding = [file for file in (laptop.root).rglob("*") if file.is_file() and CANARY in _text(file)]
    assert holding == [kept] and kept.stat().st_mode & 0o777 == 0o600
    laptop.pod("stop")
    assert shown.returncode == 0 and CANARY not in shown.stdout


def _text(file: Path) -> str:
    return file.read_text(errors="replace")


def test_a_machine_without_tmux_or_set_up_says_what_to_type(
    laptop: Laptop, place: Place, tmp_path: Path
) -> None:
    for program in ("bash", "sh", "dirname", "cat", "df", "tail", "mkdir"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    words = fake(tmp_path / "a", "0")
    said = laptop.pod("start", *words, code=2, PATH=str(tmp_path)).stderr
    assert "tmux is missing on local; type there: apt-get install tmux" in said
    (tmp_path / "python3").symlink_to(Path(sys.executable).resolve())
    said = laptop.pod("start", *words, code=2, PYTHON="", PATH=f"{tmp_path}:{os.environ['PATH']}").stderr
    assert "is not set up; type: bash setup.sh" in said
    assert not (laptop.root / ".pod" / "queue.json").exists()


def test_a_laptop_needs_no_package(laptop: Laptop, place: Place) -> None:
    # -S leaves out site-packages: what a fresh machine's python3 has
    command = [sys.executable, "-S", str(laptop.root / "lib" / "launching" / "pods"), "status", "local"]
    done = subprocess.run(command, env=laptop.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "queue: nothing was started here\n"), done.stderr


def test_a_full_disk_is_said_before_anything_starts(laptop: Laptop, place: Place, tmp_path: Path) -> None:
    disk = laptop.root / ".pod"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"0" * 4096)
        said = laptop.pod("start", *fake(tmp_path / "a", "0"), code=2).stderr
        assert f"the disk of {laptop.root} is full; make room" in said
        (disk / "filler").unlink()
        assert "nothing was started here" in laptop.pod("status").stdout
        assert not (tmp_path / "a").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.faults
def test_attach_shows_the_terminal_where_it_runs(laptop: Laptop, place: Place, tmp_path: Path) -> None:
    laptop.pod("start", *FAST, *fake(tmp_path / "a", "stop"))
    wait_for((tmp_path / "a" / "ready").exists)
    pid, terminal = pty.fork()
    if pid == 0:
        command = ["bash", str(laptop.root / "launch" / "pod.sh"), "attach", "local"]
        os.execvpe("bash", command, laptop.env | {"TERM": "xterm"})
    seen = b""
    while b"turn 0" not in seen:
        seen += os.read(terminal, 4096)
    for key in (b"\x02", b"d"):  # leave it; keys without a pause count as pasted
        os.write(terminal, key)
        time.sleep(0.1)
    with contextlib.suppress(OSError):  # the end of a terminal
        while os.read(terminal, 4096):
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert place.states() == ["running"]
    laptop.pod("stop")


@pytest.mark.faults
def test_a_run_that_was_to_be_new_goes_on_after_a_stop(laptop: Laptop, place: Place, tmp_path: Path) -> None:
    words = fake(tmp_path / "a", "stop,1,0", "1,2,3", "--resume", "never")
    laptop.pod("start", *FAST, *words)
    wait_for((tmp_path / "a" / "ready").exists)
    laptop.pod("stop")
    assert "1: goes on: scripts/fake.py" in laptop.pod("start", *FAST, *words).stdout
    assert place.ended() == ["done"]
    assert [turn["argv"][-1] for turn in place.turns(tmp_path / "a")] == ["never", "auto", "auto"]


@pytest.mark.faults
def test_up_looks_at_this_machine_with_the_real_doctor(laptop: Laptop, place: Place) -> None:
    done = laptop.pod("up", code=None)
    assert done.returncode in (0, 3) and "all-reduce" in done.stdout and " checks in " in done.stdout


@pytest.mark.faults
def test_a_disk_that_fills_up_does_not_end_the_supervisor(
    laptop: Laptop, place: Place, tmp_path: Path
) -> None:
    disk = laptop.root / ".pod"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        laptop.pod("start", *FAST, *fake(tmp_path / "a", "stop,0", "1,2"))
        wait_for((tmp_path / "a" / "ready").exists)
        with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"0" * 4096)
        os.kill(place.entries()[0]["pid"], signal.SIGKILL)
        wait_for(lambda: len(place.turns(tmp_path / "a")) == 2)
        (disk / "filler").unlink()
        assert place.ended() == ["done"]
    finally:
        place.close()
        wait_for(lambda: subprocess.run(["umount", str(disk)], capture_output=True).returncode == 0)
