"""One thread for the toys: two threads wait for each other longer than they compute, five times as long on a
busy machine. Runs in processes of their own say what they want; their threads sleep while they wait."""

import os
from collections.abc import Iterator

import pytest

from tests import warm

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


LONGEST = ("test_zero", "test_ranks", "test_ordered", "test_resume", "test_run", "test_texts")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin: at the end one process would work at them alone."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="module")
def workers_begin_at_once() -> Iterator[None]:
    """Ranks that a test launches have the libraries loaded already, and ask no hub."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess_handler, "Popen", warm.Popen)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield
