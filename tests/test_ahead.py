"""Batches that a thread makes: in order, a few ahead, and gone when nobody wants more."""

import threading
import time
from collections.abc import Iterator

import pytest

from lib.data.ahead import AHEAD, Ahead


class Source:
    """Counts what it was asked for."""

    def __init__(self, most: int | None = None) -> None:
        self.made, self.most = 0, most

    def __iter__(self) -> Iterator[int]:
        while self.most is None or self.made < self.most:
            self.made += 1
            yield self.made


def settled(source: Source) -> int:
    """What it has made when it makes no more."""
    before = -1
    while before != source.made:
        before = source.made
        time.sleep(0.3)
    return before


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "batches"]


def test_all_come_once_and_in_order() -> None:
    with Ahead(iter(Source(50))) as ready:
        assert list(ready) == list(range(1, 51))
        assert list(ready) == []
    assert not threads()


def test_few_are_made_before_they_are_asked_for() -> None:
    source = Source()
    with Ahead(iter(source)) as ready:
        assert settled(source) == AHEAD + 1  # and one that waits for its place
        assert [next(ready) for _ in range(3)] == [1, 2, 3]
        assert settled(source) == 3 + AHEAD + 1
    assert not threads(), "the thread of an endless source ends with the context"


def test_what_fails_is_raised_where_its_item_would_have_come() -> None:
    def failing() -> Iterator[int]:
        yield from (1, 2)
        raise MemoryError("a row too many")

    with Ahead(failing()) as ready:
        assert [next(ready), next(ready)] == [1, 2]
        for _ in range(2):
            with pytest.raises(MemoryError, match="a row too many"):
                next(ready)
    assert not threads()


def test_an_error_of_who_asks_ends_the_thread() -> None:
    with pytest.raises(KeyboardInterrupt), Ahead(iter(Source())) as ready:
        next(ready)
        raise KeyboardInterrupt
    assert not threads()
