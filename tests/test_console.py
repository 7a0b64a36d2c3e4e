"""A console that goes away ends nothing: what was asked of the run is done, and saved."""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lib.base.console import Meter, in_columns
from lib.base.files import write_csv, write_text
from tests.tools import ROOT, SHORT, only_run, start, status

LONG = [*SHORT, "--model", "tiny", "--init", "random", "--max-steps", "100000", "--epochs", "1e5"]


def test_printing_into_a_closed_pipe_is_no_error_and_python_ends_with_0() -> None:
    script = "from lib.base.console import speak\nfor _ in range(3): speak('x' * 100000)\n"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 0


def test_a_long_line_is_broken_between_words_and_what_is_typed_again_is_not() -> None:
    line = "  one two three /a/path/that-is/longer_than_the_line --a-flag"
    # 12 columns: "  one two" (9) has no room for three; what follows stands two letters further in
    assert in_columns(line, 12).splitlines() == [
        "  one two",
        "    three",
        "    /a/path/that-is/longer_than_the_line",
        "    --a-flag",
    ]
    assert in_columns("short\n\n  kept   as it is", 20) == "short\n\n  kept   as it is"


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr("lib.base.console.time", clock)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    return clock


def test_a_meter_says_how_far_how_fast_and_how_long_yet(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Meter(100, "rows", done=20) as meter:
        clock.now_s += 10
        meter.step(40)  # 20 new ones in 10 s, so the other 60 take 30 s
        clock.now_s += 10
        meter.step(102)  # about: never more than there are
    assert capsys.readouterr().out == "40 of 100 rows, 2/s, 30 s left\n100 of 100 rows, 4/s, 0 s left\n"
    Meter(None, "rows").step(7)
    assert capsys.readouterr().out.startswith("7 rows, ")  # of nobody knows how many


def test_a_meter_keeps_silent_between_two_lines_and_where_it_is_not_shown(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    meters = Meter(9, "rows", every_s=30), Meter(9, "rows", every_s=30, shown=False)
    for done, now_s in enumerate((129, 130, 159, 161), 1):
        clock.now_s = now_s
        for meter in meters:
            meter.step(done)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["2", "4"]


BAR = """
import time
from lib.base.console import Meter, in_columns
from lib.base.files import write_csv, write_text
with Meter(3, "rows") as meter:
    time.sleep(0.2)  # tqdm draws ten times a second at most
    meter.step(2)
    meter.speak("a line above it")
"""


def pieces_of(master: int) -> Iterator[str]:
    """What was written to a terminal that nobody writes to any more."""
    with suppress(OSError):
        while piece := os.read(master, 4096):
            yield piece.decode()
    os.close(master)


def test_on_a_terminal_a_meter_is_a_bar_and_lines_stand_above_it() -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    words = [sys.executable, "-c", BAR]
    subprocess.run(words, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, timeout=60, check=True)
    os.close(slave)
    seen = "".join(pieces_of(master))
    assert "2/3 [" in seen and "s left" not in seen  # no lines of its own
    assert "\ra line above it\r\n" in seen  # the bar had made room
    assert not "".join(seen.split("\r")[-2:]).strip()  # at the end it is gone


def test_a_run_fits_a_terminal_of_80_and_says_something_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks, stopped by Ctrl-C: no line is wider, the stop is said once, by nobody but us, and nothing is
    left where temporary files are."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    words = ["arena", *LONG, "--devices", "2", "--runs-dir", str(tmp_path / "runs"), "--log-every", "1"]
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    process = start(*words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    seen = ""
    while " 3/1" not in seen:
        seen += os.read(master, 4096).decode()
    os.killpg(process.pid, signal.SIGINT)
    seen += "".join(pieces_of(master))
    assert process.wait(60) == 75
    lines = re.split(r"\r\n|\r", re.sub(r"\x1b\[\w", "", seen))
    wide = [line for line in lines if len(line) > 79 and str(tmp_path) not in line]
    assert not wide, wide
    assert lines[0].startswith("arena: tiny on sample") and "run folder" in lines[1]
    assert seen.count("stopped: ") == 1 and "death signal" not in seen and "goes on from there" in seen
    left = [path.name for path in (tmp_path / "tmp").iterdir() if path.name != "torchinductor_root"]
    assert not left, left  # that one is torch's cache


def test_a_terminal_that_hangs_up_saves_the_run(tmp_path: Path) -> None:
    """Closing the terminal sends SIGHUP and makes every later word to it an error."""
    master, slave = pty.openpty()
    words = ["arena", *LONG, "--runs-dir", str(tmp_path), "--eval-every", "100000"]
    process = start(*words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    seen = b""
    while b"2/100000" not in seen:
        seen += os.read(master, 4096)
    os.close(master)
    time.sleep(1)  # it goes on without its console ...
    assert process.poll() is None
    process.terminate()  # ... and stops when it is told to
    assert process.wait(60) == 75
    folder = only_run(tmp_path)
    assert status(folder)["exit_code"] == 75
    assert (folder / "checkpoints" / f"step-{status(folder)['step']:06d}").is_dir()


def test_nothing_dies_of_a_letter_that_cannot_be_written(tmp_path: Path) -> None:
    """Half an emoji, a foreign byte in a file's name: in files as their numbers, on an ASCII console too."""
    write_text(tmp_path / "page.html", "\ud83d and stra\udcdfe")
    assert (tmp_path / "page.html").read_text() == "\\ud83d and stra\\udcdfe"
    write_csv(tmp_path / "rows.csv", [{"id": "\ud83d"}])
    assert (tmp_path / "rows.csv").read_text() == "id\n\\ud83d\n"
    program = "from lib.base import exits; exits.run(lambda: print('straße \\udcdf'))"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "stra\\xdfe \\udcdf\n")
