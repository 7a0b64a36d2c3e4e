"""A console that goes away ends nothing: what was asked of the run is done, and saved."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

from tests.tools import ROOT, SHORT, only_run, start, status

LONG = [*SHORT, "--model", "tiny", "--init", "random", "--max-steps", "100000", "--epochs", "1e5"]


def test_printing_into_a_closed_pipe_is_no_error_and_python_ends_with_0() -> None:
    script = "from lib.console import speak\nfor _ in range(3): speak('x' * 100000)\n"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 0


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
