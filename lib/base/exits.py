"""How a program of this project ends: the exit codes, and the exceptions that carry them.

0 done; 2 bad input or configuration (ValueError); 3 refused by a check; 4 failed in a way that would repeat;
75 stopped and resumable; anything else is a crash and may be retried.
"""

import atexit
import errno
import io
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lib.base.console import speak

CODES = "EXIT_CODES_FOLDER"  # a launcher's variable: where each worker leaves its exit code
DONE, BAD_INPUT, REFUSED, REPEATS, STOPPED, CRASHED = 0, 2, 3, 4, 75, 1


class CheckError(Exception):
    """Refused by a check: does not fit, changed fingerprint, leaking rows, not comparable (exit 3)."""


class RepeatsError(Exception):
    """Failed in a way that would repeat: non-finite loss, all checkpoints bad, disk full (exit 4)."""


class StoppedError(Exception):
    """Stopped by a signal or a limit, with everything saved; the same command goes on (exit 75)."""


KINDS: dict[int, type[Exception]] = {
    BAD_INPUT: ValueError,
    REFUSED: CheckError,
    REPEATS: RepeatsError,
    STOPPED: StoppedError,
}


def code_of(error: BaseException) -> int:
    """The exit code of an exception."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return REPEATS
    for code, kind in KINDS.items():
        if type(error) is kind:  # a subclass of ValueError from a library is a crash, not the user's doing
            return code
    return CRASHED


def run(function: Callable[[], int | None], quiet: bool = False) -> int:
    """Call `function`; turn what it raises into a message (unless `quiet`) and an exit code. Crashes keep
    their traceback."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # of a pipe that is none of Python's own
            if isinstance(stream, io.TextIOWrapper):  # a name or a row that the console has no letters for
                stream.reconfigure(errors="backslashreplace")
    try:
        code = function() or DONE
    except KeyboardInterrupt:
        code = STOPPED
    except BrokenPipeError as error:  # whoever read what is said here (`head`, say) has left
        speak(f"ended early: {error}", sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = CRASHED
    except Exception as error:
        code = code_of(error)
        if code == CRASHED:
            speak(traceback.format_exc(), sys.stderr)
        elif not quiet:
            words = {BAD_INPUT: "error", REFUSED: "refused", REPEATS: "failed", STOPPED: "stopped"}[code]
            speak(f"{words}: {error}", sys.stderr)
    _leave(code)
    return code


def leave(code: int) -> NoReturn:
    """End the process, as sys.exit does. Where DeepSpeed was at work a C++ thread may still run when Python
    takes down what it belongs to, and abort a process that has done all (SIGABRT in one of ten, two ranks on
    CPUs): there, what Python does at its end is done first, and nothing is taken down."""
    if "deepspeed" in sys.modules:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def end_now(code: int) -> None:
    """From a thread, while the rest of the process cannot be reached."""
    _leave(code)
    os._exit(code)


def _leave(code: int) -> None:
    """The code, where a launcher wants it."""
    if folder := os.environ.get(CODES):
        with suppress(OSError):  # a launcher that is gone took its folder along
            (Path(folder) / str(os.getpid())).write_text(str(code))
