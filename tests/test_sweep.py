"""Sweeps: what may be searched, how the search goes, and that a kill changes nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib import recipe
from lib.base import exits
from lib.base.files import read_json, write_json, write_lines
from lib.command_line import parse
from lib.config import Config
from lib.process.signals import StopFlag
from lib.runs import folder as folders
from lib.runs import resume
from lib.runs.record import code_fingerprint
from lib.sweep import result, search, space, sweep
from lib.sweep.folder import SweepFolder, Trial
from tests.tools import ROOT, SHORT, start
from tests.tools import run as run_script

FLAGS = [*SHORT, "--model", "tiny", "--init", "random", "--seed", "7"]  # the first trial diverges, no other
# The second value diverges at once: with weights of 1e30 no loss of step 2 is finite.
TREE = {
    "method": "bayes",
    "metric": {"name": "log_loss", "goal": "minimize"},
    "parameters": {"lr": {"values": [1e-3, 1e30, 4e-3]}, "warmup": {"min": 0.0, "max": 0.3}},
}
NUM_TRIALS = 3


def configuration(*flags: str, name: str = "arena") -> Config:
    return parse(recipe.load(name).config, list(flags), "test")


def file(folder: Path, tree: Any) -> str:
    path = folder / "space.json"
    path.write_text(json.dumps(tree))
    return str(path)


def read(folder: Path, parameters: Any, *flags: str, **sections: Any) -> space.Space:
    tree = {"method": "bayes", "parameters": parameters, **sections}
    return space.read(file(folder, tree), configuration(*flags))


# -- the space


def test_a_space_takes_flat_words_and_dotted_keys_and_infers_what_wandb_infers(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
            "optim.warmup": {"min": 0.0, "max": 0.5},  # not both whole: uniform
            "max-length": {"min": 64, "max": 128},  # both whole: int_uniform
            "clip": {"values": [None, 1]},
            "lora_targets": {"values": [["all-linear"], ["query", "key"]]},
            "schedule": {"value": "cosine"},
        },
        metric={"name": "validation/log_loss"},
        run_cap=7,
    )
    assert [(item.key, item.kind) for item in found.parameters] == [
        ("optim.lr", "log"),
        ("optim.warmup", "linear"),
        ("data.max_length", "whole"),
        ("optim.clip", "values"),
        ("adapter.lora_targets", "values"),
        ("optim.schedule", "values"),
    ]
    assert found.parameters[3].values == (None, 1.0)
    assert found.parameters[4].values == (("all-linear",), ("query", "key"))
    assert (found.metric, found.goal, found.trials) == ("log_loss", "minimize", 7)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"bach": {"value": 1}}, "unknown parameter 'bach'; did you mean 'batch'?"),
        ({"optim.lrr": {"value": 1}}, "did you mean 'optim.lr'?"),
        ({"lr": {"value": 1}, "optim.lr": {"value": 2}}, "'lr' and 'optim.lr' are the same field"),
        ({"batch": {"values": [16, "32"]}}, '"32" is no whole number'),
        ({"batch": {"values": [True]}}, "true is no whole number"),
        ({"batch": {"min": 8.0, "max": 16.0}}, "int_uniform gives whole ones"),
        ({"schedule": {"values": ["linaer"]}}, "no one of linear, cosine, constant"),
        ({"lr": {"values": []}}, "a list of at least one"),
        ({"lr": {"values": [1, 1.0]}}, "1.0 stands there twice"),
        ({"lr": {"min": 1e-3, "max": 1e-3}}, "is empty"),
        ({"lr": {"min": 1e-3, "max": 1e-5}}, "is empty"),
        ({"lr": {"min": 1e-3}}, "it needs value, or values, or min and max"),
        ({"lr": {"min": 0.0, "max": 1.0, "distribution": "log_uniform_values"}}, "a logarithm"),
        ({"lr": {"min": -9, "max": -2, "distribution": "log_uniform"}}, "uniform, log_uniform_values"),
        ({"lr": {"values": [1e-3], "distribution": "uniform"}}, "uniform does not go with values"),
        ({"lr": {"min": 1e-5, "max": 1e-3, "mix": 1}}, "did you mean 'min'?"),
        ({"lr": {"min": -0.1, "max": 1e-3}}, "--lr is -0.1; it must be above 0"),
        ({"warmup": {"min": 0.0, "max": 1.0}}, "it must be at least 0 and below 1"),
        ({"freeze": {"values": ["none", "all"]}, "lora_rank": {"values": [0, 8]}}, "freeze all, lora_rank 8"),
        ({"max_rows": {"values": [10, 20]}}, "scored on different rows"),
        ({"threads": {"values": [1, 2]}}, "decides no number"),
        ({"lora_rank_pattern": {"values": [{}]}}, "{} is no value that can be searched"),
        ({}, '"parameters" must name at least one'),
        ([], '"parameters" must name at least one'),
    ],
)
def test_what_cannot_be_searched_is_said(parameters: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        read(tmp_path, parameters)


def test_what_makes_other_tokens_to_be_scored_cannot_be_searched(tmp_path: Path) -> None:
    tree = {"method": "grid", "parameters": {"letters_only": {"values": [True, False]}}}
    with pytest.raises(ValueError, match="letters_only: trials would be scored on different tokens"):
        space.read(file(tmp_path, tree), configuration(name="meta_review"))


def test_every_problem_is_said_at_once_before_torch_and_ends_with_2(tmp_path: Path) -> None:
    tree = {
        "method": "bays",
        "parameters": {"bach": {"value": 1}},
        "metric": {"name": "accuracy"},
        "rncap": 1,
    }
    done = run_script("arena", *FLAGS, "--space", file(tmp_path, tree), "--runs-dir", str(tmp_path / "runs"),
                      script="sweep.py")  # fmt: skip
    assert done.returncode == 2
    for said in ("method is 'bays'", "did you mean 'batch'?", "selected by 'log_loss'", "'run_cap'?"):
        assert said in done.stderr
    assert not (tmp_path / "runs").exists()


def test_other_mistakes_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lr is searched over, and given as 0.5"):
        read(tmp_path, {"lr": {"values": [0.1]}}, "--lr", "0.5")
    with pytest.raises(ValueError, match="log_loss wants 'minimize'"):
        read(tmp_path, {"lr": {"values": [0.1]}}, metric={"goal": "maximize"})
    path = tmp_path / "twice.json"
    path.write_text('{"method": "bayes", "parameters": {"lr": {"value": 1}, "lr": {"value": 2}}}')
    with pytest.raises(ValueError, match="lr stands there twice"):
        space.read(str(path), configuration())
    with pytest.raises(ValueError, match="cannot be read"):
        space.read(str(tmp_path / "nowhere.json"), configuration())


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_has_a_default_space_over_the_learning_rate(name: str) -> None:
    config = configuration(name=name)
    (item,) = space.read(None, config).parameters
    assert (item.key, item.kind) == ("optim.lr", "log")
    assert item.low < config.optim.lr < item.high


def test_a_smoke_run_keeps_what_makes_it_small(tmp_path: Path) -> None:
    parameters = {"model": {"values": ["a/large-one"]}, "warmup": {"values": [0.0, 0.1]}}
    assert [item.name for item in read(tmp_path, parameters, "--smoke").parameters] == ["warmup"]


# -- the search


def bowl(values: dict[str, Any]) -> float:
    """Lowest at lr = 1e-3, and by 1 higher with the other schedule."""
    import math

    return (math.log10(values["lr"]) + 3) ** 2 + (values["schedule"] != "cosine")


BOWL = {
    "lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1.0},
    "schedule": {"values": ["linear", "cosine", "constant"]},
}


def searched(found: space.Space, seed: int, num_trials: int) -> list[Trial]:
    ask, trials = search.TpeSearch(found, seed), []
    for number in range(1, num_trials + 1):
        trial = ask.ask(number, trials)
        trials.append(replace(trial, state="done", score=bowl(trial.parameters)))
    return trials


def test_tpe_finds_lower_than_random_draws_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(tmp_path, BOWL)

    def mean_best() -> float:
        return sum(min(t.score or 0.0 for t in searched(found, seed, 20)) for seed in range(8)) / 8

    tpe = mean_best()
    monkeypatch.setattr(search, "FIRST_RANDOM", 1000)
    assert tpe < 0.5 * mean_best()


def test_the_next_trial_depends_on_seed_and_history_alone(tmp_path: Path) -> None:
    found = read(tmp_path, BOWL)
    trials = searched(found, 3, 8)
    # as after a stop: a new process (sets in another order), and the history as it comes out of a file
    path = tmp_path / "history.json"
    path.write_text(json.dumps([[trial.parameters, trial.score] for trial in trials[:7]]))
    program = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from lib import recipe
from lib.sweep import search, space
from lib.sweep.folder import Trial
found = space.read({str(tmp_path / "space.json")!r}, recipe.load("arena").config)
lines = enumerate(json.load(open({str(path)!r})), 1)
history = [Trial(number=n, parameters=p, score=s) for n, (p, s) in lines]
print(json.dumps(search.TpeSearch(found, 3).ask(8, history).parameters))
"""
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert json.loads(done.stdout) == trials[7].parameters, done.stderr
    other = [replace(trials[0], score=0.0), *trials[1:7]]
    assert search.TpeSearch(found, 3).ask(8, other).parameters != trials[7].parameters
    assert search.TpeSearch(found, 4).ask(8, trials[:7]).parameters != trials[7].parameters


def test_each_setting_of_a_finite_space_is_tried_once(tmp_path: Path) -> None:
    parameters = {"schedule": BOWL["schedule"], "epochs": {"min": 1, "max": 4}, "lr": {"value": 1e-3}}
    found = read(tmp_path, parameters)
    assert found.size == 3 * 4 * 1
    trials: list[Trial] = []
    for number in range(1, 13):
        trial = search.TpeSearch(found, 0).ask(number, trials)
        trials.append(replace(trial, state="done", score=1.0))
    assert len({json.dumps(trial.parameters) for trial in trials}) == 12
    assert read(tmp_path, {"lr": BOWL["lr"]}).size is None


def test_where_trials_fail_is_avoided(tmp_path: Path) -> None:
    # everything above 1e-3 fails, half of the range: of 15 random draws 7.5 would. Were failures kept from
    # TPE, it would only hear of equal scores and end up with 15.
    found = read(tmp_path, {"lr": BOWL["lr"]})
    ask, trials = search.TpeSearch(found, 0), []
    for number in range(1, 31):
        trial = ask.ask(number, trials)
        failed = trial.parameters["lr"] > 1e-3
        score = None if failed else 1.0
        trials.append(replace(trial, state="failed" if failed else "done", score=score))
    assert sum(trial.state == "failed" for trial in trials[15:]) <= 5


# -- whole sweeps, with real training


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An uninterrupted sweep."""
    at = tmp_path_factory.mktemp("swept")
    config = configuration(*FLAGS, "--runs-dir", str(at / "runs"))
    said = StringIO()
    with redirect_stdout(said):
        assert sweep.sweep(config, space.read(file(at, TREE), config), NUM_TRIALS) == 0
    words = ["arena", *FLAGS, "--space", str(at / "space.json"), "--trials", str(NUM_TRIALS)]
    (folder,) = (at / "runs" / "arena" / "sweeps").iterdir()
    return SimpleNamespace(words=words, runs=at / "runs", folder=SweepFolder(folder), said=said.getvalue())


def best_score(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return min(line["scores"]["log_loss"] for line in lines if line["kind"] == "validation")


def test_each_trial_is_an_ordinary_run_and_the_lowest_score_wins(swept: SimpleNamespace) -> None:
    trials = swept.folder.trials()
    runs = sorted((swept.runs / "arena").glob("2*"))
    assert [trial.run for trial in trials] == [run.name for run in runs] and len(runs) == NUM_TRIALS
    for trial, run in zip(trials, runs, strict=True):
        optim = read_json(run / "config.json")["optim"]
        assert {name: optim[name] for name in trial.parameters} == trial.parameters
        assert trial.state == ("failed" if trial.parameters["lr"] == 1e30 else "done")
        assert trial.score == (None if trial.state == "failed" else best_score(run))
    assert {trial.state for trial in trials} == {"done", "failed"}  # one of each at least
    assert "not finite" in str(next(trial.why for trial in trials if trial.state == "failed"))
    found = read_json(swept.folder.path / "result.json")
    winner = min((trial for trial in trials if trial.score is not None), key=lambda trial: trial.score)
    assert found["best"]["number"] == winner.number and found["failed"] + 1 < NUM_TRIALS
    assert f"best: trial {winner.number}, run folder {winner.run}" in swept.said
    # the command that is named is the experiment that won
    _, script, name, *words = found["command"].split()
    assert (script, name) == ("scripts/train.py", "arena")
    kept = folders.RunFolder(swept.runs / "arena" / str(winner.run)).config()
    typed = configuration(*words)
    assert (typed.optim, typed.data, typed.model) == (kept.optim, kept.data, kept.model)
    assert read_json(swept.runs / "arena" / str(winner.run) / "run.json")["command"].startswith(
        "train.py arena"
    )


def test_the_console_has_one_line_a_trial_and_the_page_needs_nothing_beside_it(
    swept: SimpleNamespace,
) -> None:
    lines = swept.said.splitlines()
    assert [line[:12] for line in lines if " of 3: " in line] == [f"trial {n} of 3" for n in range(1, 4)]
    assert "validation at step 3" in (swept.folder.path / "console.log").read_text()
    page = (swept.folder.path / "result.html").read_text()
    assert page.count("<svg ") == 2 and page.count("</svg>") == 2
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|url\((?!#)|@import", page)
    assert "to train it again" in page.lower() and "--warmup" in page


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1e-5, 1e-3, [1e-5, 1e-4, 1e-3]),
        (3e-5, 3e-4, [3e-5, 1e-4, 3e-4]),  # one power of ten is too little, so threes as well
        (5e-6, 5e-4, [1e-5, 3e-5, 1e-4, 3e-4]),
        (2e-4, 8e-4, [2e-4, 4e-4, 6e-4, 8e-4]),  # seven digits are in it: every second
        (1.0, 2.0, [1.0, 2.0]),
        (1.1e-4, 1.9e-4, [1.1e-4, 1.45e-4, 1.9e-4]),  # no digit is: the ends, sqrt(1.1 * 1.9) = 1.4457
        (1e-9, 1.0, [1e-9, 1e-7, 1e-5, 1e-3, 1e-1]),  # ten powers are too many: every second
        (0.5, 2e4, [10.0, 1000.0]),
    ],
)
def test_an_axis_of_learning_rates_has_several_labels(low: float, high: float, ticks: list[float]) -> None:
    assert result.log_ticks(low, high) == ticks


def test_less_than_a_decade_of_learning_rates_is_labelled_in_the_picture() -> None:
    item = space.Parameter("lr", "optim.lr", float, low=3e-5, high=3e-4, kind="log")
    searched = space.Space({}, "log_loss", "minimize", (item,), None)
    # one trial alone has no range
    trials = [Trial(number=0, parameters={"lr": 1.1e-4}, state="done", score=0.5, step=3)]
    plot = result._plot(trials, searched, 7.6)
    assert all(f">{label}</text>" in plot for label in ("3e-05", "0.0001", "0.0003"))


def test_killed_within_a_trial_the_same_command_ends_as_if_nothing_had_happened(
    swept: SimpleNamespace, tmp_path: Path
) -> None:
    words = [*swept.words, "--runs-dir", str(tmp_path)]
    process = start(*words, script="sweep.py", stdout=subprocess.DEVNULL)
    assert swept.folder.trials()[1].state == "done"  # so it has a checkpoint
    second_begun = "arena/*-trial-002/checkpoints/step-000003/manifest.json"
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(second_begun)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (at,) = (tmp_path / "arena" / "sweeps").iterdir()
    assert len(SweepFolder(at).trials()) == 1 and SweepFolder(at).begun() is not None
    done = run_script(*words, script="sweep.py")
    assert done.returncode == 0, done.stderr
    assert f"going on with {at}: 1 of 3 trials finished" in done.stdout
    names = [path.name[-9:] for path in sorted((tmp_path / "arena").glob("2*"))]
    assert names == [f"trial-{number:03d}" for number in range(1, 4)]

    def told(folder: SweepFolder) -> list[Trial]:
        return [replace(trial, run=None, seconds=0.0) for trial in folder.trials()]

    assert told(SweepFolder(at)) == told(swept.folder)


def test_smoke_goes_the_whole_path(tmp_path: Path) -> None:
    words = ["boolq", "--smoke", "--trials", "1", "--threads", "1", "--runs-dir", str(tmp_path)]
    done = run_script(*words, script="sweep.py")
    assert done.returncode == 0, done.stderr
    (at,) = (tmp_path / "boolq" / "sweeps").iterdir()
    (trial,) = SweepFolder(at).trials()
    (kept,) = (tmp_path / "boolq").glob("2*/config.json")
    # smoke's own learning rate is 1e-3; the default space goes from a tenth to ten times that
    assert read_json(kept)["optim"]["lr"] == trial.parameters["lr"] != 1e-3
    assert 1e-4 <= trial.parameters["lr"] <= 1e-2


# -- the sweep itself, with runs that only pretend to train


class Pretend:
    """Leaves what a run leaves, for these exit codes, then for 0."""

    def __init__(self, *codes: int, diverges: bool = False, data: str = "rows") -> None:
        self.codes, self.diverges, self.data, self.trained = list(codes), diverges, data, []

    def __call__(self, config: Config, stop: StopFlag | None = None) -> int:
        self.trained.append(config.tracking.name)
        code = self.codes.pop(0) if self.codes else 0
        folder = folders.create(config)
        folder.write_config(config)
        folder.write_record(
            fingerprints={"code": code_fingerprint(config.recipe), "data": self.data, "split": "halves"}
        )
        folder.write_status(phase="ended" if code else "done", exit_code=code)
        folder.unlock()
        scores = {"kind": "validation", "step": 1, "scores": {"log_loss": config.optim.lr}}
        train = {"kind": "train", "step": 1, "seconds": 2.0}
        skipped = {"kind": "skipped", "step": 2, "reason": "the gradient is not finite"}
        write_lines(folder.metrics, [train, scores, *[skipped] * (self.diverges and code == exits.REPEATS)])
        return code


def pretended(
    monkeypatch: pytest.MonkeyPatch, runs: Path, once: Pretend, trials: int = 3, *flags: str
) -> tuple[int, SweepFolder]:
    monkeypatch.setattr(sweep, "once", once)
    monkeypatch.setattr(sweep.result, "_plot", lambda *arguments: "")  # a second each, looked at above
    config = configuration("--runs-dir", str(runs), *flags)
    code = exits.run(lambda: sweep.sweep(config, space.read(None, config), trials))
    newest = max((runs / "arena" / "sweeps").iterdir())
    return code, SweepFolder(newest)


@pytest.mark.parametrize(
    "code", [exits.BAD_INPUT, exits.REFUSED, exits.STOPPED, exits.CRASHED, exits.REPEATS]
)
def test_a_trial_that_cannot_be_trained_ends_the_sweep_and_is_done_next_time(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 4 without a loss that is not finite: a full disk, say, which no other trial would survive
    once = Pretend(0, code)
    ended, folder = pretended(monkeypatch, tmp_path, once)
    assert ended == code
    assert [trial.number for trial in folder.trials()] == [1]
    asked = folder.begun()
    assert asked is not None and folder.status()["exit_code"] == code
    ended, again = pretended(monkeypatch, tmp_path, once)
    assert (ended, again.path) == (0, folder.path)
    assert again.trials()[1].parameters == asked.parameters
    assert [name[-3:] for name in once.trained] == ["001", "002", "002", "003"]


def test_a_diverged_trial_is_marked_and_not_repeated_even_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = Pretend(exits.REPEATS, diverges=True)
    code, folder = pretended(monkeypatch, tmp_path, once)
    assert code == 0
    states = [(trial.state, trial.why) for trial in folder.trials()]
    assert states == [("failed", "the gradient is not finite"), ("done", None), ("done", None)]
    # killed between the run's end and the line in trials.jsonl
    write_json(folder.path / "status.json", {"exit_code": None})
    write_lines(folder.path / "trials.jsonl", [])
    write_json(folder.path / "trial.json", {"number": 1, "parameters": read_trial(folder, 1)})
    assert pretended(monkeypatch, tmp_path, once)[0] == 0
    assert len(once.trained) == 3
    assert [trial.state for trial in folder.trials()] == ["failed", "done", "done"]


def read_trial(folder: SweepFolder, number: int) -> dict[str, Any]:
    (path,) = folder.path.parents[1].glob(f"*{folder.path.name}-trial-{number:03d}/config.json")
    return {"lr": read_json(path)["optim"]["lr"]}


def test_more_trials_go_on_never_begins_anew_and_other_commands_pass_sweeps_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = Pretend()
    _, first = pretended(monkeypatch, tmp_path, once, 2)
    assert pretended(monkeypatch, tmp_path, once, 3)[1].path == first.path
    assert len(once.trained) == 3
    # ended with 0: the same command is a new sweep, as with a run; so is another seed, and never
    assert pretended(monkeypatch, tmp_path, once, 3)[1].path != first.path
    assert pretended(monkeypatch, tmp_path, once, 1, "--seed", "1")[1].trials()[0].parameters != (
        first.trials()[0].parameters
    )
    assert pretended(monkeypatch, tmp_path, Pretend(75), 1, "--seed", "2")[0] == 75
    _, stopped = pretended(monkeypatch, tmp_path, Pretend(75), 1, "--seed", "2")
    assert (
        pretended(monkeypatch, tmp_path, once, 1, "--seed", "2", "--resume", "never")[1].path != stopped.path
    )
    assert pretended(monkeypatch, tmp_path, once, 1, "--resume", "20200101_000000")[0] == 2
    plain = configuration("--runs-dir", str(tmp_path))
    assert resume.decide(plain).folder is None and resume.finished(plain) is None
    with pytest.raises(ValueError, match="no such run"):
        resume.decide(replace(plain, tracking=replace(plain.tracking, resume="sweeps")))


def test_two_sweeps_do_not_share_a_folder_and_changed_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = pretended(monkeypatch, tmp_path, Pretend(75))
    folder.lock()
    assert pretended(monkeypatch, tmp_path, Pretend())[0] == 2
    assert f"held by a live process (pid {os.getpid()})" in capsys.readouterr().err
    folder.unlock()
    folder.describe(code="0" * 64)
    assert pretended(monkeypatch, tmp_path, Pretend())[0] == 3
    assert "fingerprint of code changed" in capsys.readouterr().err


def test_rows_that_changed_between_two_trials_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretended(monkeypatch, tmp_path, Pretend(0, 75))[0] == 75
    code, folder = pretended(monkeypatch, tmp_path, Pretend(data="others"))
    assert (code, len(folder.trials())) == (3, 1)
    assert "fingerprint of data changed" in capsys.readouterr().err


def test_a_sweep_that_is_refused_at_once_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "once", lambda config, stop: exits.BAD_INPUT)
    config = configuration("--runs-dir", str(tmp_path))
    assert sweep.sweep(config, space.read(None, config), 3) == 2
    assert not list(tmp_path.glob("arena/sweeps/*"))


def test_a_trial_killed_before_its_first_checkpoint_leaves_no_second_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended(monkeypatch, tmp_path, Pretend(0, 75))
    (killed,) = (tmp_path / "arena").glob("2*-trial-002")
    assert not (killed / "checkpoints").exists()
    write_json(killed / "status.json", {"phase": "preparing", "exit_code": None})
    assert pretended(monkeypatch, tmp_path, Pretend())[0] == 0
    names = sorted(path.name[-9:] for path in (tmp_path / "arena").glob("2*"))
    assert names == ["trial-001", "trial-002", "trial-003"]


def test_a_signal_between_two_trials_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = sweep.result.write

    def with_signal(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        honest(*arguments)

    monkeypatch.setattr(sweep.result, "write", with_signal)
    code, folder = pretended(monkeypatch, tmp_path, Pretend())
    assert (code, len(folder.trials()), folder.status()["exit_code"]) == (75, 1, 75)


def test_what_makes_no_sense_for_a_sweep_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration("--runs-dir", str(tmp_path), "--seeds", "2")
    with pytest.raises(ValueError, match="--seeds"):
        sweep.sweep(config, space.read(None, config), None)
    config = configuration("--runs-dir", str(tmp_path))
    with pytest.raises(ValueError, match="--trials is -1"):
        sweep.sweep(config, space.read(None, config), -1)
    assert not list(tmp_path.iterdir())


# -- wandb's own search: its service cannot be asked here, so its three calls are stood in for


class Service:
    """wandb.sweep, wandb.agent and wandb.init as far as they are used: the agent calls the function in a
    thread, with variables set for the run that it starts."""

    def __init__(self, *proposals: dict[str, Any]) -> None:
        self.proposals, self.created, self.told = list(proposals), [], []

    def sweep(self, tree: dict[str, Any], project: str) -> str:
        self.created.append((tree, project))
        return "s1"

    def agent(self, sweep_id: str, function: Any, project: str, count: int) -> None:
        assert (sweep_id, count) == ("s1", 1)
        os.environ["WANDB_RUN_ID"] = "r1"
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    def init(self, **settings: Any) -> Any:
        service = self

        class Run:
            id = settings.get("id", "r1")
            config = self.proposals.pop(0) if self.proposals else {}
            summary: dict[str, Any] = {}

            def __enter__(self) -> "Run":
                return self

            def __exit__(self, *error: object) -> None:
                service.told.append((self.id, dict(self.summary)))

            def log(self, values: dict[str, Any]) -> None:
                self.summary.update(values)

        return Run()


def stand_in(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "somebody is logged in")
    for name in ("sweep", "agent", "init"):
        monkeypatch.setattr(wandb, name, getattr(service, name))


def test_online_the_same_file_is_sent_and_what_comes_back_is_trained_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service({"lr": 2e-5}, {"lr": 4e-5})
    stand_in(monkeypatch, service)
    seen = []

    class Looks(Pretend):
        def __call__(self, config: Config, stop: StopFlag | None = None) -> int:
            seen.append(os.environ.get("WANDB_RUN_ID"))
            return super().__call__(config, stop)

    code, folder = pretended(monkeypatch, tmp_path, Looks(), 2, "--wandb", "online")
    assert code == 0
    ((tree, project),) = service.created
    assert project == "train-arena" and tree["name"] == folder.path.name
    assert tree["metric"] == {"name": "log_loss", "goal": "minimize"} and tree["method"] == "bayes"
    assert tree["parameters"] == {"lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}}
    trials = folder.trials()
    assert [(t.parameters["lr"], t.score, t.tracked) for t in trials] == [
        (2e-5, 2e-5, "r1"),
        (4e-5, 4e-5, "r1"),
    ]
    assert [told["log_loss"] for _, told in service.told] == [2e-5, 4e-5]
    assert seen == [None, None]  # a trial's own follower must not write into the search's run


def test_online_a_killed_trial_is_told_afterwards_and_a_dead_service_stops_resumably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service({"lr": 2e-5})
    stand_in(monkeypatch, service)
    _, folder = pretended(monkeypatch, tmp_path, Pretend(75), 2, "--wandb", "online")
    assert folder.begun() is not None and len(service.created) == 1

    def unreachable(*arguments: Any, **settings: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(__import__("wandb"), "agent", unreachable)
    code, again = pretended(monkeypatch, tmp_path, Pretend(), 2, "--wandb", "online")
    assert (code, again.path) == (75, folder.path)
    assert [(trial.number, trial.score) for trial in again.trials()] == [(1, 2e-5)]
    assert ("r1", {"run folder": again.trials()[0].run, "state": "done", "log_loss": 2e-5}) in service.told
    assert "ConnectionError: no route" in capsys.readouterr().err
    assert len(service.created) == 1


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> object:
    """A sweep takes over the signals of this process; give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    argv = sys.argv
    yield
    sys.argv = argv
    for number, handler in kept.items():
        signal.signal(number, handler)
