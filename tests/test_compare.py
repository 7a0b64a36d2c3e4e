"""Comparing runs: small run folders written from JSON, read by the real command."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib import recipe as recipes
from lib.answers.metrics import LOG_LOSS
from lib.base.exits import CheckError
from lib.base.files import read_lines
from lib.config import Config
from lib.config_tree import to_dict
from lib.reports.compare import compare
from lib.reports.compare_words import lines
from lib.runs.folder import find

ROOT = Path(__file__).resolve().parents[1]
LABELS = ["A wins", "B wins", "tie"]
FINGERPRINTS = {"data": "d" * 64, "split": "e" * 64, "tokenizer": "f" * 64, "code": "c" * 64}


def predictions(skill: float, num_rows: int = 400, seed: int = 0, first_id: int = 0) -> list[dict[str, Any]]:
    """Labels and difficulties are the same for every skill (0 is chance); `seed` is the model's own noise."""
    rows, noise = np.random.default_rng(9), np.random.default_rng(seed)
    labels, hard = rows.integers(0, 3, num_rows), rows.normal(0, 1, num_rows)
    found = []
    for number in range(num_rows):
        logits = noise.normal(0, 0.3, 3)
        logits[labels[number]] += skill + hard[number]
        said = np.exp(logits) / np.exp(logits).sum()
        row = {
            "id": str(first_id + number),
            "group": f"g{first_id + number}",
            "label": int(labels[number]),
            "prediction": int(said.argmax()),
        }
        found.append(row | {"probabilities": said.tolist(), "swapped": said.tolist()})
    return found


def settings(**changes: Any) -> dict[str, Any]:
    """A configuration; `optim__seed=1` sets optim.seed."""
    tree = json.loads(json.dumps(to_dict(Config())))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            tree[section][name] = value
        else:
            tree[section] = value
    return tree


def write_run(path: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    """A finished run folder; `rows=None` makes one that stopped in training. Other names replace what is in
    run.json, or are settings."""
    record = {
        "rows": {"train": 3200, "validation": 400, "test": 400},
        "counts": {"responses cut": 3, "empty response": 2},
        "num_rejected": 0,
        "revision": None,
        "files": {"train.csv": "a" * 64},
        "fingerprints": FINGERPRINTS,
        "environment": {"python": "3.11.7", "torch": "2.13.0", "precision": "fp32", "threads": 2},
        "weights": "b" * 64,
    }
    labels, weights = changes.pop("labels", LABELS), changes.pop("trained", path.name)
    record |= {key: changes.pop(key) for key in list(changes) if key in record}
    path.mkdir(parents=True)

    def write(name: str, value: Any) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(value))

    write("config.json", settings(**changes))
    write("run.json", record)
    write("status.json", {"phase": "training", "exit_code": None, "step": 7})
    if rows is not None:
        write("status.json", {"phase": "done", "exit_code": 0})
        summary = {"num_rows": len(rows), "labels": labels}
        write("scores.json", {"checkpoint": "step-000100", "splits": {"test": summary}})
        files = {"head.safetensors": {"sha256": weights}, "optimizer.safetensors": {"sha256": path.name}}
        write("checkpoints/step-000100/manifest.json", {"body": {"files": files}})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (path / "predictions").mkdir()
        (path / "predictions" / "test.jsonl").write_text(lines)
    return path


def said(*paths: Path, common_rows: bool = False) -> str:
    """What compare says."""
    comparison = compare(tuple(map(str, paths)), "test", common_rows, "runs")
    comparison.refuse()
    return "\n".join(lines(comparison))


def refusal(*paths: Path) -> str:
    with pytest.raises(CheckError) as caught:
        said(*paths)
    return str(caught.value)


def section(text: str, name: str) -> list[str]:
    """The indented lines under a heading, blanks squeezed."""
    all_lines = text.splitlines()
    found = []
    for line in all_lines[all_lines.index(name) + 1 :]:
        if not line.startswith("  "):
            break
        found.append(" ".join(line.split()))
    return found


def verdict(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("verdict"))


def test_what_differs_is_listed_by_section_and_what_is_equal_in_one_line(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", predictions(1.0))
    two = write_run(
        tmp_path / "two",
        predictions(1.2),
        data__max_length=64,
        compute__devices=2,
        counts={"responses cut": 90, "empty response": 2},
        files={"train.csv": "9" * 64},
        environment={"python": "3.11.7", "torch": "2.11.0", "precision": "bf16", "threads": 2},
    )
    text = said(one, two)
    assert section(text, "configuration") == ["data.max_length 512 64"]
    assert section(text, "truncation") == ["data.max_length 512 64", "responses cut 3 90"]
    assert section(text, "data") == ["sha256 of train.csv aaaaaaaaaaaa 999999999999"]
    assert section(text, "environment") == ["torch 2.13.0 2.11.0", "precision fp32 bf16"]
    assert section(text, "hardware and tracking") == ["compute.devices - 2"]
    assert section(text, "weights") == ["head.safetensors one two"]
    assert "equal: split, tokenizer, code" in text.splitlines()


def test_every_fingerprint_that_differs_is_named(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", predictions(1.0))
    two = write_run(tmp_path / "two", predictions(1.2), fingerprints=dict.fromkeys(FINGERPRINTS, "1" * 64))
    text = said(one, two)
    for name, digest in FINGERPRINTS.items():
        assert f"fingerprint {digest[:12]} 111111111111" in section(text, name)
    assert "mind: the split differs" in text and "whose text changed cannot be seen" in text


def test_a_better_model_is_better_and_the_first_is_worse_than_it(tmp_path: Path) -> None:
    weak, strong = (
        write_run(tmp_path / "weak", predictions(0.5)),
        write_run(tmp_path / "ok", predictions(2.0)),
    )
    assert "on 400 rows in 400 groups, B against A: better" in verdict(said(weak, strong))
    assert "on 400 rows in 400 groups, B against A: worse" in verdict(said(strong, weak))
    assert "mind:" not in said(weak, strong)


def test_models_of_one_skill_cannot_be_told_apart_and_how_many_rows_would_tell_is_said(
    tmp_path: Path,
) -> None:
    one, two = (write_run(tmp_path / str(seed), predictions(1.0, 100, seed)) for seed in (2, 3))
    assert "cannot tell; about " in verdict(said(one, two)) and "more rows would tell" in verdict(
        said(one, two)
    )


def texts(loss: float, num_tokens: int) -> list[dict[str, Any]]:
    """Of one model: 50 times the same answer word for word."""
    known = {"answer": "It is good.", "target": "It is good.", "ended": True, "num_written": 4}
    return [
        {"id": str(row), "group": str(row), "loss": loss + row % 3, "num_tokens": num_tokens, **known}
        for row in range(50)
    ]


def test_losses_of_other_tokens_are_not_compared(tmp_path: Path) -> None:
    """Half the tokens (another tokenizer, or signs left out), each at twice the loss, are no worse model."""
    whole = to_dict(recipes.load("meta_review").config)
    one = write_run(tmp_path / "one", texts(20.0, 8), **whole)
    same = write_run(tmp_path / "same", texts(30.0, 8), **whole)
    other = write_run(tmp_path / "other", texts(20.0, 4), **whole)
    assert verdict(said(one, same)).startswith("verdict by loss on 50 rows in 50 groups, B against A: worse")
    text = said(one, other)
    assert verdict(text).startswith("verdict by rouge_1 ")
    assert "mind: loss, perplexity are left out: in 50 rows they are of other tokens" in text
    assert not re.search(r"^  (loss|perplexity) ", text, re.MULTILINE)


def test_few_rows_give_no_verdict(tmp_path: Path) -> None:
    weak, strong = (write_run(tmp_path / str(skill), predictions(skill, 9)) for skill in (0.0, 4.0))
    assert "cannot tell: fewer than 10 groups" in verdict(said(weak, strong))


def test_equal_predictions_of_other_settings_are_pointed_out(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", predictions(1.0), trained="w")
    same = write_run(tmp_path / "same", predictions(1.0), trained="w", optim__lr=1.0)
    other = write_run(tmp_path / "other", predictions(1.0), trained="x", optim__lr=1.0)
    assert "the same in every prediction" in verdict(said(one, same))
    assert "though optim.lr differ: the scored checkpoints hold the same weights" in said(one, same)
    assert "the scored checkpoints hold OTHER weights" in said(one, other)
    (other / "checkpoints/step-000100/manifest.json").unlink()
    assert "they must be the same weights" in said(one, other)


def test_equal_runs_are_the_same_without_a_warning(tmp_path: Path) -> None:
    one, two = (write_run(tmp_path / name, predictions(1.0), trained="w") for name in ("one", "two"))
    assert "the same in every prediction" in verdict(said(one, two)) and "mind:" not in said(one, two)


def test_seeds_of_one_experiment_measure_seed_noise(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / str(seed), predictions(1.0, 60, seed), optim__seed=seed) for seed in range(3)
    ]
    text = said(*runs)
    assert text.count("only --seed differs: the difference measures seed noise, no setting") == 2
    assert "3 seeds of one experiment: mean " in text
    lr = write_run(tmp_path / "lr", predictions(1.0, 60, 4), optim__seed=4, optim__lr=1.0)
    assert "seeds of one experiment" not in said(*runs, lr) and "seed noise" not in said(runs[0], lr)


def seeds(folder: Path, name: str, skills: list[float]) -> str:
    """A group of runs, one a seed; their paths between commas."""
    paths = [folder / f"{name}{seed}" for seed in range(len(skills))]
    for seed, (path, skill) in enumerate(zip(paths, skills, strict=True)):
        write_run(path, predictions(skill, 200, seed), optim__seed=seed, data__max_length=len(name))
    return ",".join(map(str, paths))


def test_groups_of_seeds_are_compared_by_the_means_of_their_rows(tmp_path: Path) -> None:
    weak, strong = seeds(tmp_path, "w", [0.4, 0.5, 0.6]), seeds(tmp_path, "st", [1.9, 2.0, 2.1])
    comparison = compare((weak, strong), "test", False, "runs")
    (pair,) = comparison.pairs
    runs = [
        [read_lines(Path(path) / "predictions/test.jsonl") for path in group.split(",")]
        for group in (weak, strong)
    ]
    losses = [[LOG_LOSS.by_row(rows) for rows in group] for group in runs]
    means = [np.mean(each, axis=0) for each in losses]
    assert pair.scores["log_loss"].difference.value == pytest.approx(float((means[1] - means[0]).mean()))
    assert pair.seeds is not None and pair.seeds.first == [float(values.mean()) for values in losses[0]]
    assert pair.verdict == "better" and "the seeds'" in pair.why
    text = "\n".join(lines(comparison))
    assert "seeds of A: 3, log_loss mean" in text and "B - A over seeds (Welch)" in text
    assert section(text, "configuration") == ["data.max_length 1 2"]


def test_what_the_rows_say_but_the_seeds_do_not_is_no_verdict(tmp_path: Path) -> None:
    """Means of 0.75 and 1.25 by luck: seeds of one group are further apart than the groups."""
    one, two = seeds(tmp_path, "o", [0.0, 1.5]), seeds(tmp_path, "tw", [0.5, 2.0])
    text = said(Path(one), Path(two))
    assert "cannot tell: beyond the rows' interval, but not beyond the seeds'" in verdict(text)
    alone = write_run(tmp_path / "alone", predictions(0.0, 200, 9), optim__seed=9)
    assert "one side has a single seed, so how much is luck is unknown" in verdict(said(alone, Path(two)))


def test_a_group_of_something_else_than_seeds_is_refused(tmp_path: Path) -> None:
    group = seeds(tmp_path, "s", [1.0, 1.1])
    other = write_run(
        tmp_path / "other", predictions(1.0, 200), optim__seed=5, optim__lr=1.0, data__max_length=1
    )
    again = write_run(tmp_path / "again", predictions(1.0, 200), optim__seed=0, data__max_length=1)
    third = write_run(tmp_path / "third", predictions(1.0, 200))
    assert "B is no group of seeds" in refusal(third, Path(f"{group},{other}"))
    assert "optim.lr, optim.seed differ" in refusal(third, Path(f"{group},{other}"))
    assert "one seed stands there twice" in refusal(third, Path(f"{group},{again}"))


def test_the_file_of_seeds_stands_for_its_runs(tmp_path: Path) -> None:
    group = seeds(tmp_path, "s", [1.0, 1.1]).split(",")
    file = Path(group[1]) / "seeds.json"
    file.write_text(json.dumps({"runs": {"0": "s0", "1": "s1"}, "test": {}}))
    third = write_run(tmp_path / "third", predictions(2.0, 200))
    assert compare((str(file), str(third)), "test", False, "runs").runs["A"] == group
    file.write_text(json.dumps({"test": {}}))
    with pytest.raises(ValueError, match="does not say which runs"):
        compare((str(file), str(third)), "test", False, "runs")


def test_more_than_two_runs_get_a_table_with_a_line_each(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(skill), predictions(skill)) for skill in (1.0, 2.0, 0.5)]
    table = said(*runs).rpartition("\nrun ")[2].splitlines()
    assert [line.split()[0] for line in table[1:]] == ["A", "B", "C"]
    assert [line.rsplit(maxsplit=1)[1] for line in table[1:]] == ["-", "better", "worse"]


def test_no_common_rows_are_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", predictions(1.0, 50))
    two = write_run(tmp_path / "two", predictions(1.0, 50, first_id=50))
    assert "no row was scored by both" in refusal(one, two)


@pytest.mark.parametrize(("shared", "comparable"), [(90, True), (89, False)])
def test_less_than_90_percent_in_common_needs_common_rows(
    tmp_path: Path, shared: int, comparable: bool
) -> None:
    one, two = write_run(tmp_path / "one", predictions(1.0, 100)), predictions(1.5, 100)[:shared]
    smaller = write_run(tmp_path / "two", two)
    if not comparable:
        assert f"only {shared} rows in common (A scored 100, B {shared}); --common-rows" in refusal(
            one, smaller
        )
    text = said(one, smaller, common_rows=not comparable)
    assert (
        f"mind: compared only on the {shared} rows that both scored; A scored 100 and B scored {shared}"
        in text
    )
    assert f"on {shared} rows" in verdict(text)


def test_rows_are_matched_by_id_not_by_place(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", predictions(1.0), trained="w")
    two = write_run(tmp_path / "two", predictions(1.0)[::-1], trained="w")
    assert "the same in every prediction" in verdict(said(one, two))


def test_another_label_on_the_same_id_is_refused(tmp_path: Path) -> None:
    rows = predictions(1.0, 50)
    rows[7]["label"] = (rows[7]["label"] + 1) % 3
    one, two = write_run(tmp_path / "one", predictions(1.0, 50)), write_run(tmp_path / "two", rows)
    assert "1 of 50 common rows have two labels: row 7: A " in refusal(one, two)


def test_other_recipes_label_sets_unfinished_and_damaged_runs_are_refused(tmp_path: Path) -> None:
    rows = predictions(1.0, 50)
    one = write_run(tmp_path / "one", rows)
    recipe, labels = {"recipe": "boolq"}, {"labels": ["tie", "B wins", "A wins"]}
    assert "the recipe of A is arena, of B boolq" in refusal(one, write_run(tmp_path / "r", rows, **recipe))
    assert "the labels of A are ['A wins'" in refusal(one, write_run(tmp_path / "l", rows, **labels))
    assert "B is not finished (phase: training)" in refusal(one, write_run(tmp_path / "u"))
    damaged = write_run(tmp_path / "d", rows)
    file = damaged / "predictions" / "test.jsonl"
    file.write_text(file.read_text()[:-30])  # a last line cut short
    assert "holds 49 rows and 49 ids, scores.json says 50" in refusal(one, damaged)


def test_one_refused_run_does_not_hide_the_others(tmp_path: Path) -> None:
    one, good = (write_run(tmp_path / str(skill), predictions(skill)) for skill in (0.5, 2.0))
    bad = write_run(tmp_path / "bad")
    comparison = compare((str(one), str(bad), str(good)), "test", False, "runs")
    with pytest.raises(CheckError, match="B is not comparable with A: B is not finished"):
        comparison.refuse()
    table = lines(comparison)[-4:]
    assert table[2].endswith("not comparable") and table[3].endswith("better")


def test_runs_are_found_by_timestamp_by_name_and_by_prefix(tmp_path: Path) -> None:
    first = write_run(tmp_path / "arena" / "20250101_120000")
    second = write_run(tmp_path / "arena" / "20250102_120000-long")
    for word, path in [
        ("20250101_120000", first),
        ("20250101", first),
        ("20250102_120000", second),
        ("long", second),
        ("arena/20250102_120000-long", second),
        (str(first), first),
    ]:
        assert find(word, str(tmp_path)) == path
    with pytest.raises(ValueError, match="near: long"):
        find("lonk", str(tmp_path))
    with pytest.raises(ValueError, match="2025 is 2 runs"):
        find("2025", str(tmp_path))
    with pytest.raises(ValueError, match="holds no run"):
        find("long", str(tmp_path / "nowhere"))


def test_the_command_ends_with_0_2_and_3(tmp_path: Path) -> None:
    one = write_run(tmp_path / "arena" / "20250101_120000", predictions(1.0, 40))
    write_run(tmp_path / "arena" / "20250102_120000-long", predictions(1.5, 40))
    write_run(tmp_path / "arena" / "20250103_120000-dead")

    def ends(*words: str) -> tuple[int, str]:
        command = [sys.executable, str(ROOT / "scripts/compare.py"), *words, "--runs-dir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, text = ends(str(one), "long")
    assert code == 0 and "verdict by log_loss on 40 rows" in text
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts/compare.py"),
            str(one),
            "long",
            "--json",
            "--runs-dir",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert f"verdict by log_loss on 40 rows in 40 groups, B against A: {found['pairs'][0]['verdict']}" in text
    assert found["runs"]["A"] == [str(one)] and found["refused"] == {}
    code, text = ends("20250101_120000", "dead")
    assert code == 3 and "what differs" in text and "refused: B is not comparable with A" in text
    for words in [("long", "lang"), ("long",), ("long", "long"), ("20250101", "long", "--split", "tets")]:
        code, text = ends(*words)
        assert code == 2 and "error: " in text and "Traceback" not in text
