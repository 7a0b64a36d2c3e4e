"""Moments and spans of time as people type and read them: 2026-12-01T06:00, 90m, 8h, 2d."""

import re
import time
from datetime import datetime

SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def now_s() -> float:
    """Seconds since 1970."""
    return time.time()


def moment_s(text: str) -> float:
    """Seconds since 1970 at a moment, of the local time zone unless it names one, or a span from now. Raises
    ValueError."""
    try:
        if span := SPAN.fullmatch(text):
            return datetime.fromtimestamp(now_s() + float(span[1]) * UNITS[span[2]]).timestamp()
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:  # no date, or one that no calendar has
        raise ValueError(
            f"{text!r} is no time; write one like 2026-12-01T06:00 (local, unless it ends in +01:00 or Z), "
            "or a span from now like 90m, 8h, 2d"
        ) from error


def written(moment: float) -> str:
    """1764568800.0 -> 2025-12-01T07:00:00+01:00, as the clock here shows it."""
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


def span(seconds: float) -> str:
    """0.81 -> 0.81 s, 45.3 -> 45 s, 340 -> 5 min 40 s, 662 -> 11 min, 3725 -> 1 h 2 min"""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    if seconds < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def amount(money: float) -> str:
    """Of any currency: 0.0071 -> 0.007, 3.4 -> 3.40, 1234.5 -> 1,234"""
    return f"{money:,.0f}" if money >= 100 else f"{money:.2f}" if money >= 1 else f"{money:.3f}"
