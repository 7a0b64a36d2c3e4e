"""Several seeds: each is an ordinary run, done once, and the spread is that of a sample."""

import json
import statistics
from pathlib import Path

import pytest

from lib import recipe, run
from lib.base import exits
from lib.base.exits import CheckError
from lib.command_line import parse
from lib.config import Config
from lib.launching import seeds
from tests.tools import SHORT
from tests.tools import run as run_script

WORDS = [*SHORT, "--model", "tiny", "--init", "random", "--max-steps", "2", "--seed", "4", "--seeds", "2"]


def test_two_seeds_are_two_runs_and_a_second_call_trains_only_what_is_lacking(
    tmp_path: Path,
) -> None:
    trained = []

    def once(config: Config, stop: object) -> int:
        trained.append((config.optim.seed, config.tracking.seeds))
        return exits.run(lambda: run.train(config))

    config = parse(recipe.load("arena").config, [*WORDS, "--runs-dir", str(tmp_path)], "train.py")
    assert seeds.train(config, once) == 0
    assert trained == [(4, 1), (5, 1)]
    folders = sorted(tmp_path.glob("arena/2*"))
    values = [
        json.loads((folder / "scores.json").read_text())["splits"]["test"]["scores"]["log_loss"]["value"]
        for folder in folders
    ]
    said = json.loads((folders[-1] / "seeds.json").read_text())["test"]["log_loss"]
    assert values[0] != values[1]
    assert said["mean"] == statistics.mean(values)
    assert said["spread"] == statistics.stdev(values)
    assert seeds.train(config, once) == 0
    assert len(trained) == 2
    file = folders[0] / "run.json"
    record = json.loads(file.read_text())
    record["fingerprints"]["data"] = "0" * 64
    file.write_text(json.dumps(record))
    with pytest.raises(CheckError, match="the fingerprint of data changed"):
        seeds.train(config, once)


def test_a_run_that_does_not_end_well_ends_the_row(tmp_path: Path) -> None:
    config = parse(recipe.load("arena").config, [*WORDS, "--runs-dir", str(tmp_path)], "train.py")
    assert seeds.train(config, lambda config, stop: exits.STOPPED) == exits.STOPPED


def test_the_command_trains_each_seed(tmp_path: Path) -> None:
    done = run_script("arena", *WORDS, "--devices", "1", "--runs-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    kept = [json.loads((f / "config.json").read_text())["optim"]["seed"] for f in tmp_path.glob("arena/2*")]
    assert sorted(kept) == [4, 5]
    assert "+-" in done.stdout
