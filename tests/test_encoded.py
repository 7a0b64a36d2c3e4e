"""Token ids kept on the disk: shared by what reads the same rows alike, whole or made again, cleaned in one
place."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from lib import recipe as recipes
from lib.command_line import parse
from lib.config import Config
from lib.corpus import encoded as store
from lib.corpus.corpus import Corpus
from lib.corpus.encoded import Encoded
from lib.task import Task
from lib.tasks import make

ARENA = recipes.load("arena")
ROWS = ["--model", "tiny", "--data", "sample", "--sample-rows", "60"]


def configuration(*flags: str) -> Config:
    return parse(ARENA.config, [*ROWS, *flags], "test")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.read(configuration().data, ARENA).complete()


def encode(corpus: Corpus, above: Path, key: str = "key") -> tuple[Encoded, list[int]]:
    """The entry, and how many rows were encoded to have it."""
    task: Any = make(ARENA, configuration())
    encoded, counted = task.encode, []

    def counting(examples: list[Any], between: Any) -> Any:
        counted.append(len(examples))
        return encoded(examples, between)

    task.encode = counting
    return store.encode(corpus, task, above, key, lambda: None), counted


def let_go(entry: Encoded) -> None:
    """As when the process ends."""
    for lock in entry._held:
        lock.release()


def test_the_second_time_nothing_is_encoded(corpus: Corpus, tmp_path: Path) -> None:
    first, made = encode(corpus, tmp_path)
    second, again = encode(corpus, tmp_path)
    assert sum(made) == sum(corpus.sizes().values()) == 60 and again == []
    task: Task = make(ARENA, configuration())
    fresh = task.encode(corpus.splits["test"], lambda: None)
    kept = second.rows("test")
    assert [row.id for row in fresh] == list(kept.ids)
    for number, row in enumerate(fresh):
        sequences = kept.sequences_of(number)
        assert [ids.tolist() for ids in sequences] == [ids.tolist() for ids in row.sequences]
    assert second.examples()["test"] == corpus.splits["test"]
    assert first.counts() == second.counts()


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        (["--seed", "7", "--lr", "1e-3", "--batch", "8", "--devices", "2"], True),
        (["--max-length", "77"], False),
        (["--no-prompt"], False),
        (["--max-rows", "3"], False),
    ],
)
def test_seeds_and_trials_share_an_entry_and_what_changes_the_ids_does_not(
    flags: list[str], same: bool
) -> None:
    fingerprints = {"data": "1", "tokenizer": "2"}
    key = store.key_of(fingerprints, configuration())
    assert (store.key_of(fingerprints, configuration(*flags)) == key) is same
    assert store.key_of({"data": "1", "tokenizer": "3"}, configuration()) != key


@pytest.mark.parametrize("harm", ["a flipped bit", "a missing file", "no manifest", "a strange file"])
def test_a_damaged_entry_is_made_again(corpus: Corpus, tmp_path: Path, harm: str) -> None:
    entry, _ = encode(corpus, tmp_path)
    before = {path.name: path.read_bytes() for path in (entry.folder / "train").iterdir()}
    tokens = max((entry.folder / "train").iterdir(), key=lambda path: path.stat().st_size)
    let_go(entry)
    if harm == "a flipped bit":
        damaged = bytearray(tokens.read_bytes())
        damaged[-1] ^= 1
        tokens.write_bytes(damaged)
    elif harm == "a missing file":
        tokens.unlink()
    elif harm == "no manifest":
        (entry.folder / store.MANIFEST).unlink()
    else:
        (entry.folder / "train" / "more").write_text("?")
    again, made = encode(corpus, tmp_path)
    assert sum(made) == 60
    assert {path.name: path.read_bytes() for path in (again.folder / "train").iterdir()} == before
    assert store.whole(again.folder)


def test_the_newest_stay_and_nobody_loses_what_it_holds(corpus: Corpus, tmp_path: Path) -> None:
    held, _ = encode(corpus, tmp_path, "held")
    os.utime(held.folder / store.MANIFEST, (1, 1))  # used longest ago
    for number in range(store.KEPT + 2):
        entry, _ = encode(corpus, tmp_path, f"other {number}")
        let_go(entry)
        os.utime(entry.folder / store.MANIFEST, (1000 + number, 1000 + number))
    store.clean(tmp_path)
    there = {path.name for path in (tmp_path / store.CACHE).iterdir()}
    newest = {f"other {number}" for number in range(2, store.KEPT + 2)}
    assert there == newest | {"held"} and store.whole(held.folder)
    let_go(held)
    store.clean(tmp_path)
    assert {path.name for path in (tmp_path / store.CACHE).iterdir()} == newest


def test_what_a_killed_process_left_is_removed_when_nobody_can_be_at_it(tmp_path: Path) -> None:
    new, old = (tmp_path / store.CACHE / f".writing-{name}" for name in ("new", "old"))
    for folder in (new, old):
        folder.mkdir(parents=True)
    long_ago = time.time() - store.STALE_S - 60
    os.utime(old, (long_ago, long_ago))
    store.clean(tmp_path)
    assert new.exists() and not old.exists()


def test_a_stop_while_encoding_leaves_nothing(corpus: Corpus, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        store.encode(corpus, make(ARENA, configuration()), tmp_path, "key", stop)
    assert not list((tmp_path / store.CACHE).iterdir())
