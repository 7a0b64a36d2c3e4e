"""What a run costs, when it stops for a limit, and how often it saves where machines are taken away."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib import recipe, run
from lib.base import exits, moments
from lib.base.contents import Sitting
from lib.command_line import parse, words
from lib.config import Config, LimitsConfig
from lib.launching.workers import launch
from lib.process import began
from lib.process.signals import StopFlag
from lib.runs import listing, sittings
from lib.runs.folder import RunFolder
from lib.runs.limits import Limits, Times, refuse_spent
from lib.tasks.classify import Classify
from lib.training import checkpoint, interval
from lib.training.ddp import Ddp
from tests.tools import ROOT, SHORT, alone, losses, metrics, only_run, status, weights_hash

TINY = [*SHORT, "--model", "tiny", "--init", "random"]


SAY_SINCE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lib.process import began; "
SAY_SINCE += "print(began.since_s())"


class Clock:
    """What time it is, in seconds since 1970: that of the machine and what is added, or what is set."""

    def __init__(self) -> None:
        self.added, self.stands = 0.0, math.nan

    def __call__(self) -> float:
        return (time.time() if math.isnan(self.stands) else self.stands) + self.added


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(moments, "now_s", clock)
    monkeypatch.setattr(began, "since_s", clock)
    return clock


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def configuration(*flags: str) -> Config:
    return parse(recipe.load("arena").config, list(flags), "test")


def train(*flags: str) -> int:
    return exits.run(lambda: run.train(configuration(*TINY, *flags)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never stopped, and nobody said a price."""
    runs = tmp_path_factory.mktemp("finished")
    assert train("--runs-dir", str(runs)) == 0
    return only_run(runs)


def same_as(folder: Path, reference: Path) -> None:
    assert losses(folder) == losses(reference)
    assert weights_hash(folder, 6) == weights_hash(reference, 6)
    assert (folder / "scores.json").read_text() == (reference / "scores.json").read_text()
    assert [line["step"] for line in metrics(folder, "validation")] == [3, 6]


def later_by(seconds: float, verb: str, owner: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of `verb` takes so long."""
    honest = getattr(owner, verb)

    def slow(*arguments: Any, **named: Any) -> Any:
        clock.added += seconds
        return honest(*arguments, **named)

    monkeypatch.setattr(owner, verb, slow)


# arithmetic, by planted clocks


def sitting(from_h: float, to_h: float | None, price: float | None) -> Sitting:
    return Sitting(began=3600 * from_h, ended=None if to_h is None else 3600 * to_h, price=price)


def test_each_sitting_costs_its_own_price_and_the_last_one_says_whether_money_counts() -> None:
    one = [sitting(1, 3, 0.5), sitting(10, 11, None), sitting(20, None, 2.0)]
    # 2 h at 0.5, an hour that nobody priced at today's 2.0, and half an hour at 2.0
    assert sittings.cost(one, 20.5 * 3600) == pytest.approx(1 + 2 + 1)
    assert sittings.seconds(one, 20.5 * 3600) == 3.5 * 3600
    assert sittings.cost(one[:2], 0) is None and sittings.cost([], 0) is None


def test_a_killed_sitting_ends_with_its_last_sign_of_life(tmp_path: Path, clock: Clock) -> None:
    folder = RunFolder(tmp_path)
    clock.stands = 1000.0
    sittings.begin(folder, 0.36)
    folder.write_status(phase="training")  # now, years later
    (tmp_path / "status.json").write_text(json.dumps({"time": moments.written(1100)}))
    assert sittings.ended(folder) == [Sitting(began=1000, ended=1100, price=0.36)]
    lines = [json.dumps({"kind": "train", "time": 1200.5}), '{"kind": "train", "time": 1300']  # cut short
    folder.metrics.write_text("\n".join(lines))
    assert sittings.last_sign_s(folder) == 1200.5
    clock.stands = 5000.0
    sittings.begin(folder, 0.36)
    clock.stands = 5100.0
    folder.write_record(**sittings.end(folder))
    # 200.5 s and 100 s at 0.0001 a second
    assert folder.record()["spent"] == pytest.approx(0.03005)
    assert sittings.spent(folder) == (pytest.approx(0.03005), 300.5)


def limits(**values: Any) -> Limits:
    """Steps 1 to 50 of which every tenth evaluates; this sitting began at 1000."""
    made = Limits(LimitsConfig(**values), [sitting(0, 1, 1.0), Sitting(began=1000, ended=None, price=3.6)])
    made.begin(0, 50, 10)
    return made


def measured(clock: Clock, **values: Any) -> Limits:
    """At 1100 two steps were made, of 60 s and of 10 s; an evaluation took 30 s, another 20 s."""
    clock.stands = 1000.0
    made = limits(**values)
    for step, now in ((1, 1060.0), (2, 1100.0)):
        clock.stands = now
        made.stepped(step)
        if step == 1:
            made.took("evaluation", 20.0)
            made.took("evaluation", 8.0)
            made.took("stall", 2.0)
    made.times["evaluation"].add(30.0)
    made.took("write", 8.0)
    made.took("update", 1.0)
    return made


def test_the_first_step_counts_until_there_is_a_second_and_evaluations_are_no_part_of_one(
    clock: Clock,
) -> None:
    clock.stands = 1000.0
    made = limits()
    clock.stands = 1060.0
    made.stepped(1)
    assert made.times["step"] == Times(1, 60.0, 60.0)
    # 40 s later, of which 20 + 8 + 2 went to evaluations and a save
    assert measured(clock).times["step"] == Times(1, 10.0, 10.0)


def test_a_stop_leaves_room_for_a_step_its_evaluation_a_save_and_a_margin(clock: Clock) -> None:
    made = measured(clock)
    # the slowest: step 10, update 1, evaluation 30, stall 2, write 8; a tenth more and two seconds
    assert made.needed_s() == pytest.approx(51 * 1.1 + 2)
    made.step = 10  # the evaluation after this step is still to come, with a save
    assert made.needed_s() == pytest.approx((51 + 32) * 1.1 + 2)
    made.took("evaluation", 1.0)
    assert made.needed_s() == pytest.approx(51 * 1.1 + 2)


@pytest.mark.parametrize(("left_s", "reached"), [(58.11, False), (58.09, True), (0.0, True), (-5.0, True)])
def test_a_deadline_is_reached_when_what_must_fit_does_not(
    clock: Clock, left_s: float, reached: bool
) -> None:
    made = measured(clock, deadline=moments.datetime.fromtimestamp(1100 + left_s).isoformat())
    assert made.reached() is reached
    made.step = 50
    assert not made.reached(), "the last step ends a run anyway"


def test_a_cost_cap_is_a_moment(clock: Clock) -> None:
    # an hour at 1.0 before; 3.6 an hour is 0.001 a second, so 1.15 is spent 150 s after this one began
    made = measured(clock, price=3.6, max_cost=1.15)
    assert made.caps() == {"--max-cost": pytest.approx(1150)}
    assert made.spent() == pytest.approx(1.1) and made.reached()
    assert not measured(clock, price=3.6, max_cost=1.159).reached()  # 59 s are left, 58.1 are needed
    # only a save fits any more: (2 + 8) * 1.1 + 2 before the moment
    at_s, said = made.last_call()
    assert at_s == pytest.approx(1150 - 13) and said == "--max-cost 1.15 is close"
    assert limits().last_call() == (math.inf, "")


def test_the_nearest_of_two_limits_is_named(clock: Clock) -> None:
    clock.stands = 1000.0
    for at, flag in ((1100, "--deadline"), (1200, "--max-cost")):
        deadline = moments.datetime.fromtimestamp(at).isoformat()
        made = measured(clock, price=3.6, max_cost=1.15, deadline=deadline)
        assert made.why().startswith(flag) and f"larger {flag}" in made.to_go_on().replace("later", "larger")


def test_expected_is_said_when_an_evaluation_was_measured_and_at_least_before(clock: Clock) -> None:
    clock.stands = 1000.0
    made = limits(price=3.6)
    assert made.status() == {"spent": 1.0, "expected": None, "at_least": None}
    clock.stands = 1060.0
    made.stepped(1)
    # 49 steps of 60 s
    assert made.status() == {"spent": 1.06, "expected": None, "at_least": pytest.approx(1.06 + 0.001 * 2940)}
    made = measured(clock, price=3.6)
    made.scoring = 2.5
    # 48 steps of 10 s; five evaluations of (20 + 8 + 30) / 3 s with saves of 2 s, 2.5 more without
    rest = 480 + 5 * (58 / 3 + 2) + 2.5 * 58 / 3
    assert made.status()["expected"] == pytest.approx(1.1 + 0.001 * rest)
    assert "spent" not in measured(clock).status()


@pytest.mark.parametrize(
    ("num_steps", "every", "step", "left"),
    [
        (50, 10, 0, 5),
        (50, 10, 9, 5),
        (50, 10, 10, 5),
        (50, 10, 11, 4),
        (50, 10, 50, 1),
        (7, 3, 6, 2),
        (7, 9, 1, 1),
    ],
)
def test_evaluations_left_are_those_at_multiples_and_at_the_end(
    num_steps: int, every: int, step: int, left: int
) -> None:
    """At a multiple its own evaluation is still to come."""
    made = Limits()
    made.begin(0, num_steps, every)
    made.step = step
    assert made._evaluations_left() == left


def total(every_s: float, stall_s: float, restart_s: float, between_s: float) -> float:
    """Daly's complete model: wall time for each second of work."""
    grown = math.exp(restart_s / between_s) * math.expm1((every_s + stall_s) / between_s)
    return between_s * grown / every_s


@pytest.mark.parametrize("stall_s", [0.05, 5.0, 300.0])
@pytest.mark.parametrize("restart_s", [0.0, 900.0])
def test_the_interval_loses_least_in_the_complete_model(stall_s: float, restart_s: float) -> None:
    """Against the best of 2,000 intervals; a restart moves it nowhere."""
    between_s = 8 * 3600
    best = interval.best_s(stall_s, between_s)
    tried = [best * 10 ** (number / 1000 - 1) for number in range(2000)]
    least = min(tried, key=lambda every_s: total(every_s, stall_s, restart_s, between_s))
    assert best == pytest.approx(least, rel=0.01)
    # Young's formula, which Daly's terms and the stall change by 0.7 * sqrt(stall / between) and less
    assert best == pytest.approx(
        math.sqrt(2 * stall_s * between_s), rel=0.75 * math.sqrt(stall_s / between_s)
    )


def test_what_is_lost_is_stalls_half_intervals_and_restarts() -> None:
    # 2 s in 100; and each 1000 s 50 s of work and 30 s after it
    assert interval.lost_share(100, 2, 30, 1000) == pytest.approx(0.02 + 0.08)


def test_a_notice_that_is_long_enough_leaves_crashes_only(clock: Clock) -> None:
    # step 10 + stall 2 + write 8, and a tenth more: 22 s
    short, enough = measured(clock, notice=21), measured(clock, notice=22)
    assert short.save_every_s(600) == pytest.approx(interval.best_s(2, 8 * 3600))
    assert enough.save_every_s(600) == pytest.approx(interval.best_s(2, 168 * 3600))
    assert measured(clock, notice=22, failure_hours=1).save_every_s(600) == interval.best_s(2, 3600)
    assert measured(clock).save_every_s(600) == 600, "nobody said a notice"
    assert limits(notice=0).save_every_s(600) == 0, "the first save is made at once, to be measured"
    enough.took("write", 9000.0)
    assert enough.save_every_s(600) == 9000, "no save begins before the last one is on the disk"


def test_the_interval_is_said_once_and_again_when_it_is_quite_another(clock: Clock) -> None:
    made = measured(clock, notice=0, price=0.36)
    # sqrt(2 * 2 * 28800) * (1 + 0.0059 / 3) - 2 = 338 s; 2 / 338 + (169 + 8 + 0) / 28800 of the time
    assert made.interval_words() == (
        "saving every 5 min 38 s: a save holds training up for 2 s, 0 s of notice are too short for one, and "
        "the machine is lost unsaved every 8 h (assumed: --failure-hours); that costs 1.21% of the time, "
        "0.0043 an hour, the least there is"
    )
    assert made.interval_words() is None
    made.took("stall", 30.0)  # 16 in the mean: 2.8 times as long
    assert "a save holds training up for 16 s" in str(made.interval_words())
    assert measured(clock).interval_words() is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.814, "0.81 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (340, "5 min 40 s"),
        (662, "11 min"),
    ]
    + [(3599, "1 h 0 min"), (3725, "1 h 2 min")],
)
def test_a_span_in_words(seconds: float, words: str) -> None:
    assert moments.span(seconds) == words


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-01T06:00Z", 1796104800),
        ("2026-12-01T06:00+01:00", 1796101200),
        ("90m", 6400),
        ("1.5h", 6400),
        ("2d", 173800),
        ("30s", 1030),
    ],
)
def test_a_time_is_read(text: str, moment: float, clock: Clock) -> None:
    clock.stands = 1000.0
    assert moments.moment_s(text) == moment


def test_a_time_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-5")  # five hours east of Greenwich
    time.tzset()
    try:
        assert moments.moment_s("2026-12-01T06:00") == 1796104800 - 5 * 3600
        assert moments.written(1796104800) == "2026-12-01T11:00:00+05:00"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--price 0", "--price is 0.0; it must be above 0"),
        ("--price -1", "--price is -1.0; it must be above 0"),
        ("--price nan", "--price is nan"),
        ("--price 1 --max-cost 0", "--max-cost is 0.0"),
        ("--max-cost 8", "--max-cost 8 needs to know what an hour costs; add --price 0.44"),
        ("--deadline 2020-01-01", "--deadline 2020-01-01T00:00:00"),
        ("--deadline 0s", "is past (it is 20"),
        ("--deadline soon", "--deadline: 'soon' is no time; write one like 2026-12-01T06:00"),
        ("--deadline 99999999d", "is no time"),
        ("--deadline 8", "is no time"),
        ("--notice -1", "--notice is -1; it must be 0 (no warning) or more seconds"),
        ("--notice 5 --save-every 7", "leave --save-every and --save-minutes out"),
        ("--notice 5 --save-minutes 7", "leave --save-every and --save-minutes out"),
        ("--failure-hours 3", "add --notice 0"),
        ("--notice 5 --failure-hours 0", "--failure-hours is 0.0"),
    ],
)
def test_nonsense_is_refused_with_what_to_type(
    flags: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*flags.split()) == 2
    assert said in capsys.readouterr().err


def test_a_span_from_now_becomes_a_moment_that_workers_and_later_runs_share(clock: Clock) -> None:
    clock.stands = 1796104800.0
    config = configuration("--deadline", "2h")
    clock.stands += 1000
    assert moments.moment_s(str(config.limits.deadline)) == 1796104800 + 7200
    assert configuration(*words(config, recipe.load("arena").config)) == config


def test_a_run_counts_from_its_process_and_a_second_in_it_from_the_end_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(began, "_counted_s", 0.0)
    monkeypatch.delenv(began.VARIABLE, raising=False)
    assert began.since_s() == pytest.approx(began.process_s(), abs=0.1)
    asked_s, words = time.time(), [sys.executable, "-c", f"import time; time.sleep(0.7); {SAY_SINCE}"]
    assert float(subprocess.check_output(words)) == pytest.approx(asked_s, abs=0.5), "not when it first asked"
    monkeypatch.setattr(os, "environ", os.environ | {})
    began.pass_on()
    passed_on = subprocess.check_output(words, env=os.environ)
    assert float(passed_on) == pytest.approx(began.process_s(), abs=0.1), "of the process that started it"
    monkeypatch.undo()
    monkeypatch.setattr(began, "_counted_s", 0.0)
    began.count_to(time.time())
    assert began.since_s() == pytest.approx(time.time(), abs=1)


def test_a_moment_that_passes_asks_for_a_stop(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    stop = StopFlag(deaf=True)
    clock.stands = 99.0
    stop.ask_at(100.0, "--deadline is close")
    assert not stop.requested and not stop.timed
    clock.stands = 100.0
    assert stop.requested and stop.timed and stop.reason == "--deadline is close"
    assert "--deadline is close: stopping" in capfd.readouterr().err


# whole runs


def test_a_deadline_stops_in_time_and_the_run_goes_on_to_the_same_bits(
    finished: Path,
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """600 s a step. With the second one 1200 have gone, and 600 * 1.1 + 2 do not fit before 1800: it is
    saved, scored though no evaluation is due, and that chooses no best step."""
    later_by(600, "norm", Ddp, clock, monkeypatch)
    flags = ["--runs-dir", str(tmp_path)]
    assert train(*flags, "--deadline", "1800s") == 75
    folder, (out, err) = only_run(tmp_path), capsys.readouterr()
    assert status(folder)["exit_code"] == 75 and len(losses(folder)) == 2
    assert (
        "has no room for more, at step 2 of 6; saved. The same command with a later --deadline goes on" in err
    )
    assert "interim validation at step 2: log_loss " in out and not metrics(folder, "validation")
    (last,) = checkpoint.all_in(folder / "checkpoints")
    assert checkpoint.step_of(last) == 2 and checkpoint.verify(last) is None
    assert checkpoint.read_state(last)["best_step"] is None
    assert train(*flags, "--deadline", moments.written(clock() + 300)) == 2  # a step takes 600 s
    assert "going on takes 11 min at least; use a later --deadline" in capsys.readouterr().err
    assert status(folder)["exit_code"] == 75, "what is refused changes nothing"
    assert train(*flags, "--deadline", "2d") == 0
    same_as(folder, finished)


def test_a_first_evaluation_that_goes_beyond_a_limit_is_broken_off_and_made_up_for(
    finished: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--runs-dir", str(tmp_path), "--token-budget", "600"]  # several batches an evaluation
    honest = Classify.predict
    later_by(1e4, "predict", Classify, clock, monkeypatch)
    assert train(*flags, "--deadline", "3000s") == 75
    folder = only_run(tmp_path)
    assert len(losses(folder)) == 3 and not metrics(folder, "validation")
    log = (folder / "train.log").read_text()
    assert "has no room for more, at step 3 of 6; saved" in log and "a later --deadline" in log
    monkeypatch.setattr(Classify, "predict", honest)
    assert train(*flags) == 0
    assert [line["step"] for line in metrics(folder, "validation")] == [3, 6]


def test_a_limit_within_the_last_scoring_leaves_only_that_to_do(
    finished: Path,
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    honest = checkpoint.require_whole
    later_by(1e4, "require_whole", checkpoint, clock, monkeypatch)
    flags = ["--runs-dir", str(tmp_path), "--price", "0.36"]
    assert train(*flags, "--max-cost", "0.9") == 75  # 9000 s
    assert "at the last scoring; saved. The same command with a larger --max-cost" in capsys.readouterr().err
    folder = only_run(tmp_path)
    assert len(losses(folder)) == 6 and not (folder / "scores.json").exists()
    assert train(*flags, "--max-cost", "0.9") == 2
    assert "--max-cost 0.9 (1.00 are spent) has no room for more" in capsys.readouterr().err
    monkeypatch.setattr(checkpoint, "require_whole", honest)
    assert train(*flags, "--max-cost", "1.1") == 0
    same_as(folder, finished)


def test_two_ranks_stop_at_the_step_where_rank_0_finds_the_money_spent(
    tmp_path: Path, workers_begin_at_once: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """0.001 a second, 600 s a step on rank 0's clock: with the second step 1.2 is spent, and 0.66 more do not
    fit into 1.8, whatever start-up took."""
    ordered = ["--reduce", "ordered", "--runs-dir"]  # the same bits on any number of ranks
    assert train(*ordered, str(tmp_path / "whole")) == 0
    flags = [*ordered, str(tmp_path / "parts"), "--price", "3.6"]
    two = ["arena", *TINY, *flags, "--devices", "2", "--max-cost", "1.8"]
    assert launch(ROOT / "tests/limit_checks.py", two, 2) == 75
    assert "larger --max-cost goes on; all of it costs about" in capfd.readouterr().err
    folder = only_run(tmp_path / "parts")
    assert len(losses(folder)) == 2 and len(metrics(folder, "interim")) == 1
    ends = [(folder / name).read_text().splitlines()[-1] for name in ("train.log", "train.rank1.log")]
    assert all("ends with exit code 75: --max-cost 1.8" in end and "at step 2 of 6" in end for end in ends)
    (one,), spent = RunFolder(folder).record()["sittings"], RunFolder(folder).record()["spent"]
    assert (
        one["ended"] and spent == pytest.approx(0.001 * (one["ended"] - one["began"])) and 1.2 < spent < 1.8
    )
    assert train(*flags, "--max-cost", "100") == 0
    same_as(folder, only_run(tmp_path / "whole"))
    record = RunFolder(folder).record()
    assert (
        record["spent"] == pytest.approx(sittings.cost(record["sittings"], 0.0)) and record["spent"] > spent
    )
    assert len(record["sittings"]) == 2


def test_a_price_is_seen_everywhere_and_without_one_nothing_is(
    finished: Path, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--runs-dir", str(tmp_path), "--price", "3600") == 0  # 1 a second
    folder, out = only_run(tmp_path), capsys.readouterr().out
    record, now = RunFolder(folder).record(), status(folder)
    (one,) = record["sittings"]
    assert one["ended"] and record["spent"] == pytest.approx(one["ended"] - one["began"], abs=1e-3)
    assert now["spent"] == pytest.approx(record["spent"], rel=0.2)
    rows = [line.split() for line in out.splitlines() if "/6 " in line[:12]]
    spent = [float(row[-1].partition("/")[0]) for row in rows]
    assert "spent/whole" in out and len(rows) == 6 and spent == sorted(spent)
    assert all(">" in row[-1] for row in rows[:3]) and not any(">" in row[-1] for row in rows[3:])
    said = re.search(r"It has cost ([0-9.]+) for \S+ s of the machine", (folder / "report.html").read_text())
    assert said and spent[-1] <= float(said[1]) <= record["spent"] + 0.01
    (listed,) = listing.all_runs(str(tmp_path))
    assert listed.spent == pytest.approx(record["spent"]) and listed.expected is None
    assert " cost " in listing.table([listed], None)[0]
    # the other run
    assert not {"spent", "expected"} & (status(finished).keys() | RunFolder(finished).record().keys())
    assert "It has cost" not in (finished / "report.html").read_text()
    assert "spent" not in (finished / "train.log").read_text() + (finished / "metrics.jsonl").read_text()
    (listed,) = listing.all_runs(str(finished.parents[1]))
    assert listed.spent is None and " cost " not in listing.table([listed], None)[0]


def test_with_a_notice_the_first_save_is_measured_and_the_interval_said(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--runs-dir", str(tmp_path), "--notice", "0", "--stop-at", "5") == 75
    folder = only_run(tmp_path)
    assert [line["step"] for line in metrics(folder, "checkpoint")] == [1, 3, 5]
    assert capsys.readouterr().out.count("0 s of notice are too short for one") == 1
    assert losses(folder) == losses(finished)[:5]


def test_what_nobody_has_measured_refuses_only_what_is_spent_whole(tmp_path: Path, clock: Clock) -> None:
    folder = RunFolder(tmp_path)
    clock.stands = 3600.0
    folder.write_record(sittings=[sitting(0, 1, 1.0)])
    refuse_spent(LimitsConfig(price=1, max_cost=1.01), folder, alone())
    with pytest.raises(
        ValueError, match=r"--max-cost 1 \(1.00 are spent\) has no room for more; use a larger"
    ):
        refuse_spent(LimitsConfig(price=1, max_cost=1), folder, alone())
