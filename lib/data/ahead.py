"""Batches are made by a thread while the model computes the one before."""

import dataclasses
import queue
import threading
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch

Item = TypeVar("Item")
AHEAD = 2  # batches that wait: one is enough while they are made faster than computed, two even out the rest
_END = object()


class Ahead(Generic[Item]):
    """The items of an iterator, made in a thread, at most AHEAD of them before they are asked for. What the
    iterator raises is raised where its item would have come. Used as a context: its end ends the thread."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items, self._over = items, threading.Event()
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=AHEAD)
        # a daemon: a process that crashes does not wait for it
        self._thread = threading.Thread(target=self._make, name="batches", daemon=True)
        self._thread.start()

    def _make(self) -> None:
        try:
            for item in self._items:
                self._put((item, None))
                if self._over.is_set():
                    return
            self._put((_END, None))
        except BaseException as error:  # handed over to who asks
            self._put((_END, error))

    def _put(self, answer: tuple[Any, BaseException | None]) -> None:
        while not self._over.is_set():
            try:
                return self._ready.put(answer, timeout=0.1)  # now and then a look at whether it is over
            except queue.Full:
                continue

    def __iter__(self) -> "Ahead[Item]":
        return self

    def __next__(self) -> Item:
        item, error = self._ready.get()
        if item is not _END:
            return item
        self._ready.put((_END, error))  # whoever asks again gets the same
        raise StopIteration if error is None else error

    def __enter__(self) -> "Ahead[Item]":
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


def pinned(batch: Any) -> Any:
    """The same with its tensors in memory that a GPU copies from by itself, while the process goes on."""
    if isinstance(batch, torch.Tensor):
        return batch.pin_memory()
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        values = {field.name: pinned(getattr(batch, field.name)) for field in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **values)
    return [pinned(one) for one in batch] if isinstance(batch, list) else batch
