"""What scripts/doctor.py can be asked. Needs no torch, and without flags no tyro either."""

import os
from dataclasses import dataclass

from lib.base import ranks
from lib.command_line import FlagCreatePairsOff, over, parse, split_recipe
from lib.config import Config

FETCH, JSON = "--fetch", "--json"
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TRANSFORMERS_VERBOSITY": "error"}


@dataclass(frozen=True)
class Options:
    network: FlagCreatePairsOff[bool] = False
    """Exchange between all ranks that torchrun has started (without torchrun: two of this machine), and
    measure it."""
    limit_s: float = 60.0
    """Seconds after which --network says that there is no answer. It takes a few at 1 Gbit/s, and nodes start
    a little apart."""
    only: tuple[str, ...] = ()
    """Make only these checks, by the names that stand in their lines."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object instead."""
    runs_dir: str = "runs"
    """Where run folders are made; its disk is looked at."""


def quiet() -> None:
    """The hub's libraries are to say nothing to anybody but us; what is set already wins."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def of_machine(argv: list[str], description: str | None) -> Options:
    """The flags of a check of this machine. Raises ValueError for one of several workers, but for
    --network."""
    asked = over(Options(), argv, "doctor.py", description) if argv else Options()
    if asked.limit_s <= 0:
        raise ValueError(f"--limit-s {asked.limit_s:g} leaves no time; use at least a few seconds")
    if not asked.network:
        ranks.refuse_several("doctor.py without --network")
    return asked


def asks_for_recipe(argv: list[str]) -> bool:
    """RECIPE --fetch, rather than this machine? Raises ValueError for a recipe alone."""
    named = bool(argv) and not argv[0].startswith("-")
    if named and FETCH not in argv and not {"-h", "--help"} & set(argv):
        raise ValueError(
            f"doctor.py {argv[0]}: add {FETCH} to download its model and data; without a recipe this "
            "machine is looked at"
        )
    return named or FETCH in argv


def of_recipe(argv: list[str], description: str | None) -> tuple[Config, bool]:
    """What train.py would make of these words, and whether to say it as JSON. Raises ValueError."""
    from lib import recipe

    name, words = split_recipe([word for word in argv if word not in (FETCH, JSON)])
    ranks.refuse_several(f"doctor.py {FETCH}")
    described = recipe.described(description, argv)
    return parse(recipe.load(name).config, words, f"doctor.py {name} {FETCH}", described), JSON in argv
