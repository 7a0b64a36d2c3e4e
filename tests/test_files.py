"""One holder at a time, and none that is dead."""

import csv
import errno
import os
import signal
import subprocess
import sys
import threading
from fcntl import flock
from pathlib import Path

import pytest

from lib.base import files
from lib.base.files import Lock, read_lines, write_csv, write_lines
from tests.tools import ROOT


@pytest.fixture(params=["file", "folder"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path if request.param == "folder" else tmp_path / "new"


def test_a_held_lock_is_refused_until_it_is_released(path: Path) -> None:
    with Lock(path), pytest.raises(BlockingIOError):
        Lock(path)
    again = Lock(path)
    again.release()
    Lock(path).release()


def test_who_may_wait_gets_the_lock_after_the_one_before(path: Path) -> None:
    order, first = [], Lock(path)

    def second() -> None:
        with Lock(path, wait=True):
            order.append("second")

    waiting = threading.Thread(target=second)
    waiting.start()
    waiting.join(0.3)  # long enough to take a lock that is free
    order.append("first")
    first.release()
    waiting.join(10)
    assert order == ["first", "second"]


def test_the_lock_of_a_killed_process_is_free(path: Path) -> None:
    script = f"from pathlib import Path\nfrom lib.base.files import Lock\nlock = Lock(Path({str(path)!r}))\n"
    script += "print('held', flush=True)\ninput()"
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            Lock(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        Lock(path).release()


def test_a_lock_leaves_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("1234")
    Lock(tmp_path / "lock").release()
    assert (tmp_path / "lock").read_text() == "1234"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_locked_elsewhere(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def on_this_disk(handle: int, how: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").startswith(str(tmp_path)):
            raise OSError(number, os.strerror(number))
        flock(handle, how)

    monkeypatch.setattr(files, "flock", on_this_disk)
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: "/tmp")
    with files.Lock(tmp_path / "lock"), pytest.raises(BlockingIOError):
        files.Lock(tmp_path / "lock")
    files.Lock(tmp_path / "lock").release()
    assert capsys.readouterr().out == ""

    def nowhere(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "flock", nowhere)
    files.Lock(tmp_path / "lock").release()
    assert "cannot be locked" in capsys.readouterr().out


def test_a_disk_without_hard_links_gets_new_files_and_keeps_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*paths: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuses)
    files.write_text(tmp_path / "new.txt", "one", new=True)
    with pytest.raises(ValueError, match="was made by somebody else meanwhile"):
        files.write_text(tmp_path / "new.txt", "two", new=True)
    assert [path.name for path in tmp_path.iterdir()] == ["new.txt"]
    assert (tmp_path / "new.txt").read_text() == "one"


@pytest.mark.parametrize("cell", ["a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", " a "])
def test_a_csv_gives_back_what_was_written(tmp_path: Path, cell: str) -> None:
    write_csv(tmp_path / "rows.csv", [{"id": cell, "x": "1"}, {"id": "2", "x": cell}])
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"id": cell, "x": "1"}, {"id": "2", "x": cell}]


def test_a_name_may_be_as_long_as_a_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 249 + ".jsonl")
    write_lines(path, [1], new=True)
    assert read_lines(path) == [1]
