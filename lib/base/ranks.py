"""Who this process is among the workers that somebody started. The environment is asked here and nowhere
else."""

import os
from dataclasses import dataclass, replace

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
UNSET = f"type: unset {' '.join(NAMES)}, and the same command"
HELP = f"these variables are torchrun's; start with torchrun or --devices N, or {UNSET}"


@dataclass(frozen=True)
class Ranks:
    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1
    """Of this machine."""

    @property
    def is_last(self) -> bool:
        return self.rank + 1 == self.size

    def at_most(self, most: int) -> "Ranks | None":
        """The same on one machine that has room for so many; None for one that is left out."""
        if self.rank >= most:
            return None
        return replace(self, size=min(self.size, most), local_size=min(self.local_size, most))


def of_environment() -> Ranks | None:
    """None for a process that was started alone; one of the first two variables alone is somebody's leftover.
    Raises ValueError when they cannot be what a launcher has set."""
    if NAMES[0] not in os.environ or NAMES[1] not in os.environ:
        return None
    there = {name: os.environ[name] for name in NAMES if name in os.environ}
    if there[NAMES[1]] == "1":
        there = {NAMES[2]: "0", NAMES[3]: "1"} | there
    if missing := [name for name in NAMES if name not in there]:
        raise ValueError(f"{_words(there)} without {' and '.join(missing)}: {HELP}")
    try:
        rank, size, local_rank, local_size = (int(there[name]) for name in NAMES)
    except ValueError as error:
        raise ValueError(f"{_words(there)}: not all of them are numbers; {HELP}") from error
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        raise ValueError(f"{_words(there)}: no launcher starts that; {HELP}")
    return Ranks(rank, size, local_rank, local_size)


def meeting_place() -> str:
    """host:port where ranks find each other, as torchrun says."""
    return f"{os.environ.get('MASTER_ADDR', 'nowhere')}:{os.environ.get('MASTER_PORT', '')}"


def be_the_first() -> None:
    """Let libraries that ask the environment (DeepSpeed) find the only process of a machine there."""
    os.environ.setdefault(NAMES[2], "0")


def refuse_several(program: str) -> None:
    """Raises ValueError for one of several workers of a program that runs alone."""
    ranks = of_environment()
    if ranks is not None and ranks.size > 1:
        raise ValueError(f"{program} runs in one process, this is one of {ranks.size}; leave torchrun out")


def _words(there: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in there.items())
