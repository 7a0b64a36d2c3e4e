"""The interpreter, and the packages that are installed against those that requirements.txt names."""

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lib.base.source_code import ROOT
from lib.doctor.finding import FAIL, OK, Finding, judged

OLDEST = (3, 11)  # what setup.sh asks for
REQUIREMENTS = ROOT / "requirements.txt"
# Without these no run trains. What misses one of the others says so when it is asked for.
NEEDED: tuple[str, ...] = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "tyro")
NEEDED += ("numpy", "datasketch", "scikit-learn", "matplotlib", "jinja2", "tqdm")


def python() -> Finding:
    seen = f"{platform.python_version()} ({sys.executable})"
    facts = {"version": platform.python_version(), "executable": sys.executable}
    if sys.version_info[:2] < OLDEST:
        advice = "3.11 or newer is needed: install it (conda create -n py312 python=3.12), then bash setup.sh"
        return Finding("python", FAIL, seen, advice, facts)
    return Finding("python", OK, seen, facts=facts)


def packages(requirements: Path = REQUIREMENTS) -> Finding:
    """Other versions are a warning: the code runs on several, and a run records its own."""
    pins = re.findall(r"^([\w.-]+)==([^\s#]+)", requirements.read_text(), re.MULTILINE)
    installed = {name: _version(name) for name, _ in pins}
    missing = [name for name, _ in pins if installed[name] is None]
    # 2.13.0+cpu is a build of 2.13.0
    other = [
        f"{name} {there} instead of {pin}"
        for name, pin in pins
        if (there := installed[name]) is not None and there.partition("+")[0] != pin.partition("+")[0]
    ]
    seen = [f"{len(pins) - len(missing) - len(other)} of {len(pins)} are as {requirements.name} says"]
    seen += [f"not installed: {', '.join(missing)}"] if missing else []
    seen += [f"other versions: {', '.join(other)}"] if other else []
    facts = {"installed": installed, "missing": missing, "pins": dict(pins)}
    if stopping := [name for name in missing if name in NEEDED]:
        advice = f"nothing trains without {', '.join(stopping)}: bash setup.sh"
        return Finding("packages", FAIL, ". ".join(seen), advice, facts)
    trouble = "bash setup.sh installs what is named there" if missing or other else ""
    return judged(Finding("packages", OK, ". ".join(seen), facts=facts), trouble)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
