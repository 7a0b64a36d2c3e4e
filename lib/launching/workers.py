"""Start the workers of one machine, through torch's launcher as a library, and end with their exit code."""

import logging
import os
import sys
import tempfile
from pathlib import Path

from lib.base.console import speak
from lib.base.exits import BAD_INPUT, CODES, CRASHED, DONE, REFUSED, REPEATS, STOPPED
from lib.process.launcher import STARTED_BY

PATIENCE_S = 3600  # for workers to save after a signal; torch kills them after 30 s by default, in mid-step


def launch(script: Path, argv: list[str], num_processes: int) -> int:
    """Run `script` in `num_processes` workers; the exit code of a worker that failed for good, else the first
    failed worker's, 75 when a signal ended them and all of them say that they saved, 0 when all ended
    well."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # a worker's end is told by its exit code and by its own words, a signal by those who heard it
    for name in ("multiprocessing.api", "agent.server.api"):
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as own:
        config = LaunchConfig(
            run_id=f"{script.stem}-{os.getpid()}",
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port
            max_restarts=0,
            shutdown_timeout=PATIENCE_S,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=f"{own}/logs"),  # else it leaves a folder behind
        )
        codes = Path(own) / "codes"
        codes.mkdir()
        os.environ |= {CODES: str(codes), STARTED_BY: str(os.getpid())}
        try:
            elastic_launch(config, sys.executable)("-u", str(script), *argv)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            return _code_after_failure(_codes_in(codes), failure.exitcode)
        except SignalException:
            return _code_after_signal(_codes_in(codes), num_processes)
        finally:
            for name in (CODES, STARTED_BY):  # for the workers, not for this process
                del os.environ[name]
    return DONE


def _codes_in(codes: Path) -> list[int]:
    texts = (file.read_text() for file in codes.iterdir())
    return [int(text) for text in texts if text]  # empty: it was killed as it wrote


def _code_after_failure(codes: list[int], first: int) -> int:
    """A worker that knows a reason not to try again has the last word: another may have noticed only that a
    worker was gone, or have stopped well."""
    return next((code for code in (REPEATS, REFUSED, BAD_INPUT) if code in codes), max(first, CRASHED))


def _code_after_signal(codes: list[int], num_processes: int) -> int:
    """0 when all workers were done already, 75 when all of them stopped by themselves."""
    if len(codes) == num_processes and set(codes) <= {DONE, STOPPED}:
        return STOPPED if STOPPED in codes else DONE
    well = sum(code in (DONE, STOPPED) for code in codes)
    speak(f"stopped by a signal, but only {well} of {num_processes} workers ended well", sys.stderr)
    return min(set(codes) - {DONE, STOPPED}, default=CRASHED)
