"""What the launcher says for its workers."""

import pytest

from lib.exits import CRASHED, REPEATS, STOPPED
from lib.launch import _code_after_signal


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([75, 75], STOPPED),
        ([0, 75], STOPPED),  # the signal came when one had just ended
        ([75], CRASHED),  # the other was killed before it could save
        ([], CRASHED),
        ([75, 4], REPEATS),
    ],
)
def test_stopped_is_said_only_when_every_worker_says_so(codes: list[int], expected: int) -> None:
    assert _code_after_signal(codes, 2) == expected
