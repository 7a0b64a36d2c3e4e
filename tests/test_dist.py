"""What ranks tell each other: three real processes, and the same words in one alone."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lib.base import exits
from lib.process import dist
from tests.tools import ROOT

SCRIPT = """
import json, math, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from lib.base import exits
from lib.process import dist

world = dist.setup(1)
calls = []

def refused():
    calls.append(world.rank)
    raise exits.CheckError("rows changed")

said = {{"rank": world.rank, "size": world.size, "main": world.is_main, "env": dist.env_is_main()}}
said["floats"] = dist.gather_floats([world.rank + 0.1, 1 / 3])
said["json"] = dist.gather_json({{"rank": world.rank, "text": "ü" * (world.rank * 1000)}})
said["any"] = [dist.any_rank(world.rank == 2), dist.any_rank(False)]
said["given"] = dist.on_main(lambda: [world.rank, 0.1 + 0.2])
try:
    dist.on_main(refused)
except exits.CheckError as error:
    said["refused"] = str(error)
said["calls"] = calls
dist.barrier()
dist.leave()
(Path(sys.argv[1]) / f"{{world.rank}}.json").write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of three ranks got, by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3", str(script), str(folder)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def test_every_rank_knows_who_it_is(answers: list[dict[str, Any]]) -> None:
    assert [(said["rank"], said["size"]) for said in answers] == [(0, 3), (1, 3), (2, 3)]
    assert [said["main"] for said in answers] == [said["env"] for said in answers] == [True, False, False]


def test_what_is_gathered_is_the_same_everywhere_and_to_the_last_digit(answers: list[dict[str, Any]]) -> None:
    for said in answers:
        assert said["floats"] == [[rank + 0.1, 1 / 3] for rank in range(3)]
        assert said["json"] == [{"rank": rank, "text": "ü" * (rank * 1000)} for rank in range(3)]
        assert said["any"] == [True, False]


def test_rank_0_decides_for_all_and_its_refusal_is_everybodys(answers: list[dict[str, Any]]) -> None:
    for rank, said in enumerate(answers):
        assert said["given"] == [0, 0.1 + 0.2]
        assert said["refused"] == "rows changed", "the same kind of error, so the same exit code"
        assert said["calls"] == ([0] if rank == 0 else [])


def test_one_process_alone_needs_no_group() -> None:
    assert dist.gather_floats([math.pi]) == [[math.pi]]
    assert dist.gather_json({"a": 1}) == [{"a": 1}]
    assert dist.any_rank(True) and not dist.any_rank(False)
    assert dist.on_main(lambda: "here") == "here"
    with pytest.raises(exits.RepeatsError, match="full"):
        dist.on_main(full)


def full() -> Path:
    raise exits.RepeatsError("the disk is full")


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_openmps_workers_do_not_spin_for_long_unless_told(given: dict[str, str], spins: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name[:4] not in ("OMP_", "GOMP")}
    words = "import lib, os, sys; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, env=clean | given, capture_output=True, text=True
    )
    assert done.stdout.strip() == spins, done.stderr
