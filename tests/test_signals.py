"""What a signal does: it sets a flag, and only an impatient second Ctrl-C does more."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lib.base.exits import STOPPED, StoppedError
from lib.process import signals
from lib.process.signals import SAME_KEY_PRESS_S, SIGNALS, StopFlag
from tests.tools import ROOT


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag_and_ends_nothing(number: signal.Signals) -> None:
    stop = StopFlag()
    stop.raise_if_requested()
    assert not stop.requested
    signal.raise_signal(number)
    assert stop.requested and stop.reason == number.name
    with pytest.raises(StoppedError, match=f"{number.name}; run the same command again"):
        stop.raise_if_requested()


def test_the_first_signal_is_the_reason() -> None:
    stop = StopFlag()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGHUP)
    assert stop.reason == "SIGTERM"


def test_a_second_ctrl_c_ends_at_once_unless_it_is_the_same_key_press(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, ended = {"s": 100.0}, []
    monkeypatch.setattr(signals.time, "monotonic", lambda: now["s"])
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    StopFlag()
    signal.raise_signal(signal.SIGINT)
    for later_s, codes in ((SAME_KEY_PRESS_S, []), (SAME_KEY_PRESS_S + 0.1, [STOPPED])):
        now["s"] = 100 + later_s
        signal.raise_signal(signal.SIGTERM)  # a launcher that repeats itself is not impatient
        signal.raise_signal(signal.SIGINT)
        assert ended == codes


def test_who_listens_again_hears_again() -> None:
    stop = StopFlag()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # as another listener leaves them
    signal.raise_signal(signal.SIGTERM)
    assert not stop.requested
    stop.listen()
    signal.raise_signal(signal.SIGTERM)
    assert stop.reason == "SIGTERM"


def test_a_deaf_flag_leaves_the_signals_as_they_are() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    StopFlag(deaf=True)
    assert [signal.getsignal(number) for number in SIGNALS] == before


IMPATIENT = """
import time
from lib.process.signals import StopFlag
stop = StopFlag()
print("ready", flush=True)
while not stop.requested:
    time.sleep(0.01)
print(stop.reason, flush=True)
time.sleep(60)
"""


def test_in_a_process_the_second_ctrl_c_ends_with_75() -> None:
    process = subprocess.Popen([sys.executable, "-c", IMPATIENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(SAME_KEY_PRESS_S + 0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == STOPPED
