"""What the tests of pods use: a copy of the project, a tmux server of its own, a real sshd on loopback."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.tools import OFFLINE, ROOT

Done = subprocess.CompletedProcess[str]
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
# Writes down its words and settings, and ends with the next of its codes; "stop": with 75 after SIGTERM. Its
# third word: the steps that its run has saved by then.
FAKE = """
import json, os, signal, sys, time
from pathlib import Path
folder, codes = Path(sys.argv[1]), sys.argv[2].split(",")
steps = sys.argv[3].split(",") if len(sys.argv) > 3 else []
folder.mkdir(parents=True, exist_ok=True)
turn = len(list(folder.glob("turn-*")))
(folder / f"turn-{turn}").write_text(json.dumps({
    "pid": os.getpid(), "time": time.time(), "argv": sys.argv[1:],
    "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "canary": os.environ.get("HF_TOKEN"),
}))
print(f"turn {turn}", flush=True)
if steps:
    run = Path("runs/arena/fake run") / folder.name
    run.mkdir(parents=True, exist_ok=True)
    print(f"run folder {run} (report.html in it when done)", flush=True)
    (run / "status.json").write_text(json.dumps({"step": int(steps[turn]), "num_steps": 100}))
code = codes[min(turn, len(codes) - 1)]
if code == "stop":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (folder / "ready").touch()
    time.sleep(300)
    code = "9"
if code == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.05)
sys.exit(int(code))
"""


def needs(*programs: str) -> None:
    """Skip, saying why."""
    there = {name: SSHD if name == "sshd" else shutil.which(name) for name in programs}
    if missing := [name for name, path in there.items() if path is None]:
        pytest.skip(f"{' and '.join(missing)} not installed on this machine")


def wait_for(what: Callable[[], Any], limit_s: float = 120.0) -> Any:
    """The first true value."""
    end_s = time.monotonic() + limit_s
    while not (value := what()):
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.05)
    return value


class Laptop:
    """A copy of the project from which pod.sh is typed."""

    def __init__(self, folder: Path, name: str = "a project") -> None:
        self.root = folder / name
        ignored = shutil.ignore_patterns("__pycache__")
        for part in ("lib", "scripts", "launch"):
            shutil.copytree(ROOT / part, self.root / part, ignore=ignored)
        (self.root / "scripts" / "fake.py").write_text(FAKE)
        ours = ("HF_", "WANDB_", "CUDA_VISIBLE", "TMUX", "PYTHONPATH", "EXIT_CODES")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.env |= {"PYTHON": sys.executable, "TMUX_TMPDIR": str(folder), **OFFLINE}
        self.host: list[str] = ["local"]

    def start(self, verb: str, *words: str, **env: str) -> subprocess.Popen[str]:
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            ["bash", str(self.root / "launch" / "pod.sh"), verb, *self.host, *words],
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            cwd=self.root.parent,
            **pipes,
        )

    def pod(self, verb: str, *words: str, code: int | None = 0, **env: str) -> Done:
        """Type it, and see the exit code (None: any)."""
        with self.start(verb, *words, **env) as process:
            try:
                out, err = process.communicate(timeout=240)
            finally:
                process.kill()
        assert code in (None, process.returncode), out + err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Place:
    """The project's folder on a host, as seen by a test that stands there."""

    def __init__(self, root: Path, tmux_folder: Path) -> None:
        self.root, self.tmux_folder = root, tmux_folder

    def entries(self) -> list[dict[str, Any]]:
        tree: dict[str, Any] = json.loads((self.root / ".pod" / "queue.json").read_text())
        entries: list[dict[str, Any]] = tree["entries"]
        return entries

    def states(self) -> list[str]:
        return [entry["state"] for entry in self.entries()]

    def supervisor(self) -> int:
        return int((self.root / ".pod" / "supervisor.lock").read_text().split()[0])

    def phase(self) -> str:
        return str(json.loads((self.root / ".pod" / "queue.json").read_text())["phase"])

    def ended(self) -> list[str]:
        """The states, when the supervisor has ended by itself."""
        wait_for(lambda: self.phase() in ("idle", "stopped"))
        return self.states()

    def turns(self, folder: Path) -> list[dict[str, Any]]:
        files = sorted(folder.glob("turn-*"), key=lambda file: int(file.name[5:]))
        return [json.loads(file.read_text()) for file in files]

    def close(self) -> None:
        """End what a test has left: its tmux server, its commands."""
        environment = os.environ | {"TMUX_TMPDIR": str(self.tmux_folder)}
        subprocess.run(["tmux", "kill-server"], env=environment, capture_output=True)
        for entry in self.entries() if (self.root / ".pod" / "queue.json").exists() else []:
            if entry["pid"]:
                with suppress(ProcessLookupError):
                    os.kill(entry["pid"], signal.SIGKILL)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A socket's path has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="pod "))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Sshd:
    """A server for this user, with keys and settings of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("host_key", "user_key", "other_key"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(make, check=True)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        values = " ".join(f'"{name}={value}"' for name, value in environment.items())
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\n"
            f'HostKey "{folder}/host_key"\nAuthorizedKeysFile "{folder}/authorized_keys"\n'
            f"PidFile none\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\nSetEnv {values}\n"
        )
        host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        self.config = folder / "ssh_config"
        self.config.write_text(
            f"Host pod\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
            f'  IdentityFile "{folder}/user_key"\n  IdentitiesOnly yes\n  IdentityAgent none\n'
            f'  UserKnownHostsFile "{folder}/known_hosts"\n  GlobalKnownHostsFile /dev/null\n'
        )
        self.process: subprocess.Popen[str] | None = None
        self.begin()

    def begin(self) -> None:
        """Skips where a server cannot run on this machine."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as every distribution's start of it does
        command = [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self.log = (self.folder / "log").open("a+")
        self.process = subprocess.Popen(command, stderr=self.log, text=True)
        wait_for(lambda: self._answers() or self._ended(), 20)
        if self._ended():
            self.log.seek(0)
            pytest.skip(f"sshd does not start here: {self.log.read().strip()}")

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def children(self) -> list[int]:
        """Its process for each connection."""
        assert self.process is not None
        file = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in file.read_text().split()]

    def cut(self) -> None:
        """Every connection, without a word."""
        for pid in self.children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.log.close()
