"""Several seeds: each is an ordinary run, done once, and the spread is that of a sample."""

import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from lib import recipe, run
from lib.base import exits
from lib.base.contents import Spread
from lib.base.exits import CheckError
from lib.base.files import write_json
from lib.command_line import parse
from lib.config import Config
from lib.launching import seeds
from lib.reports.seeds_page import Spreads, write_seeds_page
from lib.runs.folder import RunFolder
from tests.tools import SHORT
from tests.tools import run as run_script

WORDS = [*SHORT, "--model", "tiny", "--init", "random", "--max-steps", "2", "--seed", "4", "--seeds", "2"]


def test_two_seeds_are_two_runs_and_a_second_call_trains_only_what_is_lacking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    page = folders[-1] / "seeds.html"
    links = re.findall(r'<td><a href="([^"]*)"', page.read_text())
    assert [(page.parent / link).resolve() for link in links] == [run / "report.html" for run in folders]
    assert f"means and spreads: {folders[-1]}/seeds.json; as a page: {page}\n" in capsys.readouterr().out
    assert seeds.train(config, once) == 0
    assert len(trained) == 2
    file = folders[0] / "run.json"
    record = json.loads(file.read_text())
    record["fingerprints"]["data"] = "0" * 64
    file.write_text(json.dumps(record))
    with pytest.raises(CheckError, match="the fingerprint of data changed"):
        seeds.train(config, once)


@pytest.fixture
def runs(tmp_path: Path) -> dict[int, RunFolder]:
    """The folders of two finished runs; that of the first one has a name that a link must escape."""
    names = {4: "20231215_120000-a #1", 5: "20231215_130000"}
    folders = {seed: RunFolder(tmp_path / name) for seed, name in names.items()}
    for folder in folders.values():
        folder.path.mkdir()
        config = recipe.load("arena").config
        folder.write_config(replace(config, data=replace(config.data, data="<script>rows")))
        sizes = {"num_rows": 98, "num_groups": 90}
        write_json(folder.path / "scores.json", {"splits": {"test": sizes}})
    return folders


def spreads_of(values: dict[int, float]) -> Spreads:
    mean, spread = statistics.mean(values.values()), statistics.stdev(values.values())
    return {"test": {"log_loss": Spread(seeds=values, mean=mean, spread=spread)}}


def test_the_page_says_mean_and_spread_and_leads_to_the_reports(runs: dict[int, RunFolder]) -> None:
    # 0.5 and 0.9: the mean is 0.7, each is off by 0.2, and the root of (0.04 + 0.04) / 1 is 0.2828
    page = write_seeds_page(spreads_of({4: 0.5, 5: 0.9}), runs)
    assert page == runs[5].path / "seeds.html"
    html = page.read_text()
    words = " ".join(re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]*>", " ", html, flags=re.DOTALL).split())
    assert "log_loss lower is better 0.7000 0.2828 0.5000 0.9000" in words
    assert "test: log_loss is 0.7000 on average and strays by 0.2828" in words
    assert "(standard deviation) from seed to seed, from 0.5000 to 0.9000." in words
    assert "test: 98 rows in 90 groups" in words
    links = re.findall(r'href="([^#"]*)"', html)
    assert set(links) == {"../20231215_120000-a%20%231/report.html", "report.html"}


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(runs: dict[int, RunFolder]) -> None:
    html = write_seeds_page(spreads_of({4: 0.5, 5: 0.9}), runs).read_text()
    assert "<script" not in html and "&lt;script&gt;rows" in html and "default-src 'none'" in html
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert html.count("<svg ") == 2  # for a screen and for a phone


def test_a_run_that_does_not_end_well_ends_the_row(tmp_path: Path) -> None:
    config = parse(recipe.load("arena").config, [*WORDS, "--runs-dir", str(tmp_path)], "train.py")
    assert seeds.train(config, lambda config, stop: exits.STOPPED) == exits.STOPPED


def test_the_command_trains_each_seed(tmp_path: Path) -> None:
    done = run_script("arena", *WORDS, "--devices", "1", "--runs-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    kept = [json.loads((f / "config.json").read_text())["optim"]["seed"] for f in tmp_path.glob("arena/2*")]
    assert sorted(kept) == [4, 5]
    assert "standard deviation" in done.stdout
