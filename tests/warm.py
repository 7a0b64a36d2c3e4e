"""Python processes that need not import torch again: a server imports it once and forks for each script.

`Popen` is subprocess.Popen, but scripts begin within milliseconds instead of five seconds. Such a process has
a pid of its own and whoever asked for it is its parent, so exit codes, signals and kill -9 are the real ones;
it gets its words, environment, folder and streams, and runs the script as __main__, this project's modules
imported anew. Only what was read before the fork is common to all: modules of others, variables in
READ_AT_IMPORT (where they differ, a fresh process is started) and the seed of Python's hashes. What is about
a fresh interpreter needs subprocess.Popen.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# what costs time to import; modules of this project are left for each process
SLOW = ["torch", "torch._dynamo", "torch.distributed.launcher.api", "torch.distributed.tensor", "accelerate"]
SLOW += ["transformers.modeling_utils", "transformers.generation.continuous_batching", "peft", "bitsandbytes"]
SLOW += [f"transformers.models.{name}.modeling_{name}" for name in ("auto", "bert", "llama", "t5")]
SLOW += ["transformers.models.auto.tokenization_auto", "transformers.loss.loss_utils", "safetensors.torch"]
SLOW += ["sklearn.linear_model", "sklearn.metrics", "scipy.stats", "pandas", "datasets", "datasketch"]
SLOW += ["matplotlib.figure", "matplotlib.backends.backend_svg", "jinja2", "optuna", "tyro"]
READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "CUDA_", "OMP_", "MKL_", "PYTHONHASHSEED", "PYTHONPATH")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST = 1 << 17  # bytes of a request: words and environment
PR_SET_CHILD_SUBREAPER = 36


class Server:
    """The asking end: a process, a child of this one, that forks when it is told to."""

    def __init__(self, end: socket.socket, environment: dict[str, str]) -> None:
        self.end, self.environment = end, environment

    def fork(self, request: dict[str, Any], streams: list[int]) -> int:
        """The pid of a new child of this process."""
        # The server's child forks once more and ends; whom it leaves behind becomes a child of the nearest
        # ancestor that takes in orphans: for the moment, this process.
        _take_in_orphans(True)
        try:
            socket.send_fds(self.end, [json.dumps(request).encode()], streams)
            pid = int(self.end.recv(100))
            assert self.end.recv(100) == b"ready"
        finally:
            _take_in_orphans(False)
        return pid

    def fits(self, environment: dict[str, str]) -> bool:
        """Would a fresh process be the same? CUDA does not survive a fork."""
        return _read_at_import(environment) == self.environment and not Path("/dev/nvidiactl").exists()


def _take_in_orphans(yes: bool) -> None:
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0) == 0


def _read_at_import(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}


@functools.cache
def server() -> Server:
    """This process' own; a forked process, which may start workers, has one from its beginning."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-u", __file__, str(there.fileno())]
    subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[there.fileno()])
    there.close()
    return Server(here, _read_at_import(environment))


class Popen(subprocess.Popen):
    """subprocess.Popen, where `args` are a Python, maybe -u, a script and its words."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        _, _, _, _, cwd, env, _, _, _, read_in, _, _, write_out, _, write_err, *_ = rest
        start_new_session, words = rest[-2], [str(word) for word in args if word != "-u"]
        environment = dict(os.environ if env is None else env)
        if words[0] != sys.executable or words[1][-3:] != ".py" or not server().fits(environment):
            return super()._execute_child(args, *rest)  # type: ignore[misc]
        request = {
            "words": words[1:],
            "environment": environment,
            "cwd": str(cwd or Path.cwd()),
            "new_session": start_new_session,
        }
        streams = [own if fd == -1 else fd for own, fd in enumerate((read_in, write_out, write_err))]
        self.pid = server().fork(request, streams)
        self._child_created = True
        self._close_pipe_fds(*rest[9:15])  # type: ignore[attr-defined]


def run(args: list[str], timeout: float, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """subprocess.run with `Popen`; text is captured."""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Popen(args, env=env, **pipes) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(args, process.wait(), out, err)


def serve(end: socket.socket) -> dict[str, Any]:
    """Fork for each request, until nobody is left to ask. Returns in the forked processes only."""
    for number in SIGNALS:  # of a terminal or a process group: whoever asks decides when this ends
        signal.signal(number, signal.SIG_IGN)
    while True:
        message, streams, _, _ = socket.recv_fds(end, LONGEST, 3)
        if not message:
            os._exit(0)
        between = os.fork()
        if between == 0:
            between = os.getpid()
            if pid := os.fork():
                end.send(str(pid).encode())
                os._exit(0)
            while os.getppid() == between:
                time.sleep(0.001)
            end.close()
            return _become(json.loads(message), streams)
        os.waitpid(between, 0)
        for fd in streams:
            os.close(fd)
        end.send(b"ready")


def _become(request: dict[str, Any], streams: list[int]) -> dict[str, Any]:
    """Make this process one that was started with these words, environment, folder and streams."""
    if request["new_session"]:
        os.setsid()
    for own, fd in enumerate(streams):
        os.dup2(fd, own)
    for fd in streams:
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.modules["numpy"].random.seed()  # Python's own is drawn anew at every fork
    return request


def _serve_workers() -> dict[str, Any] | None:
    """Give this process, which has not begun yet, a server for the workers it may start. Returns their
    request in a worker."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        here.close()
        return serve(there)
    there.close()
    mine = Server(here, _read_at_import(dict(os.environ)))
    sys.modules["tests.warm"].server = lambda: mine  # type: ignore[attr-defined]
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = Popen  # type: ignore[misc]
    return None


def main(end: socket.socket) -> None:
    for name in SLOW:
        with contextlib.suppress(ImportError):  # what is not needed for everything may be missing
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector would write to, and so copy, every page of what all share
    threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    assert len(threads) - threads.count("jemalloc_bg_thd") == 1, (
        f"no fork would have these threads: {threads}"
    )
    request = serve(end)
    if "--devices" in request["words"] and "RANK" not in request["environment"]:
        request = _serve_workers() or request
    script = request["words"][0]
    sys.argv, sys.path[0] = request["words"], str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from tests import warm

    warm.main(socket.socket(fileno=int(sys.argv[1])))
