"""How a host stands: its queue, and every run under its runs folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib.launching.pods import marks
from lib.launching.pods.entries import Contents, Entry, Queue
from lib.launching.pods.policy import words_of
from lib.launching.pods.work import Orphan
from lib.runs import listing

RECENT = 50  # steps whose mean time says how long the others will take
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Progress:
    """The newest step of a run; None for what is not known."""

    step: int | None = None
    num_steps: int | None = None
    loss: float | None = None
    left_s: float | None = None


def progress(run: str | None) -> Progress:
    """From metrics.jsonl, which has a line a step; status.json knows the saved steps only."""
    status = marks.status(run)
    step, num_steps = status.get("step"), status.get("num_steps")
    steps = [line for line in _last_lines(Path(run or "") / "metrics.jsonl") if line.get("kind") == "train"]
    if not steps:
        return Progress(step, num_steps)
    last, seconds = steps[-1], [line["seconds"] for line in steps[-RECENT:]]
    left_s = None
    if num_steps is not None and status.get("exit_code") is None:
        left_s = (num_steps - last["step"]) * sum(seconds) / len(seconds)
    return Progress(last["step"], num_steps, last["loss"], left_s)


def _last_lines(file: Path) -> list[dict[str, Any]]:
    try:
        with file.open("rb") as lines:
            lines.seek(max(0, file.stat().st_size - TAIL_BYTES))
            text = lines.read().decode("utf-8", "replace")
    except OSError:
        return []
    found = []
    for line in text.split("\n"):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # the first and the last one may be cut
            continue
    return [line for line in found if isinstance(line, dict)]


def state_of(entry: Entry, supervisor: int | None) -> str:
    """What the file says, unless nobody is there any more for whom it would be true."""
    if supervisor is not None or entry.state not in ("running", "restarting"):
        return entry.state
    return "running alone" if Orphan.of(entry) else "cut off"


def headline(contents: Contents, supervisor: int | None, session: str) -> str:
    """Who works here, and what to type when nobody does."""
    if supervisor is not None:
        stopping = ", stopping: it waits for checkpoints" if contents.phase == "stopping" else ""
        return f"at work in tmux session {session} (process {supervisor}){stopping}"
    if not contents.entries:
        return "nothing was started here"
    if contents.phase in ("running", "stopping"):
        gone = "tmux is gone (was the machine restarted?), and the queue is not at its end"
        return f"{gone}: pod.sh start HOST goes on with it"
    if any(entry.state in ("stopped", "waiting") for entry in contents.entries):
        return "stopped: pod.sh start HOST goes on"
    return "at its end: every command has ended"


def table(queue: Queue, session: str, width: int | None = None) -> list[str]:
    """For people: the queue, and below it the runs that did not come from it; `width`: most letters of a
    line."""
    contents, supervisor = queue.read(), queue.supervisor()
    lines = [f"queue: {headline(contents, supervisor, session)}"]
    rows = [_row(entry, state_of(entry, supervisor)) for entry in contents.entries]
    if rows:
        head, *cells = _columns([["", "state", "code", "step", "loss", "left", "command"], *rows])
        lines.append(head)
        for entry, line in zip(contents.entries, cells, strict=True):
            lines += [line, *([f"   {entry.reason}"] if entry.reason else [])]
    known = {entry.run for entry in contents.entries}
    if others := [run for run in _runs(queue.root) if str(Path(run.path).absolute()) not in known]:
        lines += ["", "other runs:", *_columns([_other(run) for run in others])]
    if width is None:
        return lines
    return [line if len(line) <= width else line[: width - 4].rstrip() + " ..." for line in lines]


def as_json(queue: Queue, session: str) -> dict[str, Any]:
    """The same for programs."""
    contents, supervisor = queue.read(), queue.supervisor()
    entries = [
        asdict(entry) | {"state": state_of(entry, supervisor), "progress": asdict(progress(entry.run))}
        for entry in contents.entries
    ]
    said = headline(contents, supervisor, session)
    runs = [asdict(run) | {"progress": asdict(progress(run.path))} for run in _runs(queue.root)]
    return {"supervisor": supervisor, "says": said, "session": session, "queue": entries, "runs": runs}


def _runs(root: Path) -> list[listing.Listed]:
    runs_dir = root / "runs"
    return listing.all_runs(str(runs_dir)) if runs_dir.is_dir() else []


def _row(entry: Entry, state: str) -> list[str]:
    code = "-" if entry.exit_code is None else words_of(entry.exit_code)
    return [str(entry.number), state, code, *_cells(progress(entry.run)), entry.asked.command]


def _other(run: listing.Listed) -> list[str]:
    code = "-" if run.exit_code is None else words_of(run.exit_code)
    return [f"{run.recipe}/{Path(run.path).name}", run.state, code, *_cells(progress(run.path))]


def _cells(now: Progress) -> list[str]:
    step = "-" if now.step is None else f"{now.step}/{now.num_steps or '?'}"
    loss = "-" if now.loss is None else f"{now.loss:.4f}"
    return [step, loss, "-" if now.left_s is None else listing.age(now.left_s)]


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
