"""One check in a process of its own: python -m lib.doctor.worker devices.bf16 WORDS SECONDS"""

import importlib
import json
import math
import os
import signal
import sys
from dataclasses import asdict
from typing import NoReturn

from lib.doctor.finding import Finding, caught
from lib.doctor.runner import MARK


def leave(finding: Finding) -> NoReturn:
    """Say it and end at once: what torch or a driver does at its end is nobody's business here."""
    sys.stdout.write(f"\n{MARK}{json.dumps(asdict(finding))}\n")
    sys.stdout.flush()
    os._exit(0)


def main(what: str, words: str, limit_s: str) -> NoReturn:
    """Make the check. An alarm ends this process when whoever started it is gone and nothing else does."""
    signal.alarm(math.ceil(float(limit_s)) + 1)
    module, _, function = what.partition(".")

    def look() -> Finding:
        found: Finding = getattr(importlib.import_module(f"lib.doctor.{module}"), function)(
            **json.loads(words)
        )
        return found

    leave(caught(function, look))


if __name__ == "__main__":
    main(*sys.argv[1:])
