"""The sittings of a run, in run.json: from the start of each process that worked on it to its end, and what
they cost. A process that was killed counts to its last sign of life."""

import json
import os
from collections.abc import Sequence
from datetime import datetime

from lib.base import moments
from lib.base.contents import Record, Sitting
from lib.base.exits import DONE
from lib.process import began
from lib.runs.folder import RunFolder

TAIL = 1 << 16  # bytes at the end of metrics.jsonl in which its last line begins


def begin(folder: RunFolder, price: float | None) -> None:
    """Begin one; before anything else is written, which would look like a sign of life of the one before."""
    sitting = Sitting(began=began.since_s(), ended=None, price=price)
    folder.write_record(sittings=[*ended(folder), sitting])


def ended(folder: RunFolder) -> list[Sitting]:
    """Those so far, each with an end, for nobody works on the run."""
    sittings, last_s = folder.record().get("sittings", []), last_sign_s(folder)
    return [one if one["ended"] else _until(one, last_s) for one in sittings]


def end(folder: RunFolder) -> Record:
    """What to write into run.json when this process is done."""
    sittings, now_s = folder.record().get("sittings", []), moments.now_s()
    began.count_to(now_s)
    closed = [_until(one, now_s) if one is sittings[-1] else one for one in sittings]
    money, expected = cost(closed, now_s), folder.status().get("expected")
    if money is None:
        return Record(sittings=closed)
    done = folder.status().get("exit_code") == DONE
    return Record(sittings=closed, spent=money, expected=money if done else expected)


def _until(one: Sitting, moment_s: float) -> Sitting:
    return Sitting(began=one["began"], ended=max(one["began"], moment_s), price=one["price"])


def last_sign_s(folder: RunFolder) -> float:
    """When its status or a line of metrics.jsonl was last written, by what stands in them: a copy has other
    file times. 0 when neither says."""
    signs = [_moment_of(folder.status().get("time"))]
    if folder.metrics.is_file():
        with folder.metrics.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().split(b"\n")
        signs += map(_time_in, lines[-3:])  # a kill may have cut one short, or a power loss
    return max(signs)


def _moment_of(text: str | None) -> float:
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


def _time_in(line: bytes) -> float:
    try:
        return float(json.loads(line)["time"])
    except (ValueError, KeyError, TypeError):  # of other programs, or none at all
        return 0.0


def cost(sittings: Sequence[Sitting], until_s: float) -> float | None:
    """What they cost up to a moment. None when the last of them has no price; those before it without one
    count at its price."""
    price = sittings[-1]["price"] if sittings else None
    if price is None:
        return None
    hours = [max(0.0, (one["ended"] or until_s) - one["began"]) / 3600 for one in sittings]
    return sum(each * (one["price"] or price) for each, one in zip(hours, sittings, strict=True))


def seconds(sittings: Sequence[Sitting], until_s: float) -> float:
    return sum(max(0.0, (one["ended"] or until_s) - one["began"]) for one in sittings)


def spent(folder: RunFolder) -> tuple[float, float] | None:
    """Cost and seconds of a run up to now, or to its last sign of life. None without a price."""
    held = folder.held()
    sittings, until_s = folder.record().get("sittings", []), moments.now_s() if held else last_sign_s(folder)
    money = cost(sittings, until_s)
    return None if money is None else (money, seconds(sittings, until_s))
