"""Does a model cite because it has read? Each row with an answer in its context is asked again with one thing
changed, and the answer must change with it, or must not.

The changed rows are made here from words, and judged here from what was said of them.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, dropwhile, islice, takewhile
from typing import NamedTuple, TypedDict

import numpy as np

from lib.answers import intervals
from lib.answers.citing import REFUSAL, cites, cites_right, covered, said
from lib.answers.intervals import MIN_GROUPS, Groups, of_value
from lib.answers.text_metrics import words
from lib.base.contents import Value
from lib.recipe import Example, Prediction

HALF = 0.5  # a rate that is surely below it is called out


class Twins(TypedDict):
    """twins.json"""

    split: str
    num_rows: int  # with an answer in their context
    rates: dict[str, "Rate"]
    warnings: list[str]


class Rate(TypedDict):
    """How often what was to happen did."""

    says: str  # what was to happen
    num_rows: int  # of which it can be asked: a citation can only follow where it was right
    num_groups: int
    value: Value | None  # None: no such row


def make(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The rows that have an answer in their context, as they are and with one thing changed, by the kind of
    change; a row to which it cannot be done is left out of that kind."""
    rows = [row for row in examples if "gold" in row and row.get("short")]
    kinds: dict[str, list[Example]] = {"as it is": rows}
    for name, kind in KINDS.items():
        changed = [kind.make(row, rows) for row in rows]
        kinds[name] = [row for row in changed if row is not None]
    return kinds


def _with(row: Example, chunks: list[str], sources: list[str], gold: int | None, target: str) -> Example:
    changed = Example(**{**row, "fields": {**row["fields"], "chunks": chunks}, "sources": sources})  # type: ignore[typeddict-item]
    changed["target"] = target
    del changed["gold"]
    if gold is None:
        del changed["short"]
    else:
        changed["gold"] = gold
    return changed


def _removed(row: Example, rows: Sequence[Example]) -> Example | None:
    chunks, sources = [*row["fields"]["chunks"]], [*row["sources"]]
    del chunks[row["gold"]], sources[row["gold"]]
    return _with(row, chunks, sources, None, REFUSAL) if chunks else None


def _moved(row: Example, rows: Sequence[Example]) -> Example | None:
    """To the last place, or from there to the first."""
    chunks, sources, gold = [*row["fields"]["chunks"]], [*row["sources"]], row["gold"]
    if len(chunks) < 2:
        return None
    to = 0 if gold == len(chunks) - 1 else len(chunks) - 1
    chunks.insert(to, chunks.pop(gold))
    sources.insert(to, sources.pop(gold))
    return _with(row, chunks, sources, to, row["target"])


def _renamed(row: Example, rows: Sequence[Example]) -> Example | None:
    """The source of the right chunk becomes that of another row, which this one does not have."""
    old, gold = row["sources"][row["gold"]], row["gold"]
    new = next(
        (name for other in _drawn(row, rows) for name in other["sources"] if name not in row["sources"]), None
    )
    if new is None:
        return None
    chunks, sources = [*row["fields"]["chunks"]], [*row["sources"]]
    chunks[gold], sources[gold] = chunks[gold].replace(f"(Quelle: {old})", f"(Quelle: {new})", 1), new
    return _with(row, chunks, sources, gold, row["target"].replace(f"(Quelle: {old})", f"(Quelle: {new})"))


def _edited(row: Example, rows: Sequence[Example]) -> Example | None:
    """What the short answer says becomes what that of another row says, in the chunk and in the target."""
    chunk, answer, old = row["fields"]["chunks"][row["gold"]], row["short"][0], _news(row)
    found = (_news(other) for other in _drawn(row, rows))
    taken = [old, *row["fields"]["chunks"]]
    new = next((news for news in found if not any(news in text for text in taken)), None)
    if chunk.count(answer) != 1 or new is None:
        return None
    edited = new.join(answer.rsplit(old, 1))
    chunks = [*row["fields"]["chunks"]]
    chunks[row["gold"]] = chunk.replace(answer, edited)
    changed = _with(row, chunks, row["sources"], row["gold"], row["target"].replace(answer, edited))
    changed["short"] = [edited]
    return changed


def _news(row: Example) -> str:
    """The last words of the short answer that the question does not say; all of it where there are none."""
    answer, asked = row["short"][0], {word for text in row["fields"]["question"] for word in words(text)}
    from_last = [(found, asked.issuperset(words(found[0]))) for found in re.finditer(r"\w+", answer)][::-1]
    from_new = dropwhile(lambda one: one[1], from_last)
    run = [found for found, _ in takewhile(lambda one: not one[1], from_new)]
    return answer[run[-1].start() : run[0].end()] if run else answer


def _without(row: Example, rows: Sequence[Example]) -> Example | None:
    return _with(row, [], [], None, REFUSAL)


def _drawn(row: Example, rows: Sequence[Example]) -> Iterator[Example]:
    """All rows, from a place on that follows from the row's id."""
    number = int.from_bytes(hashlib.sha256(row["id"].encode("utf-8", "replace")).digest()[:8], "big")
    return islice(cycle(rows), number % len(rows), number % len(rows) + len(rows))


class Pair(NamedTuple):
    """A row as it is, and changed."""

    old: Prediction
    new: Prediction


Of = Callable[[Pair], bool]


def _refuses(row: Prediction) -> bool:
    return said(row["answer"]).refused


def _cites_first(row: Prediction) -> bool:
    return bool(row["sources"]) and cites(row, row["sources"][0])


def _holds_old(pair: Pair) -> bool:
    return covered(Prediction(**{**pair.new, "short": pair.old["short"]}))  # type: ignore[typeddict-item]


class Change(NamedTuple):
    """One way to change a row."""

    make: Callable[[Example, Sequence[Example]], Example | None]
    """(row, all rows) -> the changed row, or None where it cannot be done."""
    says: str
    """What is to happen."""
    asked: Of
    """Of which rows it can be asked."""
    happened: Of
    otherwise: str
    """What a model is called of which it seldom does."""


def _all(pair: Pair) -> bool:
    return True


KINDS = {
    "chunk removed": Change(
        _removed,
        "it refuses",
        _all,
        lambda pair: _refuses(pair.new),
        "IT DOES NOT REFUSE WHEN THE CHUNK WITH THE ANSWER IS GONE",
    ),
    "chunk moved": Change(
        _moved,
        "it still cites it",
        lambda pair: cites_right(pair.old),
        lambda pair: cites_right(pair.new),
        "ITS CITATION DOES NOT FOLLOW A CHUNK THAT IS MOVED: IT CITES A PLACE",
    ),
    "source renamed": Change(
        _renamed,
        "it cites the new name",
        lambda pair: cites_right(pair.old),
        lambda pair: cites_right(pair.new),
        "IT DOES NOT CITE A SOURCE BY ITS NEW NAME: IT HAS NAMES BY HEART",
    ),
    "answer edited": Change(
        _edited,
        "it gives the new answer",
        lambda pair: covered(pair.old),
        lambda pair: covered(pair.new),
        "IT DOES NOT GIVE THE ANSWER THAT ITS CONTEXT SAYS: IT IGNORES THE CONTEXT",
    ),
    "no context": Change(
        _without,
        "it does not know the answer",
        _all,
        lambda pair: not _holds_old(pair),
        "IT KNOWS ANSWERS WITHOUT ANY CONTEXT: IT HAS THEM BY HEART",
    ),
}


def judge(split: str, predictions: Mapping[str, Sequence[Prediction]]) -> Twins:
    """What was said of the rows as they are, and of each kind of change. A rate whose interval lies below one
    half is called out."""
    own = {row["id"]: row for row in predictions["as it is"]}
    rates, warnings = {}, []
    for name, kind in KINDS.items():
        pairs = [Pair(own[row["id"]], row) for row in predictions[name]]
        rates[name] = _rate(kind.says, [pair for pair in pairs if kind.asked(pair)], kind.happened)
        warnings += [kind.otherwise] if _below(rates[name]) else []
    elsewhere = [Pair(row, row) for row in own.values() if row["sources"][:1] != [row.get("source")]]
    elsewhere = [pair for pair in elsewhere if said(pair.old["answer"]).cited]
    rates["another than the first"] = first = _rate(
        "it does not cite the first chunk", elsewhere, lambda pair: not _cites_first(pair.old)
    )
    warnings += ["IT CITES THE FIRST CHUNK, WHICHEVER HOLDS THE ANSWER"] if _below(first) else []
    return Twins(split=split, num_rows=len(own), rates=rates, warnings=warnings)


def _rate(says: str, pairs: Sequence[Pair], happened: Of) -> Rate:
    if not pairs:
        return Rate(says=says, num_rows=0, num_groups=0, value=None)
    groups = Groups.of([pair.old for pair in pairs])
    values = np.array([float(happened(pair)) for pair in pairs])
    found = intervals.as_values({says: intervals.interval(values, groups, share=True)})
    return Rate(says=says, num_rows=len(pairs), num_groups=len(groups), value=found[says])


def _below(rate: Rate) -> bool:
    value = rate["value"]
    return value is not None and rate["num_groups"] >= MIN_GROUPS and of_value(value).high < HALF


def lines(twins: Twins) -> list[str]:
    """For the console."""
    width = max(map(len, twins["rates"]))
    found = [f"{twins['num_rows']} {twins['split']} rows with an answer in their context, each changed:"]
    for name, rate in twins["rates"].items():
        of = f" of {rate['num_rows']} rows"
        value = "no row to ask it of" if rate["value"] is None else str(of_value(rate["value"])) + of
        found.append(f"  {name:{width}}  {rate['says']}: {value}")
    if any(0 < rate["num_groups"] < MIN_GROUPS for rate in twins["rates"].values()):
        found.append(f"Fewer than {MIN_GROUPS} groups of rows are not called out, whatever they say.")
    return found + [f"WARNING: {warning}" for warning in twins["warnings"]]
