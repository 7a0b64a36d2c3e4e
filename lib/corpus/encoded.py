"""Token ids of a corpus on the disk, kept by what decides them: seeds, trials of a sweep and later runs that
read the same rows in the same way map the same files into memory.

They lie beside the runs of a recipe, in `.encoded/<key>/`, and are cleaned here and nowhere else. An entry is
whole or not there, and every byte is checked before it is used again.
"""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lib.base.files import Lock, read_json, sha256_of, write_json
from lib.config import Config
from lib.corpus.corpus import Corpus
from lib.corpus.splits import digest
from lib.data import rows as encoded_rows
from lib.data.rows import Rows
from lib.recipe import Example
from lib.task import Task

CACHE = ".encoded"  # beside the runs of a recipe
KEPT = 4  # entries that nobody uses; enough for going back and forth between two lengths and two data sets
STALE_S = 24 * 3600  # nobody encodes for longer
MANIFEST, EXAMPLES, COUNTS, LINT = "manifest.json", "examples.json", "counts.json", "lint.json"
LOCK = "lock"
UNCHECKED = (MANIFEST, LINT, LOCK)  # of an entry's files: the last two come later


@dataclass(frozen=True)
class Encoded:
    """One entry. Who opened it with `hold` has it until the process ends; `clean` leaves it alone."""

    folder: Path
    _held: list[Lock] = field(default_factory=list, repr=False)

    def rows(self, split: str) -> Rows:
        """Mapped into memory; all ranks of a machine share the pages."""
        return encoded_rows.load(self.folder / split)

    def examples(self) -> dict[str, list[Example]]:
        """The same rows as words."""
        words: dict[str, list[Example]] = read_json(self.folder / EXAMPLES)
        return words

    def counts(self) -> dict[str, int]:
        """What the task cut and counted."""
        counts: dict[str, int] = read_json(self.folder / COUNTS)
        return counts

    @property
    def lint(self) -> Path:
        """What the rows looked like, once somebody has looked."""
        return self.folder / LINT

    def hold(self) -> None:
        self._held.append(Lock(self.folder / LOCK, wait=True, shared=True))
        os.utime(self.folder / MANIFEST)  # the time of its last use


def key_of(fingerprints: dict[str, str], config: Config) -> str:
    """Of everything that decides an entry (rows, tokenizer, model, code, options); rather too much than too
    little."""
    decides = {"tokenizers": version("tokenizers"), "options": [asdict(config.data), asdict(config.task)]}
    return digest({"recipe": config.recipe, **decides, **fingerprints})[:16]


def encode(corpus: Corpus, task: Task, above: Path, key: str, between: Callable[[], None]) -> Encoded:
    """The entry `key` under `above`, made if it is not there whole, and held. `between` may raise to
    stop."""
    entry = Encoded(above / CACHE / key)
    if not whole(entry.folder):
        shutil.rmtree(entry.folder, ignore_errors=True)
        _make(corpus, task, entry.folder, between)
    entry.hold()
    clean(above)
    return entry


def _make(corpus: Corpus, task: Task, folder: Path, between: Callable[[], None]) -> None:
    beside = folder.with_name(f".writing-{folder.name}-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        examples = corpus.with_probes()
        for split, words in examples.items():
            encoded_rows.save(encoded_rows.pack(task.encode(words, between)), beside / split)
        write_json(beside / EXAMPLES, examples)
        write_json(beside / COUNTS, {name: count for name, count in task.counts.items() if count})
        write_json(beside / MANIFEST, _sums(beside))
        beside.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another run was faster, with the same bytes
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in UNCHECKED)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def whole(folder: Path) -> bool:
    """Is every byte as it was written?"""
    try:
        manifest: Any = read_json(folder / MANIFEST)
    except ValueError:
        return False
    return bool(manifest == _sums(folder))


def clean(above: Path) -> None:
    """Remove what was used longest ago, and what a killed process left half-written."""
    entries = sorted((above / CACHE).glob(f"*/{MANIFEST}"), key=lambda path: -path.stat().st_mtime)
    for manifest in [path for path in entries if path.parent.name[0] != "."][KEPT:]:
        with suppress(BlockingIOError), Lock(manifest.with_name(LOCK)):  # else a run is at it
            shutil.rmtree(manifest.parent, ignore_errors=True)
    for beside in (above / CACHE).glob(".writing-*"):
        if time.time() - beside.stat().st_mtime > STALE_S:  # its process may be on another machine
            shutil.rmtree(beside, ignore_errors=True)
