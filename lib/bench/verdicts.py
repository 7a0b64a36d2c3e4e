"""What was measured beside what it should reach."""


def at_least(what: str, value: float, goal: float) -> None:
    print(f"{what}: {value:.2f} (to reach: {goal:g} or more) {_word(value >= goal)}", flush=True)


def at_most(what: str, value: float, goal: float) -> None:
    print(f"{what}: {value:.3f} (to reach: {goal:.3g} or less) {_word(value <= goal)}", flush=True)


def _word(reached: bool) -> str:
    return "reached" if reached else "MISSED"
