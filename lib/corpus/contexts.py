"""Rows without a context get one from an index.

What was found is kept in the run's folder and read from there ever after, so that the same rows have the same
context on any hardware.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.base.console import Meter
from lib.base.files import read_lines, write_lines
from lib.config import ChooseConfig, Config
from lib.recipe import Example
from lib.retrieval.cache import Cache
from lib.retrieval.folder import Index, open_index
from lib.retrieval.search import QUERIES, Found, Searcher

FILE = "contexts.jsonl"
CACHE = ".contexts"  # beside the runs of a recipe
Splits = dict[str, list[Example]]


def check(config: Config) -> Index | None:
    """The index that `config` names, before anything is read. Raises ValueError or CheckError when it cannot
    be used."""
    task = config.task
    return open_index(task.index) if isinstance(task, ChooseConfig) and task.index is not None else None


def query_of(example: Example) -> str:
    """Question and options, as they are asked."""
    return " ".join([example["question"], *example["options"]])


def wanting(examples: list[Example], config: Config) -> list[Example]:
    """The rows that are to get a context."""
    assert isinstance(config.task, ChooseConfig), "only questions with options get contexts"
    return [row for row in examples if config.task.context == "retrieved" or "context" not in row]


@dataclass(frozen=True)
class Retrieved:
    """The rows with what was found for them, what is to be kept of it, and facts for people."""

    splits: Splits
    lines: list[dict[str, Any]]
    facts: list[str]

    def write(self, file: Path) -> None:
        """Keep it, for `kept`; nothing where no row wanted a context."""
        if self.lines:
            write_lines(file, self.lines)


def retrieve(
    splits: Splits, config: Config, index: Index, runs: Path, between: Callable[[], None]
) -> Retrieved:
    """Contexts for the rows that are to get one. What is found is kept under `runs` at once. `between` runs
    now and then and may raise to stop."""
    rows = [row for split in splits.values() for row in wanting(split, config)]
    if not rows:
        fact = "every row has a context of its own: --index is not asked (--context retrieved would)"
        return Retrieved(splits, [], [fact])
    assert isinstance(config.task, ChooseConfig)
    cache = Cache(runs / CACHE, index, config.task.index_passages, config.data.max_length)
    queries = list(dict.fromkeys(map(query_of, rows)))
    # whole groups, the same whenever it is asked: vectors round by what they are embedded with
    groups = [queries[begin : begin + QUERIES] for begin in range(0, len(queries), QUERIES)]
    new = [group for group in groups if any(query not in cache for query in group)]
    total = sum(map(len, splits.values()))
    facts = [f"contexts for {len(rows)} of {total} rows from {index.path}"]
    if len(new) < len(groups):
        facts.append(f"{len(queries) - sum(map(len, new))} of them were found before, by {cache.file}")
    if new:
        facts += _search(new, index, cache, between)
    by_id = {row["id"]: cache[query_of(row)] for row in rows}
    lines = [found.as_line(identity) for identity, found in by_id.items()]
    return Retrieved(_put(splits, config, by_id), lines, facts)


def _search(groups: list[list[str]], index: Index, cache: Cache, between: Callable[[], None]) -> list[str]:
    """Fill the cache; what is to be said of it."""
    searcher = Searcher(index)
    with Meter(sum(map(len, groups)), "queries") as meter:
        for group in groups:
            cache.add(group, searcher.search(group, cache.num_passages, cache.max_length, between))
            meter.step(meter.done + len(group))
    if not searcher.num_cut:
        return []
    return [f"{searcher.num_cut} queries were longer than {searcher.embedder.max_length} tokens and cut"]


def kept(splits: Splits, config: Config, file: Path) -> Splits:
    """The rows with the contexts that were found when the run began; a row that is not among them stays
    without, and the fingerprint of the data tells."""
    by_id = {line["id"]: Found.of_line(line) for line in read_lines(file)}
    return _put(splits, config, by_id)


def _put(splits: Splits, config: Config, by_id: dict[str, Found]) -> Splits:
    return {
        split: [
            _with_context(row, by_id[row["id"]]) if row["id"] in by_id and wanting([row], config) else row
            for row in rows
        ]
        for split, rows in splits.items()
    }


def _with_context(row: Example, found: Found) -> Example:
    return Example(**{**row, "context": [found.context], "retrieved": [name for name, _ in found.passages]})  # type: ignore[typeddict-item]
