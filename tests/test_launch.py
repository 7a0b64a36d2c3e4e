"""What the launcher says for its workers."""

import pytest

from lib.base.exits import BAD_INPUT, CRASHED, REPEATS, STOPPED
from lib.launching.workers import _code_after_failure, _code_after_signal


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


@pytest.mark.parametrize(
    ("codes", "first", "expected"),
    [
        ([4], 1, REPEATS),  # the others noticed first that rank 0 was gone
        ([75, 4], 75, REPEATS),  # they stopped well; rank 0 could not save
        ([2, 2], 2, BAD_INPUT),
        ([75, 75], 75, STOPPED),
        ([1], -9, CRASHED),  # killed from outside
        ([], -9, CRASHED),
    ],
)
def test_who_knows_that_it_would_repeat_has_the_last_word(
    codes: list[int], first: int, expected: int
) -> None:
    assert _code_after_failure(codes, first) == expected
