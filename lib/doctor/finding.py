"""What one check has seen: ok, warn or fail, in one line for people, and the same facts for programs."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from lib.base.hub import first_line

OK: Literal["ok"] = "ok"
WARN: Literal["warn"] = "warn"
FAIL: Literal["fail"] = "fail"
GB, MB = 1e9, 1e6  # as makers of disks and networks count


@dataclass(frozen=True)
class Finding:
    name: str
    status: Literal["ok", "warn", "fail"]
    seen: str
    advice: str = ""
    """What to type; empty when all is well."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON values only."""

    def line(self) -> str:
        """For people. What others said may have line breaks; a finding is one line."""
        words = f"{self.seen}; {self.advice}" if self.advice else self.seen
        return f"{self.status:4}  {self.name:12}  {' '.join(words.split())}"

    def named(self, name: str) -> "Finding":
        """The same under another name."""
        return dataclasses.replace(self, name=name)


def judged(finding: Finding, *troubles: str) -> Finding:
    """The finding as it is, or as a warning with what `troubles` (empty ones do not count) say to do."""
    advice = "; ".join(filter(None, troubles))
    return dataclasses.replace(finding, status=WARN, advice=advice) if advice else finding


def raised(name: str, error: BaseException) -> Finding:
    """A check that could not be made."""
    return Finding(name, FAIL, f"{type(error).__name__}: {first_line(error)}", "the check could not be made")


def caught(name: str, look: Callable[[], Finding]) -> Finding:
    """What `look` finds; whatever it raises is a finding too: one broken part must not hide the others."""
    try:
        return look()
    except Exception as error:  # each library, and each version of it, has its own
        return raised(name, error)
