"""Start the workers of one machine, through torch's launcher as a library, and end with their exit code."""

import logging
import os
import sys
from pathlib import Path

from lib.exits import CRASHED, DONE, STOPPED


def launch(script: Path, argv: list[str], num_processes: int) -> int:
    """Run `script` in `num_processes` workers; the first failed worker's exit code, 75 when a signal ended
    them after they saved, 0 when all ended well."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # a worker's end is told by its exit code and by its own words
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        run_id=f"{script.stem}-{os.getpid()}",
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        elastic_launch(config, sys.executable)("-u", str(script), *argv)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else CRASHED
    except SignalException:
        return STOPPED
    return DONE
