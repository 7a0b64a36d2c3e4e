"""A process forked by the server is what a fresh Python would have been."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

TELL = """
import json, os, sys
print(json.dumps({"argv": sys.argv, "name": __name__, "path": sys.path[0], "cwd": os.getcwd(),
    "parent": os.getppid(), "session": os.getsid(0) == os.getpid(), "environment": dict(os.environ),
    "stdin": sys.stdin.read(), "ours": [name for name in sys.modules if name.split(".")[0] == "lib"],
    "slow": "torch" in sys.modules, "files": sorted(os.listdir("/proc/self/fd"))}))
print("to stderr", file=sys.stderr)
sys.exit(7)
"""


def script(folder: Path, text: str) -> list[str]:
    (folder / "script.py").write_text(text)
    return [sys.executable, str(folder / "script.py")]


def test_words_environment_folder_streams_and_exit_code_are_the_callers(tmp_path: Path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLOUR": "teal"}
    told = []
    for kind in (warm.Popen, subprocess.Popen):
        process = kind(
            [*script(tmp_path, TELL), "--some", "words"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment,
            text=True,
            start_new_session=True,
        )
        out, err = process.communicate("a question")
        assert (process.returncode, err) == (7, "to stderr\n")
        told.append(json.loads(out))
    forked, fresh = told
    assert forked.pop("slow") and not fresh.pop("slow")
    assert forked == fresh
    assert forked["parent"] == os.getpid() and not forked["ours"]


def test_signals_and_kill_9_arrive_and_are_told(tmp_path: Path) -> None:
    text = "import sys, time\nprint('here', flush=True)\ntime.sleep(600)\n"
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP):
        process = warm.Popen(
            script(tmp_path, text), stdout=subprocess.PIPE, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        assert process.stdout is not None and process.stdout.readline() == b"here\n"
        process.send_signal(number)
        assert process.wait(20) == -number
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run(script(tmp_path, text), 0.5, os.environ | {"HF_HUB_OFFLINE": "1"})


def test_a_variable_that_modules_read_when_imported_is_not_ignored(tmp_path: Path) -> None:
    text = "import sys\nprint('torch' in sys.modules)\n"
    for threads, forked in (("1", "True"), ("2", "False")):
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads}
        assert warm.run(script(tmp_path, text), 60, environment).stdout.strip() == forked


def test_a_traceback_is_printed_and_ends_with_1(tmp_path: Path) -> None:
    done = warm.run(script(tmp_path, "1 / 0"), 60, os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1 and done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
