"""What follows when a command has ended: done, given up, stopped, or once more. Pure functions."""

from dataclasses import dataclass

from lib.base.exits import BAD_INPUT, DONE, REFUSED, REPEATS, STOPPED
from lib.launching.pods.entries import Asked, Entry, State

LONGEST_WAIT_S = 600.0
FINAL = {
    BAD_INPUT: "bad input or configuration",
    REFUSED: "refused by a check",
    REPEATS: "failed in a way that would repeat",
}


@dataclass(frozen=True)
class Mark:
    """How far a command had come when it ended: the newest run it worked on, and what of that is saved."""

    run: str | None = None
    step: int = 0
    token_budget: int | None = None

    def is_beyond(self, before: "Mark") -> bool:
        """Did it get further? A step, another run with a step, or less memory: a run that ran out of it goes
        on from the same step with half the token budget."""
        if self.step > 0 and (self.run != before.run or self.step > before.step):
            return True
        smaller = (self.token_budget or 0) < (before.token_budget or 0)
        return self.run == before.run and smaller


@dataclass(frozen=True)
class Ended:
    code: int
    mark: Mark
    before: Mark | None = None
    """How far it was at the end before; None: there was none since somebody started it."""
    asked_to_stop: bool = False


def follows(entry: Entry, ended: Ended) -> tuple[State, str]:
    """The state after an end, and why."""
    code = ended.code
    if code == DONE:
        return "done", ""
    if code in FINAL:
        return "failed", FINAL[code]
    if ended.asked_to_stop:
        return "stopped", "saved, goes on" if code == STOPPED else "asked to stop, but it did not end well"
    how = "stopped by the machine" if code == STOPPED else f"crashed ({words_of(code)})"
    if ended.before is not None and not ended.mark.is_beyond(ended.before):
        where = f"at step {ended.mark.step}" if ended.mark.step else "before a step was saved"
        return "failed", f"{how} twice {where}: a restart made no progress"
    if entry.attempts > entry.asked.restarts:
        return "failed", f"{how} after {entry.asked.restarts} restarts (--restarts)"
    return "restarting", how


def words_of(code: int) -> str:
    """-9 -> signal 9"""
    return f"signal {-code}" if code < 0 else str(code)


def wait_s(entry: Entry) -> float:
    """Before the next attempt of one that has had `attempts`."""
    return min(entry.asked.wait_s * 2 ** (entry.attempts - 1), LONGEST_WAIT_S)


def settled(code: int, in_status: int | None) -> int:
    """torchrun ends with 1 whatever its workers say: then the code in status.json counts."""
    return in_status if code == 1 and in_status in (*FINAL, STOPPED) else code


def again(asked: Asked) -> list[str]:
    """The words of a further attempt: a run that was to be a new one is the one that goes on now."""
    words = ["--resume=auto" if word == "--resume=never" else word for word in asked.words]
    return [
        "auto" if word == "never" and before == "--resume" else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def next_to_begin(entries: list[Entry], gpus: list[str]) -> tuple[Entry, list[str]] | None:
    """The entry at the head of the queue and the GPUs it gets, or None while it has to wait. Nobody
    overtakes."""
    at_work = [one for one in entries if one.state in ("running", "restarting")]
    head = next((one for one in entries if one.state == "waiting"), None)
    if head is None or any(one.asked.gpus is None for one in at_work):
        return None
    if head.asked.gpus is None:
        return None if at_work else (head, [])
    free = [gpu for gpu in gpus if all(gpu not in one.devices for one in at_work)]
    return (head, free[: head.asked.gpus]) if len(free) >= head.asked.gpus else None
