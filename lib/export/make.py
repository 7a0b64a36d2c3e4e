"""A finished run -> a folder that plain transformers (or peft) opens, with the project's head beside it.

It is written beside its place, checked there by a fresh process against the run's stored probabilities, and
renamed: a folder with the asked-for name is whole and checked.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors

from lib.answers import load as answers_of
from lib.base.exits import CheckError, RepeatsError
from lib.base.files import Lock, fsync_folder, read_json, read_lines, write_text
from lib.base.source_code import ROOT
from lib.config import Config
from lib.evaluation.trained import TrainedRun
from lib.export import card, merging
from lib.export.check import is_adapter
from lib.process.signals import SIGNALS
from lib.recipe import Prediction

HEAD = "head.safetensors"
Base = Literal["dequantized", "full"]
# How far probabilities may be from the stored ones. The same weights in the same batches give the same bits
# on the machine the run had, and so do an adapter and its base. Adding an adapter to its base rounds each
# weight once (by 2**-24 of it). Where products are taken in bfloat16 (rounded by 2**-9), a merged weight is
# rounded as one number instead of two. Int8 products round their inputs too, which float32 ones do not.
# Measured on stories260K, trained at a learning rate of 0.01 on sample rows: float32 1.7e-6 with nf4, 3e-7
# without; bfloat16 0.0063 and int8 0.0043 over long options (science_exam), 0.0005 and 0.0002 over boolq.
SAME, FLOAT32, ROUNDED = 1e-6, 1e-4, 0.03
FEW = 3  # rows for the card's lines, which answer one at a time
# Runs the lines, as they stand, in the folder they are of, and asks their function for some rows.
RUNNER = """
import contextlib, io, json, sys
lines, function, rows = json.load(sys.stdin)
names = {}
with contextlib.redirect_stdout(io.StringIO()):
    exec(lines, names)
print(json.dumps([names[function](**row) for row in rows]))
"""


@dataclass(frozen=True)
class Checked:
    """What the fresh process found."""

    rows: int
    largest: float
    bound: float | None
    """None: weights other than the run's were asked for (--base full), so nothing is promised."""


def export(path: Path, out: Path, adapter_only: bool, base: Base | None, check: bool) -> Checked | None:
    """Write `out`. Raises ValueError (no such run, `out` is taken), RepeatsError (damaged checkpoint),
    CheckError (another base, other probabilities)."""
    run = TrainedRun.open(path)
    _refuse(run.config, adapter_only, base)
    _refuse_taken(out)
    rows = _rows_to_check(run) if check else None
    with _beside(out) as beside:
        _write(run, beside, adapter_only, base == "full")
        checked = None if rows is None else _check(run, beside, rows, base == "full")
        if checked is not None and checked.bound is not None:
            _check_lines(run, beside, rows or [])
        write_text(beside / "README.md", card.render(run, beside, base == "full", checked))
        _place(beside, out)
    return checked


def in_words(out: Path, checked: Checked | None) -> str:
    """One or two lines for people."""
    if checked is None:
        return f"exported to {out}; NOT checked (--no-check)"
    if checked.bound is None:
        limit = "no bound holds: --base full has other weights than the run"
    else:
        limit = f"at most {checked.bound:g} is allowed"
    return (
        f"exported to {out}\nchecked in a fresh process: over {checked.rows} test rows probabilities differ "
        f"by at most {checked.largest:.3g} from the run's ({limit})"
    )


def _refuse(config: Config, adapter_only: bool, base: Base | None) -> None:
    if adapter_only and not config.adapter.lora_rank:
        raise ValueError("--adapter-only: this run has no adapter (--lora-rank 0); leave it out")
    if base is not None and config.adapter.quantize == "none":
        raise ValueError(f"--base {base} is for quantized runs; this run's base is in float32. Leave it out")
    if base is not None and adapter_only:
        raise ValueError(f"--base {base} says what is merged into; --adapter-only merges nothing")


def _refuse_taken(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ValueError(f"{out} is there and no folder; name another one")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and nothing is overwritten; name another folder, or remove it")


def _rows_to_check(run: TrainedRun) -> list[Any]:
    """The rows that the stored test predictions are of."""
    folder = run.folder
    if not (folder.predictions("test").exists() and (folder.path / "scores.json").exists()):
        raise ValueError(
            f"{folder.path} has no test predictions to check the export against; let the run finish, or "
            "export without the check: --no-check"
        )
    try:
        return run.corpus().splits["test"]
    except (ValueError, CheckError) as error:
        advice = "the export cannot be checked without the run's rows; bring them back, or add --no-check"
        raise type(error)(f"{error}\n{advice}") from error


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A hidden folder to write in, removed again however this ends; what a killed process left there goes."""
    beside = out.absolute().parent / f".{out.name}.exporting"
    try:
        beside.mkdir(parents=True, exist_ok=True)
        lock = Lock(beside)
    except BlockingIOError:
        raise ValueError(f"another export to {out} is going on; wait for it or name another") from None
    except OSError as error:
        raise ValueError(f"{out} cannot be made: {error.strerror}; name another folder") from error
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    try:
        for path in beside.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        lock.release()
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt  # SIGTERM would end the process without removing what was written


def _write(run: TrainedRun, into: Path, adapter_only: bool, full: bool) -> None:
    """Weights, tokenizer and head."""
    task, best = run.task(), run.checkpoint
    advice = "take the base that the run began with (and a machine of the same kind, if it is quantized)"
    model: Any = run.model(task, advice)
    if adapter_only:
        for path in (best / "adapter").iterdir():
            shutil.copyfile(path, into / path.name)
        card.name_base(into, run.config)
    else:
        backbone = merging.whole(model, run, task, full)
        backbone.config.use_cache = True  # training switches it off; who generates wants it
        _save(backbone, into)
    task.tokenizer.save_pretrained(into)
    if (best / HEAD).exists():
        shutil.copyfile(best / HEAD, into / HEAD)


def _save(backbone: Any, into: Path) -> None:
    """Raises RepeatsError when the disk is full."""
    try:
        with warnings.catch_warnings():  # transformers warns of what its own save calls
            warnings.simplefilter("ignore", FutureWarning)
            backbone.save_pretrained(into)
    except safetensors.SafetensorError as error:
        raise RepeatsError(f"the weights could not be written: {error}; make room on the disk") from error


def bound(run: TrainedRun, adapter: bool, where: str, torch: str) -> float:
    """How far the export's probabilities may be from the stored ones."""
    quantize = run.config.adapter.quantize
    merged = not adapter and (run.config.adapter.lora_rank > 0 or quantize != "none")
    environment = run.folder.record()["environment"]
    if not merged and where in environment["hardware"] and torch == environment["torch"]:
        return SAME
    precision = read_json(run.folder.path / "scores.json")["precision"]
    return ROUNDED if precision == "bf16" or quantize == "int8" else FLOAT32


def _check(run: TrainedRun, beside: Path, rows: list[Any], full: bool) -> Checked:
    """Raises CheckError when the exported files say something else than the run did."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "lib.export.check", str(run.folder.path), str(beside)],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    if done.returncode:
        words = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise CheckError(f"the exported files cannot be scored, so nothing was exported:\n{words}")
    outcome = json.loads(done.stdout.splitlines()[-1])
    limit = bound(run, is_adapter(beside), outcome["where"], outcome["torch"])
    checked = Checked(outcome["rows"], outcome["largest"], None if full else limit)
    if checked.bound is not None and not checked.largest <= checked.bound:
        raise CheckError(
            f"the exported files say something else than the run did: they differ by up to "
            f"{checked.largest:.3g} over {checked.rows} rows, at most {checked.bound:g} is allowed. Nothing "
            "was exported; score the run again with scripts/evaluate.py to see whether it still says the same"
        )
    return checked


def _check_lines(run: TrainedRun, beside: Path, rows: list[Any]) -> None:
    """Run the card's own lines on a few rows, without the project. Raises CheckError when they cannot be run
    or say something else than the run did."""
    few, function, words = _to_ask(run, rows)
    if not few:
        return
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUNNER],
        input=json.dumps([card.example(run, beside), function, words]),
        capture_output=True,
        text=True,
        cwd=beside,
    )
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise CheckError(f"the card's own lines cannot be run, so nothing was exported:\n{last}")
    found = json.loads(done.stdout.splitlines()[-1])
    stored = {row["id"]: row for row in read_lines(run.folder.predictions("test"))}
    answers = answers_of(run.recipe)
    largest = max(
        answers.distance(Prediction(**{**stored[row["id"]], **_said(function, said)}), stored[row["id"]])
        for row, said in zip(few, found, strict=True)
    )
    exact = read_json(run.folder.path / "scores.json")["precision"] == "fp32"
    limit = FLOAT32 if exact and run.config.adapter.quantize != "int8" else ROUNDED
    if not largest <= limit:
        raise CheckError(
            f"the card's own lines say something else than the run did: they differ by up to "
            f"{largest:.3g}, at most {limit:g} is allowed. Nothing was exported"
        )


def _to_ask(run: TrainedRun, rows: list[Any]) -> tuple[list[Any], str, list[Any]]:
    """A few rows, the function of the card's lines that is asked, and its words for each."""
    if run.recipe.task == "complete":  # the lines shorten no prompt
        task = run.task()
        encoded = zip(rows, task.encode(rows, lambda: None), strict=True)
        few = [row for row, one in encoded if not one.num_cut][:FEW]
        if getattr(run.config.task, "letters_only", False):
            few = []
        return few, "loss", [{"target": row["target"], **row["fields"]} for row in few]
    few = rows[:FEW]
    asked = ["texts", "question", "options"]
    asked += ["context"] if getattr(run.config.task, "prompt", True) else []
    return few, "probabilities", [{key: row[key] for key in asked if key in row} for row in few]


def _said(function: str, values: Any) -> Prediction:
    """What the card's lines give."""
    if function == "loss":
        return Prediction(loss=values[0], num_tokens=values[1])
    return Prediction(probabilities=values)


def _place(beside: Path, out: Path) -> None:
    """Flush everything to the disk and give the folder its name."""
    umask = os.umask(0)
    os.umask(umask)
    for path in beside.rglob("*"):
        path.chmod(0o666 & ~umask)  # safetensors lets nobody else read
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fsync_folder(beside)
    try:
        beside.rename(out)  # an empty folder gives way; one that filled up meanwhile does not
    except OSError as error:
        raise ValueError(f"{out} was filled by somebody else meanwhile; name another folder") from error
    fsync_folder(out.absolute().parent)
