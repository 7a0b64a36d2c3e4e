"""What the ranks of a group are asked to do, and what their times say. Needs no torch."""

from dataclasses import dataclass
from typing import Literal

from lib.doctor.finding import MB, OK, Finding

Fault = Literal["none", "hang", "die", "wrong"]
FIRST = 1 << 20  # bytes of the first exchange
SIZES = (8, 1 << 20, 1 << 24, 1 << 26)  # bytes to measure with; 8 are nothing but latency
FEW = 1024


@dataclass(frozen=True)
class Order:
    limit_s: float
    """From the moment a rank has imported torch."""
    sizes: tuple[int, ...] = ()
    """Bytes to measure with, after the first exchange."""
    store: str | None = None
    """A file through which the ranks of this machine find each other. None: as torchrun says."""
    fault: Fault = "none"
    """What the last rank does wrong, to see that it is noticed."""


def in_bytes(size: int) -> str:
    return f"{size} bytes" if size < FEW else f"{size >> 20} MiB"


def measured(finding: Finding) -> list[Finding]:
    """What the sizes of a finding say, in lines of their own."""
    sizes = finding.facts.get("sizes", [])
    if finding.status != OK or not sizes:
        return []
    if finding.facts["ranks"] == 1:
        return [Finding("bandwidth", OK, "one rank sends nothing, so there is nothing to measure")]
    few, many = [], []
    for one in sizes:
        if one["bytes"] < FEW:
            few.append(f"{one['median_s'] * 1e3:.2f} ms for {in_bytes(one['bytes'])}")
        else:
            many.append(f"{one['bytes_per_s'] / MB:,.0f} MB/s for {in_bytes(one['bytes'])}")
    words = f"{', '.join(many)} (medians; 2(n-1)/n of the bytes by the time of the slowest rank)"
    return [Finding("latency", OK, ", ".join(few)), Finding("bandwidth", OK, words)]
