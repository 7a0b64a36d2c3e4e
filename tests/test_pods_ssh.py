"""launch/pod.sh over ssh: a real sshd on loopback, real rsync and tmux, one real run from start to fetch."""

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pod_host import Laptop, Place, Sshd, needs, short_folder, wait_for
from tests.tools import SHORT

CANARY = "hf_canary_that_nobody_may_see"
FAST = ("--wait-s", "0.1")
# Stand-ins for a set-up of minutes and a doctor of 15 s; the venv is one that is there already.
SETUP = f"""#!/usr/bin/env bash
mkdir -p .venv/bin && echo setup: is at work
printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' > .venv/bin/python
chmod +x .venv/bin/python && echo build > .venv/.setup
"""
DOCTOR = "import os, sys\nprint('warn  hub  token', len(os.environ['HF_TOKEN']))\nsys.exit(3)\n"


@pytest.fixture(scope="module")
def here() -> Iterator[Path]:
    needs("sshd", "ssh", "ssh-keygen", "rsync", "tmux")
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def sshd(here: Path) -> Iterator[Sshd]:
    environment = {"PATH": os.environ["PATH"], "TMUX_TMPDIR": str(here), "HF_HUB_OFFLINE": "1"}
    server = Sshd(here / "ssh d", environment)
    yield server
    server.end()


@pytest.fixture(scope="module")
def laptop(here: Path, sshd: Sshd) -> Laptop:
    """Set up by hand where it stands; its host is this machine under another name and in another folder."""
    laptop = Laptop(here)
    (laptop.root / "setup.sh").write_text(SETUP)
    (laptop.root / "scripts" / "doctor.py").write_text(DOCTOR)
    laptop.host = ["pod", "-F", str(sshd.config), "--folder", str(here / "a host" / "its project")]
    return laptop


@pytest.fixture(scope="module")
def pushed(laptop: Laptop, here: Path) -> str:
    """What `up` has said."""
    for name in (".venv/x", ".git/x", "runs/arena/x/x", ".env", ".pod/x", "lib/__pycache__/x"):
        (laptop.root / name).parent.mkdir(parents=True, exist_ok=True)
        (laptop.root / name).write_text("stays here")
    done = laptop.pod("up", code=3, HF_TOKEN=CANARY)
    shutil.rmtree(laptop.root / "runs")
    return done.stdout


@pytest.fixture
def place(laptop: Laptop, pushed: str, here: Path) -> Iterator[Place]:
    """An empty queue on the host."""
    root = here / "a host" / "its project"
    for folder in (root / ".pod", root / "runs", laptop.root / "runs"):
        shutil.rmtree(folder, ignore_errors=True)
    place = Place(root, here)
    yield place
    place.close()


def fake(*words: object) -> tuple[str, ...]:
    return ("--", "scripts/fake.py", *map(str, words))


def test_up_pushes_code_only_sets_up_and_shows_what_the_doctor_says(pushed: str, here: Path) -> None:
    root = here / "a host" / "its project"
    assert "setup: is at work" in pushed and f"warn  hub  token {len(CANARY)}" in pushed
    assert (root / "scripts" / "train.py").read_bytes() and (
        root / "launch" / "pod.sh"
    ).stat().st_mode & stat.S_IXUSR
    strangers = [file for file in root.rglob("x") if file.read_text() == "stays here"]
    assert strangers == [] and not (root / ".env").exists()


def test_before_up_start_says_what_to_type(laptop: Laptop, pushed: str, here: Path) -> None:
    words = ["start", "pod", "-F", laptop.host[2], "--folder", str(here / "else where")]
    laptop_there = Laptop(here, "another project")
    laptop_there.host = words[1:]
    said = laptop_there.pod("start", *fake("x", "0"), code=2).stderr
    assert "has no code of this project; type: launch/pod.sh up pod" in said
    assert not (here / "else where").exists()


# of SHORT, the later word counts
REAL = ["scripts/train.py", "arena", *SHORT, "--model", "tiny", "--max-steps", "150", "--epochs", "200"]
REAL += ["--eval-every", "150", "--save-every", "10", "--name", "a b"]


def test_a_real_run_survives_cut_connections_stops_goes_on_and_comes_back(
    laptop: Laptop, place: Place, sshd: Sshd
) -> None:
    laptop.pod("start", *FAST, "--", *REAL)
    listening = laptop.start("logs", "-f")
    assert listening.stdout is not None
    wait_for(lambda: "20/150" in listening.stdout.readline())  # type: ignore[union-attr]
    sshd.cut()
    listening.communicate(timeout=30)
    sshd.end()
    said = laptop.pod("status", code=2).stderr
    assert "pod is not reached (Connection refused)" in said
    sshd.begin()
    said = laptop.pod("status").stdout
    (line,) = [line for line in said.splitlines() if line.startswith("1 ")]
    assert "at work in tmux session" in said
    # state, no exit code yet, step, loss, time left
    assert re.match(r"1  running +-  +\d+/150  \d\.\d{4}  \d+ s  +scripts/train.py", line), line
    stopped = laptop.pod("stop").stdout
    assert (place.states(), place.entries()[0]["exit_code"]) == (["stopped"], 75), stopped
    step = int(next(line for line in stopped.splitlines() if line.startswith("1 ")).split()[3].split("/")[0])
    assert 20 <= step < 150
    laptop.pod("start", "--", *REAL)
    assert place.ended() == ["done"]
    (run,) = [path for path in (place.root / "runs" / "arena").iterdir() if path.name[0] != "."]
    assert place.entries()[0]["run"] == str(run) and run.name.endswith("-a b")
    steps = [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
    assert len(steps) == 150  # each step once
    # the same command once more: the run says that it is finished
    laptop.pod("start", "--", *REAL)
    assert place.ended() == ["done"] and "was finished already" in laptop.pod("status").stdout
    assert "of 1 run," in laptop.pod("fetch").stdout
    ours = laptop.root / "runs" / "arena" / run.name
    for file in run.rglob("*"):
        if file.is_file() and file.name != "lock":
            assert (ours / file.relative_to(run)).read_bytes() == file.read_bytes()


def test_fetch_goes_on_where_it_was_cut_and_takes_no_half_for_a_whole(
    laptop: Laptop, place: Place, sshd: Sshd
) -> None:
    theirs, ours = (root / "runs" / "arena" / "a b" for root in (place.root, laptop.root))
    theirs.mkdir(parents=True)
    big = os.urandom(1 << 20) * 200
    (theirs / "big").write_bytes(big)
    (theirs / "scores.json").write_text("theirs")
    (theirs / "only-there").write_text("1")
    os.utime(theirs / "scores.json", (1e9, 1e9))
    ours.mkdir(parents=True)
    (ours / "scores.json").write_text("ours, newer")
    (ours / "only-here").write_text("2")
    fetching = laptop.start("fetch")
    wait_for(lambda: sum(file.stat().st_size for file in ours.glob(".big.*")) > 1 << 20)
    sshd.cut()
    _, said = fetching.communicate(timeout=60)
    assert fetching.returncode == 75 and "type the same again" in said, said
    assert not (ours / "big").exists()
    kept = (ours / ".rsync-partial" / "big").stat().st_size
    assert 0 < kept < len(big)
    laptop.pod("fetch")
    assert (ours / "big").read_bytes() == big and not (ours / ".rsync-partial").exists()
    assert (ours / "scores.json").read_text() == "ours, newer"
    assert (ours / "only-here").read_text() == "2" and (ours / "only-there").read_text() == "1"
    assert (theirs / "scores.json").read_text() == "theirs" and (theirs / "only-there").exists()
    assert "nothing new" in laptop.pod("fetch").stdout


@pytest.mark.faults
def test_down_says_what_is_not_fetched_asks_and_ends_all_but_the_machine(
    laptop: Laptop, place: Place, tmp_path: Path
) -> None:
    laptop.pod("start", *FAST, *fake(tmp_path / "a", "stop", "5"), HF_TOKEN=CANARY)
    wait_for((tmp_path / "a" / "ready").exists)
    said = laptop.pod("down").stdout  # nobody is there to answer
    assert "not fetched yet: 1 files of 1 run" in said and "runs/arena/fake run" in said
    assert "nothing was changed" in said and place.states() == ["running"]
    said = laptop.pod("down", "--yes").stdout
    assert (place.states(), place.entries()[0]["exit_code"]) == (["stopped"], 75)
    assert "goes on billing" in said and "the disk /" in said or "the disk overlay" in said
    assert not (place.root / ".pod" / "secrets.json").exists()
    assert "nothing is at work on pod" in laptop.pod("attach", code=2).stderr


@pytest.mark.faults
def test_code_is_not_pushed_under_a_run_at_work(laptop: Laptop, place: Place, tmp_path: Path) -> None:
    laptop.pod("start", *FAST, *fake(tmp_path / "a", "stop"))
    wait_for((tmp_path / "a" / "ready").exists)
    assert "runs are at work" in laptop.pod("up", code=2).stderr
    laptop.pod("stop", "--now")
    assert place.entries()[0]["exit_code"] == -9


def test_tokens_travel_over_ssh_unseen(laptop: Laptop, place: Place, tmp_path: Path) -> None:
    seen, over = list[str](), threading.Event()

    def look() -> None:
        while not over.is_set():
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                except OSError:
                    continue
                seen.append(line) if CANARY in line or "pods.agent" in line else None
            time.sleep(0.01)

    watch = threading.Thread(target=look)
    watch.start()
    (tmp_path / "env").write_text(f"HF_TOKEN={CANARY}\n")
    laptop.pod("start", *FAST, "--env-file", str(tmp_path / "env"), *fake(tmp_path / "a", "0"))
    assert place.ended() == ["done"]
    over.set()
    watch.join()
    assert place.turns(tmp_path / "a")[0]["canary"] == CANARY
    assert seen and not any(CANARY in line for line in seen)
    kept = place.root / ".pod" / "secrets.json"
    holding = [
        path for path in place.root.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert holding == [kept] and kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("trouble", ["open key", "other key", "unknown host key", "no name", "nobody there"])
def test_what_keeps_ssh_from_the_host_is_said_with_what_to_type(
    laptop: Laptop, sshd: Sshd, trouble: str, tmp_path: Path
) -> None:
    text, host, message = sshd.config.read_text(), "pod", ""
    if trouble == "open key":
        shutil.copy(sshd.folder / "user_key", tmp_path / "a key")
        (tmp_path / "a key").chmod(0o644)
        text, message = (
            text.replace(str(sshd.folder / "user_key"), str(tmp_path / "a key")),
            f"chmod 600 '{tmp_path}/a key'",
        )
    elif trouble == "other key":
        text, message = text.replace("/user_key", "/other_key"), "pod refuses the key; put your public key"
    elif trouble == "unknown host key":
        text, message = text.replace("/known_hosts", "/no_hosts"), "type ssh -F "
    elif trouble == "no name":
        text, message = text.replace("127.0.0.1", "pod.invalid"), "there is no host pod.invalid"
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        text, message = text.replace(str(sshd.port), str(port)), "pod is not reached (Connection refused)"
    (tmp_path / "config").write_text(text)
    other = Laptop.__new__(Laptop)
    other.root, other.env = laptop.root, laptop.env
    other.host = [host, "-F", str(tmp_path / "config")]
    assert message in other.pod("start", *fake("x", "0"), code=2).stderr


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """One megabyte."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield
    finally:
        # rsync's other end may still stand there
        wait_for(lambda: subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0)


def test_a_full_disk_on_either_side_is_said(laptop: Laptop, place: Place, here: Path) -> None:
    other = Laptop.__new__(Laptop)
    other.root, other.env = laptop.root, laptop.env
    with small_disk(here / "small"):  # the project has 1.3 MB
        other.host = [*laptop.host[:3], "--folder", str(here / "small" / "x")]
        assert "a disk is full" in other.pod("up", code=2).stderr
    run = place.root / "runs" / "arena" / "x"
    run.mkdir(parents=True)
    (run / "big").write_bytes(os.urandom(2 << 20))
    with small_disk(laptop.root / "runs"):
        assert "a disk is full (rsync: [receiver]" in laptop.pod("fetch", code=2).stderr
        assert not (laptop.root / "runs" / "arena" / "x" / "big").exists()


@pytest.mark.faults
@pytest.mark.parametrize("program", ["rsync", "tmux"])
def test_a_host_without_a_program_says_what_to_type(
    laptop: Laptop, place: Place, here: Path, program: str
) -> None:
    programs = here / f"without {program}"
    programs.mkdir()
    for folder in os.environ["PATH"].split(":"):
        for file in Path(folder).iterdir() if Path(folder).is_dir() else []:
            if file.name != program and not (programs / file.name).is_symlink():
                (programs / file.name).symlink_to(file)
    server = Sshd(here / f"sshd without {program}", {"PATH": str(programs)})
    try:
        other = Laptop.__new__(Laptop)
        other.root, other.env = laptop.root, laptop.env
        other.host = ["pod", "-F", str(server.config), *laptop.host[3:]]
        words = ["up"] if program == "rsync" else ["start", *fake("x", "0")]
        said = other.pod(*words, code=2).stderr
        assert f"{program} is missing on pod; type there: apt-get install {program}" in said
    finally:
        server.end()
