"""What scripts/evaluate.py was asked -> what it found, in words and for programs."""

from pathlib import Path
from typing import Any

from lib.base.console import speak
from lib.evaluation import ask_twins, rescore, try_prompts
from lib.evaluation.options import Options
from lib.evaluation.trained import OtherRows
from lib.runs import resume
from lib.runs.folder import RunFolder, find

Found = tuple[str, Any]  # words for people, JSON values


def evaluate(asked: Options) -> Found:
    """Raises ValueError, CheckError, RepeatsError, StoppedError."""
    if asked.model is not None:
        _refuse(asked, "--model tries prompts without a run", "twins", "from_artifact", "moved_to")
        tried = try_prompts.try_prompts(asked.model, asked)
        return tried.in_words(), tried
    _refuse(asked, "a run has its own prompt and model; name --model to try prompts on one", "prompt_file")
    run = find(asked.run, asked.runs_dir)
    speak(f"scoring {run}")
    if asked.moved_to is not None:
        resume.settle_at(RunFolder(run), asked.moved_to)
    return _twins(asked, run) if asked.twins else _rescored(asked, run)


def _rescored(asked: Options, run: Path) -> Found:
    other = None if asked.data is None else OtherRows(asked.data, asked.columns)
    found = rescore.rescore(run, asked.split, other, asked.threads, asked.from_artifact)
    return found.in_words(), {
        "folder": found.folder,
        "same": found.same,
        "notes": found.notes,
        **found.now,
    }


def _twins(asked: Options, run: Path) -> Found:
    _refuse(asked, "--twins asks the run's own rows", "data", "columns", "from_artifact")
    found = ask_twins.ask(run, asked.split or "test", asked.threads)
    return found.in_words(), found.found


def _refuse(asked: Options, why: str, *names: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(asked, name)]
    if given:
        raise ValueError(f"{why}; leave {' and '.join(given)} out")
