"""report.html: what must be seen in it, and what must never get out of a text into the page."""

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib import recipe as recipes
from lib.answers import load as answers_of
from lib.answers.calibration import MIN_ROWS
from lib.base.contents import Sitting, Summary
from lib.base.files import read_json, write_json, write_lines
from lib.config_tree import to_dict
from lib.recipe import Example, Prediction
from lib.reports import curves, report, summary
from lib.reports.passages import passages_of
from lib.reports.report import write_report
from lib.runs.folder import RunFolder

HOSTILE = (
    """"><script>alert('x')</script><img src=http://evil.example/x onerror="y">&amp;\n\n    two  spaces"""
)


class Page(HTMLParser):
    """The text of each element, and every reference that a browser would follow."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.words = html, ""
        self.tags: list[str] = []
        self.references: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), f"{name} is a script"
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.references.append(value or "")
            self.references += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_data(self, data: str) -> None:
        self.words += data


def example(number: int, text: str = "an answer") -> Example:
    turns = [[f"first {number}", text], [f"second {number}"]]
    return Example(id=f"r{number}", group=f"p{number}", context=[f"prompt {number}"], texts=turns, label=0)


def prediction(number: int, true: float, label: int = 0) -> Prediction:
    """`true` is the probability of the true class, the rest goes to one other class."""
    probabilities = [0.0, 0.0, 0.0]
    probabilities[label], probabilities[(label + 1) % 3] = true, 1 - true
    said = probabilities.index(max(probabilities))
    row = Prediction(id=f"r{number}", label=label, prediction=said, probabilities=probabilities)
    return Prediction(**row, swapped=probabilities)


# 15 rows: 12 mistakes with 0.01, 0.02 .. 0.12 on the true class, in the order of no one, and 3 right rows
ORDER = (7, 3, 11, 0, 5, 9, 1, 10, 2, 8, 4, 6)
PREDICTIONS = [prediction(n, (n + 1) / 100) for n in ORDER] + [prediction(n, 0.9) for n in (12, 13, 14)]
STEPS: list[dict[str, Any]] = [
    {"kind": "train", "step": step, "loss": 1 / step, "lr": 1e-3} for step in range(1, 41) if step != 17
]
STEPS += [{"kind": "skipped", "step": 17, "reason": "rows <b>r3</b> had no finite loss"}]
STEPS += [
    {"kind": "validation", "step": step, "scores": {"log_loss": loss, "accuracy": 0.5}}
    for step, loss in ((10, 0.9), (20, 0.6125), (30, 0.7))
]


@cache
def summary_of_predictions() -> Summary:
    """What scores.json holds for a split."""
    recipe = recipes.load("arena")
    beside = answers_of(recipe).baselines([example(0)], [example(int(row["id"][1:])) for row in PREDICTIONS])
    return summary.summarize(recipe, PREDICTIONS, beside)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A finished run with everything but its curves, which take half a second to draw."""
    folder = RunFolder(tmp_path / "20231215_120000-words")
    folder.predictions("test").parent.mkdir(parents=True)
    recipe = recipes.load("arena")
    write_json(folder.path / "config.json", to_dict(recipe.config))
    folder.write_record(
        rows={"train": 80, "validation": 15, "test": 15},
        counts={"empty response": 4},
        num_rejected=2,
        revision=None,
        files={"train.csv": "ab" * 32},
        fingerprints={"data": "cd" * 32},
        licence="CC <BY>",
        environment={"hardware": "2 ranks on cpu", "torch": "2.13.0"},
        command="train.py arena --name words",
        training_seconds=3725.2,
    )
    write_lines(folder.path / "rejected.jsonl", [{"where": "train.csv:9", "reason": "no <i>", "value": ""}])
    for split in ("validation", "test"):
        write_lines(folder.predictions(split), PREDICTIONS)
    scores: dict[str, Any] = {"checkpoint": "step-000020", "precision": "fp32"}
    scores["splits"] = {"validation": summary_of_predictions(), "test": summary_of_predictions()}
    write_json(folder.path / "scores.json", scores)
    return folder


@pytest.fixture
def trained(folder: RunFolder) -> RunFolder:
    """The same with metrics.jsonl."""
    write_lines(folder.metrics, STEPS)
    return folder


def examples(text: str = "an answer") -> dict[str, list[Example]]:
    return {"train": [], "validation": [], "test": [example(number, text) for number in range(15)]}


def page(folder: RunFolder, text: str = "an answer") -> Page:
    return Page(write_report(folder, examples(text)).read_text(encoding="utf-8"))


def change_scores(folder: RunFolder, *without: str, **values: Any) -> None:
    """Take away or set values of every split."""
    scores = read_json(folder.path / "scores.json")
    for split, found in scores["splits"].items():
        scores["splits"][split] = {k: v for k, v in found.items() if k not in without} | values
    write_json(folder.path / "scores.json", scores)


def test_mfu_is_over_all_seconds_and_says_what_it_is_a_share_of(folder: RunFolder) -> None:
    steps = [{**STEPS[0], "mfu": share, "seconds": seconds} for share, seconds in ((0.3, 1.0), (0.5, 3.0))]
    write_lines(folder.metrics, [{**STEPS[0], "seconds": 9.0}, *steps])  # the first one of before
    two = {"flops_per_s": 3.32e11, "source": "measured"}, {"flops_per_s": 6.24e14, "source": "data sheet"}
    folder.write_record(peaks={"a CPU": two[0], "two GPUs": two[1]})
    words = " ".join(page(folder).words.split())
    assert "MFU 45.0 %" in words  # (0.3 * 1 + 0.5 * 3) / 4
    assert "332 GFLOP/s, measured; 624 TFLOP/s, data sheet" in words


def test_runs_of_before_have_no_mfu(trained: RunFolder) -> None:
    assert "MFU" not in page(trained).words


def test_hostile_texts_are_shown_and_do_nothing(trained: RunFolder) -> None:
    shown = page(trained, HOSTILE)
    assert shown.words.count(HOSTILE) == 10, "whole, with its white space, once in each of ten mistakes"
    assert not {"script", "img"} & set(shown.tags)
    assert "<b>r3" not in shown.html and "CC <BY>" in shown.words and "no <i>" in shown.words


def test_hostile_ids_stay_words(folder: RunFolder) -> None:
    rows = [Prediction(**{**row, "id": HOSTILE + row["id"]}) for row in PREDICTIONS]  # type: ignore[typeddict-item]
    write_lines(folder.predictions("test"), rows)
    assert HOSTILE in page(folder).words


def test_long_texts_are_folded_but_whole(folder: RunFolder) -> None:
    text = "\n  " + "long " * 500 + "\n"
    shown = page(folder, text)
    assert shown.tags.count("details") == 10 + 2  # and a picture of the confusion matrix of two splits
    assert shown.words.count(text) == 10


def test_half_an_emoji_does_not_cost_the_report(folder: RunFolder) -> None:
    assert r"before \ud83d after" in page(folder, "before \ud83d after").words


def test_the_page_asks_nothing_of_the_network(trained: RunFolder) -> None:
    shown = page(trained)
    assert shown.references, "the plots refer to their own clip paths"
    assert all(reference.startswith("#") for reference in shown.references)
    assert not re.search(r"https?://|@import|//\w", shown.html)
    assert "default-src 'none'" in shown.html


def test_each_clip_path_is_defined_once(trained: RunFolder) -> None:
    shown = page(trained)
    names = re.findall(r' id="([^"]*)"', shown.html)
    assert len(names) == len(set(names)) and {r[1:] for r in shown.references} <= set(names)


def test_the_ten_worst_mistakes_come_worst_first(folder: RunFolder) -> None:
    shown = re.findall(r"row (r\d+)", page(folder).words)
    assert shown == [
        f"r{n}" for n in range(10)
    ]  # r0 has 0.01 on the true class, r9 0.10; r10, r11 are left out


def test_a_mistake_shows_its_texts_labels_and_probabilities(folder: RunFolder) -> None:
    words = page(folder).words
    first = words[words.index("1. true") : words.index("2. true")]
    for part in (
        "A wins, said: B wins",
        "prompt 0",
        "text A",
        "first 0",
        "text B",
        "second 0",
        "99.0 %",
        "1.0 %",
    ):
        assert part in first


def test_validation_mistakes_stand_in_for_a_missing_test(folder: RunFolder) -> None:
    folder.predictions("test").unlink()
    assert "12 of 15 validation rows are false" in page(folder).words


def test_no_mistake_is_said(folder: RunFolder) -> None:
    write_lines(folder.predictions("test"), [prediction(number, 0.9) for number in range(15)])
    assert "None: all 15 test rows are right." in page(folder).words


def test_a_single_class_is_shouted_once_before_the_scores(folder: RunFolder) -> None:
    said = [prediction(n, 0.9 if n % 3 == 0 else 0.1, label=(0, 2, 2)[n % 3]) for n in range(15)]
    arena = answers_of(recipes.load("arena"))
    assert {row["prediction"] for row in said} == {0}
    change_scores(folder, warnings=arena.warnings(said))
    words = page(folder).words
    warning = "THE MODEL PREDICTS A SINGLE CLASS: 'A wins' FOR EVERY ROW"
    assert words.count(warning) == 1 and words.index(warning) < words.index("Scores")
    assert re.search(re.escape(warning) + r"\s+\(validation, test\)", words)


def test_no_warning_no_box(folder: RunFolder) -> None:
    change_scores(folder, warnings=[])
    assert 'role="alert"' not in page(folder).html


def test_scores_stand_beside_their_baselines_with_intervals(folder: RunFolder) -> None:
    shown = " ".join(page(folder).words.split())
    for found in read_json(folder.path / "scores.json")["splits"].values():
        for column in (found["scores"], *found["baselines"].values()):
            for value in column.values():
                assert f"{value['value']:.4f} {value['low']:.4f} to {value['high']:.4f}" in shown
    assert "log_loss lower is better" in shown and "majority class" in shown
    assert "test: 15 rows in 15 groups, 12 false predictions" in shown and "checkpoint step-000020" in shown


def test_below_the_scores_stands_who_beats_whom(folder: RunFolder) -> None:
    change_scores(folder, gains={"uniform guess": {"log_loss": 1, "accuracy": 0}})
    words = page(folder).words
    said = "The model is better than uniform guess beyond the 95 % interval in log_loss."
    assert words.count(said) == 2, "once a split"
    change_scores(folder, "gains")
    assert "beyond the 95 % interval" not in page(folder).words


def test_the_confusion_matrix_has_counts_and_shares(folder: RunFolder) -> None:
    change_scores(folder, confusion=[[3, 1, 0], [0, 0, 0], [2, 2, 1234]])
    shown = " ".join(page(folder).words.split())
    assert "A wins 3 75 % 1 25 % 0 0 % 4" in shown
    assert "B wins 0 0 % 0 0 % 0 0 % 0" in shown, "a class without rows divides by nothing"
    assert "tie 2 0 % 2 0 % 1,234 100 % 1,238" in shown


def test_precision_recall_and_f1_stand_beside_the_confusion_matrix(folder: RunFolder) -> None:
    # A wins: 3 right, 4 rows, 5 said: 3/5, 3/4, 6/9. B wins: 2 right, 4 rows, 3 said: 2/3, 2/4, 4/7
    change_scores(folder, confusion=[[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    words = " ".join(page(folder).words.split())
    # without rows of its own a class that is never said has nothing, and is no part of the mean
    assert "A wins 0.600 0.750 0.667 B wins 0.667 0.500 0.571 tie none none none" in words
    assert "macro average 0.633 0.625 0.619" in words  # of two: 19/30, 5/8, 13/21
    change_scores(folder, confusion=[[3, 1, 0], [2, 2, 0], [1, 1, 0]])
    words = " ".join(page(folder).words.split())
    # A wins: 6 said: 3/6, 3/4, 6/10. B wins: 4 said: 2/4, 2/4, 4/8. tie: 2 rows, never said
    assert "A wins 0.500 0.750 0.600 B wins 0.500 0.500 0.500 tie none 0.000 0.000" in words
    assert "macro average none 0.417 0.367" in words  # 1.25 / 3, 1.1 / 3


def calibration_of(num_rows: int) -> dict[str, Any]:
    """Of answers that are sure by 0.75 and right by 0.625."""
    one = {"up_to": 0.8, "num_rows": num_rows, "confidence": 0.75, "right": 0.625}
    return {"num_rows": num_rows, "error": 0.125, "bins": [one]}


@pytest.mark.parametrize("num_rows", [MIN_ROWS - 1, MIN_ROWS, MIN_ROWS + 1])
def test_the_calibration_is_drawn_from_enough_rows_on(folder: RunFolder, num_rows: int) -> None:
    change_scores(folder, calibration=calibration_of(num_rows))
    shown = page(folder)
    drawn = "calibration of test" in shown.html
    assert drawn == ("the expected calibration error is 0.125" in shown.words) == (num_rows >= 30)
    assert drawn != (f"Not shown: only {num_rows} test rows have a probability" in shown.words)
    assert "calibration of validation" not in shown.html


def test_without_a_test_split_validation_is_calibrated(folder: RunFolder) -> None:
    change_scores(folder, calibration=calibration_of(40))
    scores = read_json(folder.path / "scores.json")
    del scores["splits"]["test"]
    write_json(folder.path / "scores.json", scores)
    assert "calibration of validation" in page(folder).html


def test_a_run_of_before_has_no_calibration(folder: RunFolder) -> None:
    change_scores(folder, "calibration")
    assert "as sure as it is right" not in page(folder).words


def test_the_best_validation_score_and_skipped_steps_are_named(trained: RunFolder) -> None:
    words = " ".join(page(trained).words.split())
    assert "log_loss (lower is better): best 0.6125 at step 20, ringed. Crosses: skipped steps." in words
    assert "Step 17: rows <b>r3</b> had no finite loss" in words


def test_data_configuration_and_command_are_listed(folder: RunFolder) -> None:
    words = page(folder).words
    for part in ("begun 2023-12-15 12:00, 1 h 2 min of training", "ab" * 32, "cd" * 32, "empty response"):
        assert part in words
    for part in ("2 rejected rows", "train.csv:9", "optim.lr", "python scripts/train.py arena --name words"):
        assert part in words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, None),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3569, "59 min"),  # 59.48
        (3571, "1 h 0 min"),  # 59.52
        (90000, "25 h 0 min"),
    ],
)
def test_the_time_of_training_in_words(seconds: float, words: str | None) -> None:
    assert report._took(seconds) == words


def test_the_header_says_how_many_rows_a_second(folder: RunFolder) -> None:
    assert "rows/s" not in page(folder).words, "nothing was recorded"
    steps = [line | {"rows": 32, "seconds": 0.5 * line["step"]} for line in STEPS[:3]]  # 96 rows in 3 s
    write_lines(folder.metrics, [*steps, *STEPS[-1:]])
    assert "of training, 32 rows/s (all rows / all seconds)" in page(folder).words
    assert report._rate([{"kind": "train", "rows": 2 * 1234, "seconds": 2.0}]) == "1,234"
    assert report._rate([{"kind": "train", "rows": 1, "seconds": 8.0}]) == "0.125"


@pytest.mark.parametrize(
    ("runs_dir", "run"),
    [
        ("runs", "20231215_120000-words"),  # the scripts look under runs/ by themselves
        ("elsewhere", "elsewhere/arena/20231215_120000-words"),
        (str(Path.cwd() / "my runs"), "'my runs/arena/20231215_120000-words'"),
        ("/mnt/runs", "/mnt/runs/arena/20231215_120000-words"),  # no other way to name it
    ],
)
def test_what_to_type_next_names_the_run(folder: RunFolder, runs_dir: str, run: str) -> None:
    tree = read_json(folder.path / "config.json")
    tree["tracking"]["runs_dir"] = runs_dir
    write_json(folder.path / "config.json", tree)
    words = page(folder).words
    for typed in (f"compare.py {run} OTHER", f"predict.py {run} --data FILE", f"export.py {run} OUT"):
        assert f"python scripts/{typed}\n" in words
    assert f"python scripts/evaluate.py {run}\n" in words


def lora_settings(rank: int, recipe: str) -> list[str]:
    own = recipes.load(recipe)
    config = replace(own.config, adapter=replace(own.config.adapter, lora_rank=rank))
    keys = [key for part in report._settings(config, own) for key, *_ in part]
    assert "adapter.quantize" in keys and "optim.lr" in keys
    return [key for key in keys if "lora" in key]


def test_lora_is_listed_where_there_is_lora() -> None:
    assert lora_settings(0, "arena") == []
    assert "adapter.lora_alpha" in lora_settings(8, "arena")
    # boolq has LoRA unless it is told otherwise, and that it was told is to be seen
    assert lora_settings(0, "boolq") == ["adapter.lora_rank"]


def test_what_a_run_lacks_is_left_out(trained: RunFolder) -> None:
    def titles() -> list[str]:
        return re.findall(r"<h2>(.*?)</h2>", page(trained).html)

    rest = ["Scores", "Data", "Configuration", "What to do next", "To run it again"]
    sure = "Is it as sure as it is right?"
    assert titles() == [
        rest[0],
        "Training",
        "Which class is taken for which",
        sure,
        "The worst mistakes",
        *rest[1:],
    ]
    trained.metrics.write_text("")
    assert "Training" not in titles()
    trained.metrics.unlink()
    (trained.path / "rejected.jsonl").unlink()
    rows = [{key: value for key, value in row.items() if key != "label"} for row in PREDICTIONS]
    write_lines(trained.predictions("test"), rows)
    assert titles() == [rest[0], "Which class is taken for which", sure, *rest[1:]], "no labels, no worst"
    change_scores(trained, "confusion", "labels", "num_false", "calibration")
    assert titles() == rest
    trained.predictions("test").unlink()
    trained.predictions("validation").unlink()
    write_json(trained.path / "run.json", {})
    assert titles() == rest


def test_rows_without_texts_keep_their_numbers(folder: RunFolder) -> None:
    words = Page(write_report(folder, {}).read_text(encoding="utf-8")).words
    assert "1. true: A wins" in words and "text A" not in words


def test_no_evaluation_no_validation_curve(folder: RunFolder) -> None:
    write_lines(folder.metrics, STEPS[:1])
    shown = page(folder)
    assert "training, each step" in shown.words and "validation log_loss" not in shown.words


def curves_of(name: str, lines: list[dict[str, Any]]) -> curves.Curves:
    found = curves.curves_of(lines, recipes.load(name))
    assert found is not None
    return found


def test_a_validation_log_loss_stands_on_the_axis_of_the_training_loss() -> None:
    found = curves_of("arena", STEPS)
    assert found.losses == found.validation == [(10, 0.9), (20, 0.6125), (30, 0.7)]
    for plot in found.plots.values():
        said = re.findall(r"<text[^>]*>([^<]*[a-z][^<]*)</text>", plot)
        # 39 steps are smoothed over 39 // 20 = 1, so each stands for itself
        wanted = ["learning rate", "loss", "optimizer step", "training, each step", "validation log_loss"]
        assert sorted(said) == wanted


def test_a_first_score_that_is_no_loss_keeps_its_panel_beside_the_loss() -> None:
    lines = [line for line in STEPS if line["kind"] == "train"]
    scores = {"map_at_3": 0.7, "accuracy": 0.5, "log_loss": 0.9}
    found = curves_of("science_exam", [*lines, {"kind": "validation", "step": 40, "scores": scores}])
    assert (found.validation, found.losses, found.has_panel) == ([(40, 0.7)], [(40, 0.9)], True)
    assert "validation map_at_3" in found.plots["wide"] and "validation log_loss" in found.plots["wide"]


def test_scores_of_texts_have_a_panel_of_their_own() -> None:
    lines = [line for line in STEPS if line["kind"] == "train"]
    scores = [{"loss": 3.0 - step, "rouge_l": step / 4, "bleu": 9.0, "empty": 0.0} for step in (1, 2)]
    validation = [{"kind": "validation", "step": 10 * n, "scores": each} for n, each in enumerate(scores, 1)]
    found = curves_of("meta_review", [*lines, *validation])
    assert found.written == {"rouge_l": [(10, 0.25), (20, 0.5)]} and not found.has_panel
    for plot in found.plots.values():
        assert "texts written at evaluations" in plot and ">rouge_l<" in plot
    assert curves_of("arena", STEPS).written == {}


def test_a_score_that_a_run_of_before_did_not_record_is_not_drawn() -> None:
    found = curves_of("arena", [*STEPS[:3], {"kind": "validation", "step": 3, "scores": {"accuracy": 0.5}}])
    assert found.losses == [] and found.has_panel and "validation accuracy" in found.plots["wide"]


def test_other_shapes_of_examples_are_read(folder: RunFolder) -> None:
    row: Any = {"id": "r0", "group": "g", "label": 0, "question": "why?", "options": ["yes", "no"]}
    assert list(passages_of(row)) == [
        ("question", ["why?"]),
        ("option A", ["yes"]),
        ("option B", ["no"]),
    ]


def test_smoothing_is_a_mean_around_each_step() -> None:
    values = np.array([0.0, 3.0, 6.0, 9.0])
    # window 3: (0+3)/2, (0+3+6)/3, (3+6+9)/3, (6+9)/2
    assert curves._smoothed(values, 3).tolist() == [1.5, 3.0, 6.0, 7.5]
    assert curves._smoothed(values, 1).tolist() == values.tolist()


@pytest.mark.parametrize(
    "size", [curves.MOST_POINTS - 1, curves.MOST_POINTS, curves.MOST_POINTS + 1, 100_000]
)
def test_thinning_keeps_spikes(size: int) -> None:
    values = np.random.default_rng(0).random(size)
    values[size // 3], values[size // 2] = 9.0, -9.0
    kept = curves._thinned(values)
    assert len(kept) <= curves.MOST_POINTS and (np.diff(kept) > 0).all()
    assert {size // 3, size // 2} <= set(kept.tolist())


def test_matplotlib_settings_are_left_as_they_were(trained: RunFolder) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    page(trained)
    assert dict(matplotlib.rcParams) == before


def test_the_same_run_gives_the_same_page(trained: RunFolder) -> None:
    assert page(trained).html == page(trained).html


def test_a_run_with_a_price_says_what_it_cost(folder: RunFolder) -> None:
    sitting = Sitting(began=0.0, ended=3600.0, price=0.4)
    folder.write_record(sittings=[sitting, Sitting(began=7200.0, ended=9000.0, price=0.8)])
    # an hour at 0.4 and half an hour at 0.8
    said = "It has cost 0.800 for 1 h 30 min of the machine, start-up and evaluation included, at 0.4 and 0.8"
    assert said in page(folder).words
    folder.write_record(sittings=[sitting | {"price": None}])
    assert "It has cost" not in page(folder).words
