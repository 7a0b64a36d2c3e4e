"""How findings are said, and the exit code that they mean."""

import time
from collections.abc import Iterable
from dataclasses import asdict

from lib.base.console import speak, speak_json
from lib.base.exits import DONE, REFUSED
from lib.doctor.finding import FAIL, WARN, Finding

BEGUN_S = time.monotonic()  # of the program, nearly


def say(findings: Iterable[Finding], as_json: bool) -> int:
    """Each as soon as it is there (as JSON: one object at the end). 0, or 3 when one of them fails."""
    all_of_them = []
    for finding in findings:
        all_of_them.append(finding)
        if not as_json:
            speak(finding.line())
    fails = sum(finding.status == FAIL for finding in all_of_them)
    warns = sum(finding.status == WARN for finding in all_of_them)
    seconds = time.monotonic() - BEGUN_S
    if not all_of_them:  # one of several ranks, for which another speaks
        return DONE
    if as_json:
        counts = {"ok": not fails, "fails": fails, "warns": warns, "seconds": round(seconds, 1)}
        speak_json(counts | {"checks": [asdict(finding) for finding in all_of_them]})
    elif len(all_of_them) > 1:
        well = len(all_of_them) - fails - warns
        speak(f"{len(all_of_them)} checks in {seconds:.0f} s: {well} ok, {warns} warn, {fails} fail")
    return REFUSED if fails else DONE
