"""Checkpoints that are whole or not there: safetensors and JSON, checksums over every byte, no pickle.

A checkpoint is written beside its place, flushed, and renamed; a manifest with sizes and sha256 sums is its
last file. Only a checkpoint whose every byte agrees with its manifest is ever loaded. Writing goes on in a
thread while training continues on copies made beforehand.
"""

import hashlib
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lib.base.console import speak
from lib.base.exits import RepeatsError
from lib.base.files import Lock, fsync_folder, read_json, sha256_of, write_json
from lib.base.tensor_file import write_tensors

Named = Iterable[tuple[str, Tensor]]
FORMAT = 1
MANIFEST = "manifest.json"


def name_of(step: int) -> str:
    return f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """Also of a hidden one (".writing-step-000200")."""
    return int(folder.name.rpartition("step-")[2])


def _sealed(body: dict[str, Any]) -> str:
    """The manifest's only legal text for this body."""
    seal = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({"body": body, "sha256": seal}, sort_keys=True, indent=1)


def verify(folder: Path, without: tuple[str, ...] = ()) -> str | None:
    """None when every byte is as it was written; else what is wrong. The files `without` may be missing."""
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        body = json.loads(text)["body"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    if text != _sealed(body):  # its sums can only vouch for other files while it is whole itself
        return f"{MANIFEST} is damaged"
    if body["format"] != FORMAT:
        return f"it is of format {body['format']}, this version reads {FORMAT}"
    if body["step"] != step_of(folder):  # copied or renamed by hand: training would go on at another step
        return f"it was written as step {body['step']}"
    for name, entry in body["files"].items():
        file = folder / name
        if not file.is_file():
            if name in without:
                continue
            return f"{name} is missing"
        if file.stat().st_size != entry["size"]:
            return f"{name} has {file.stat().st_size} bytes instead of {entry['size']}"
        if sha256_of(file) != entry["sha256"]:
            return f"{name} is damaged (its sha256 differs)"
    return None


def require_whole(folder: Path) -> None:
    """Raises RepeatsError when a byte is not as it was written."""
    if problem := verify(folder):
        raise RepeatsError(f"{folder} is not used: {problem}")


def all_in(checkpoints: Path) -> list[Path]:
    """Every checkpoint, newest first, verified or not."""
    folders = [path for path in checkpoints.glob("step-*") if path.is_dir() and path.name[5:].isdigit()]
    return sorted(folders, key=step_of, reverse=True)


def newest_verified(checkpoints: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole; None when there is none at all. Raises RepeatsError when all are
    bad."""
    folders = all_in(checkpoints)
    for folder in folders:
        problem = verify(folder)
        if problem is None:
            return folder
        say(f"WARNING: checkpoint {folder.name} is not used: {problem}; falling back to the one before")
    if folders:
        raise RepeatsError(
            f"none of the {len(folders)} checkpoints in {checkpoints} is whole; nothing was changed. Bring "
            "one back from a copy, or start over with --resume never"
        )
    return None


def hidden(checkpoints: Path) -> list[Path]:
    """What a killed process was writing or deleting."""
    return [*checkpoints.glob(".writing-step-*"), *checkpoints.glob(".deleting-step-*")]


def newest_step(checkpoints: Path) -> int | None:
    """The step of the newest checkpoint, verified or not, or else of one that `clean` would bring back."""
    folders = all_in(checkpoints) or [path for path in hidden(checkpoints) if verify(path) is None]
    return step_of(folders[0]) if folders else None


def clean(checkpoints: Path) -> None:
    """Remove what a killed process left half-written or half-deleted. One that is whole gets its name back:
    the process was replacing a checkpoint of the same step."""
    for path in hidden(checkpoints):
        final = checkpoints / name_of(step_of(path))
        if not final.exists() and verify(path) is None:
            path.rename(final)
        else:
            shutil.rmtree(path, ignore_errors=True)


def write(checkpoints: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Write one checkpoint: `fill` puts files into a folder that nobody looks at; then it gets its name.
    Raises RepeatsError when the disk is full; older checkpoints are never touched before the new one is
    whole."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    final, beside = checkpoints / name_of(step), checkpoints / f".writing-{name_of(step)}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        fill(beside)
        files = sorted(path for path in beside.rglob("*") if path.is_file())
        entries = {
            path.relative_to(beside).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files
        }
        (beside / MANIFEST).write_text(
            _sealed({"format": FORMAT, "step": step, "files": entries}), encoding="utf-8"
        )
        # A rename may reach the disk before what it renames. So first the bytes, then the names of files, and
        # the new name last: after a power cut the checkpoint is whole under it, or hidden.
        for path in [*files, beside / MANIFEST]:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        for folder in [*(path for path in beside.rglob("*") if path.is_dir()), beside]:
            fsync_folder(folder)
        old = _hide(final) if final.exists() else None  # of the same step: damaged, or saved before a stop
        beside.rename(final)
        fsync_folder(checkpoints)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        kept = ", ".join(path.name for path in all_in(checkpoints)) or "none"
        raise RepeatsError(
            f"checkpoint {name_of(step)} could not be written to {checkpoints}: {error.strerror or error}; "
            f"older checkpoints are intact ({kept}). Make room, then run the same command"
        ) from error
    return final


def link(checkpoints: Path, name: str, step: int) -> None:
    """Point `best` or `last` at a checkpoint, in one move. They are for people: tools that copy folders
    follow links or drop them, and some disks have none, so nothing reads them."""
    place, beside = checkpoints / name, checkpoints / f".{name}.{os.getpid()}"
    if place.is_dir() and not place.is_symlink():  # a copy that followed the link
        shutil.rmtree(place)
    with suppress(OSError):  # a disk without links
        beside.unlink(missing_ok=True)
        beside.symlink_to(name_of(step))  # a link cannot be changed, and nobody may find it missing
        beside.replace(place)


def best_in(checkpoints: Path) -> Path | None:
    """The best checkpoint as the newest whole one knows it; None when there is none at all. Raises
    RepeatsError when all are bad."""
    newest = newest_verified(checkpoints, speak)
    if newest is None:
        return None
    state = read_state(newest)
    return checkpoints / name_of(state["best_step"] or state["step"])


def prune(checkpoints: Path, keep: int, best: int | None, current: int) -> None:
    """Delete all but the newest `keep` up to the step `current`, and the best. Newer ones are damaged and
    were passed over; they will be written again."""
    for folder in [folder for folder in all_in(checkpoints) if step_of(folder) <= current][keep:]:
        if step_of(folder) != best:
            shutil.rmtree(_hide(folder), ignore_errors=True)


def _hide(folder: Path) -> Path:
    """Out of sight before it is deleted, so that a half-deleted checkpoint is never taken for one."""
    aside = folder.with_name(f".deleting-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


@dataclass(frozen=True)
class Snapshot:
    """Copies in main memory of what a checkpoint keeps, which training cannot change. Empty on ranks that do
    not write."""

    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(model: Named, optimizer: Named) -> "Snapshot":
        """Each tensor is copied before the next one is asked for. Raises RepeatsError rather than keep a NaN
        or infinity."""
        return Snapshot(_copies(model), _copies(optimizer))


def _copies(tensors: Named) -> dict[str, Tensor]:
    # copy=True: without it a tensor on the CPU would be given back as it is, and training goes on changing it
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors}
    for name, tensor in copies.items():
        # a sum is finite only if every part is, or if huge parts overflow it: then look at each
        if (
            tensor.is_floating_point()
            and not math.isfinite(tensor.sum().item())
            and not tensor.isfinite().all()
        ):
            raise RepeatsError(f"{name} holds NaN or infinity, so it is not saved")
    return copies


class Writer:
    """Saves checkpoints in a thread of rank 0. A failure is kept and raised at the next call."""

    def __init__(self, checkpoints: Path, keep: int) -> None:
        self.checkpoints, self.keep = checkpoints, keep
        self.last_s = time.monotonic()
        """When the last checkpoint was made, or this process began."""
        self.writes_s: list[float] = []
        """How long each took that is on the disk; whoever reads them takes them out."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        return self._error is not None

    def save(
        self,
        snapshot: Snapshot,
        save_model: Callable[[dict[str, Tensor], Path], None],
        state: dict[str, Any],
    ) -> None:
        """Write the snapshot while the caller goes on; `save_model` lays out the model's part. `state` needs
        the keys step and best_step."""
        self.wait()  # one after the other, and a failure of the one before is raised here

        def fill(folder: Path) -> None:
            save_model(snapshot.model, folder)
            write_tensors(folder / "optimizer.safetensors", snapshot.optimizer)
            write_json(folder / "state.json", state)

        def put(step: int, best: int | None) -> None:
            write(self.checkpoints, step, fill)
            link(self.checkpoints, "last", step)
            if best is not None and (self.checkpoints / name_of(best)).exists():
                link(self.checkpoints, "best", best)
            prune(self.checkpoints, self.keep, best, step)

        def work() -> None:
            try:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
                # ranks that run out of memory in the same step write one after the other
                began_s = time.perf_counter()
                with Lock(self.checkpoints, wait=True):
                    put(state["step"], state["best_step"])
                self.writes_s.append(time.perf_counter() - began_s)
            except BaseException as error:  # handed over to the training thread, which raises it
                self._error = error

        # no daemon: Python waits for it, so that a run that ends does not cut its last checkpoint short
        self._thread = threading.Thread(target=work, name="checkpoint writer")
        self._thread.start()

    def wait(self) -> None:
        """Until the checkpoint is on the disk. Raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def read_state(folder: Path) -> dict[str, Any]:
    """What `Writer.save` was given as `state`."""
    return read_json(folder / "state.json")
