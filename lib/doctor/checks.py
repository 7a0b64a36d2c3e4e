"""The table of contents: every check of this machine, its time limit, and what to do without an answer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from lib.config_keys import nearest
from lib.doctor import disk, group, machine, online, packages
from lib.doctor.finding import Finding
from lib.doctor.order import Order
from lib.doctor.runner import Check, apart

HERE_S = 10.0  # reads a few files; a disk that is away makes even that wait for ever
APART_S = 25.0  # imports torch, on two cores beside the others
EXCHANGE_S = 10.0
ALL_S = 60.0  # for whoever waits for one of the two places
DISK = "is a network disk away? See df -h"
DRIVER = "the driver may hang: see nvidia-smi and dmesg, start the machine again, or take another"


def checks(runs_dir: str, only: Sequence[str] = ()) -> list[Check]:
    """In the order in which they are said: what others build on comes first. Raises ValueError for a name of
    `only` that there is not."""
    light: list[tuple[str, Callable[[], Finding], str]] = [
        ("python", packages.python, ""),
        ("packages", packages.packages, DISK),
        ("programs", machine.programs, DISK),
        ("cores", machine.cores, ""),
        ("memory", machine.memory, ""),
        ("shm", machine.shm, ""),
        ("files", machine.files, ""),
        ("runs-disk", partial(disk.runs, runs_dir), f"{DISK}, or choose another with --runs-dir"),
        ("hub-cache", disk.cache, f"{DISK}, or export HF_HOME=/another/disk/huggingface"),
        ("clock", online.clock, "the hub's name is not found in time: see /etc/resolv.conf"),
        ("hub", online.hub, "its name is not found in time: see /etc/resolv.conf"),
        ("wandb", online.wandb, "its name is not found in time: see /etc/resolv.conf"),
    ]
    heavy = [(name, f"devices.{name}") for name in ("gpu", "bf16", "nf4", "deepspeed")]
    every = [
        *(Check(name, look, HERE_S, stuck) for name, look, stuck in light),
        Check("all-reduce", all_reduce, ALL_S, DRIVER),
        *(Check(name, partial(apart, name, what, APART_S, DRIVER), ALL_S, DRIVER) for name, what in heavy),
    ]
    names = [check.name for check in every]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"--only {unknown[0]}: no check is called so; {nearest(unknown[0], names)}")
    return [check for check in every if not only or check.name in only]


def all_reduce() -> Finding:
    """Two ranks of this machine, briefly; --network does more."""
    return replace(group.here(Order(EXCHANGE_S)), name="all-reduce")
