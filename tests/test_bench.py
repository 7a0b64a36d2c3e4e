"""The benchmarks of recipes that write texts: their arms train on the same losses and write the same texts,
and what they print holds."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from lib.bench import head, models, ours, setting, text_rivals, texts, verdicts, writing
from lib.bench.options import Options

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
MAKERS = [name for name in texts.MAKERS if name != "SFTTrainer" or importlib.util.find_spec("trl")]


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Eight sample rows of german_rag and a toy with LoRA, in batches of four."""
    folder = tmp_path_factory.mktemp("model")
    model = models.decoder(models.LLAMA | TINY | {"vocab_size": 300}, None, folder)
    flags = ["--data", "sample", "--sample-rows", "200", "--model", model, "--quantize", "none"]
    flags += ["--lora-rank", "2", "--batch", "4", "--max-length", "300", "--max-new-tokens", "8"]
    made = {"recipe": "german_rag", "flags": flags, "rows": 8, "validation_rows": 2, "seed": 0, "threads": 1}
    return made | {"precision": "fp32", "warm_up": 1, "best": True, "accumulate": 2}


def test_all_arms_have_the_losses_of_a_row_alone(order: dict[str, Any]) -> None:
    found = text_rivals.losses(setting.prepare(order), order | {"makers": MAKERS})
    assert found["rows"] == 8 and len(found["differences"]) == 1 + 2 * len(MAKERS)
    assert max(found["differences"].values()) < 1e-5


def test_every_arm_trains_and_its_loss_is_measured_alike(order: dict[str, Any]) -> None:
    made = setting.prepare(order)
    runs = [ours.train(made, order), text_rivals.train(made, order | {"maker": "Trainer"})]
    assert all(run["rows_per_s"] > 0 and run["peak_gib"] > 0 for run in runs)
    # one step of warm-up from the same weights; a random toy of 300 words is at log(300) = 5.7
    assert all(run["loss"] == pytest.approx(5.7, abs=0.3) for run in runs)
    assert runs[0]["loss"] == pytest.approx(runs[1]["loss"], abs=1e-2)


def test_both_ways_to_write_give_the_same_texts(order: dict[str, Any]) -> None:
    made = setting.prepare(order)
    written, generated = writing.write(made, order), writing.generate(made, order)
    assert written["texts"] == generated["texts"] and len(written["texts"]) == 8


def test_an_output_layer_is_measured_both_ways() -> None:
    small = head.HEAD | {"tokens": 64, "hidden": 8, "vocabulary": 1000, "precision": "fp32"}
    for how in (head.EVERYWHERE, head.LABELLED):
        measured = head.measure(small | {"how": how})
        assert measured["seconds"] > 0 and measured["logits_gib"] >= 0


def test_rows_and_words_that_are_not_there_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(texts, "REAL", tmp_path)
    subject = texts.Subject("german_rag", "none.jsonl", "none", models.LLAMA | TINY)
    order = texts.begin(Options("german_rag"), subject, tmp_path)
    said = capsys.readouterr().out
    assert "none.jsonl is not there: the recipe's sample instead" in said and "toy's tokenizer" in said
    assert order["flags"][:2] == ["--data", "sample"] and order["rows"] == 64


def test_a_goal_is_reached_at_its_edge(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts.at_least("rows/s", 3.0, 3.0)
    verdicts.at_most("memory", 0.41, 0.4)
    assert capsys.readouterr().out.splitlines() == [
        "rows/s: 3.00 (to reach: 3 or more) reached",
        "memory: 0.410 (to reach: 0.4 or less) MISSED",
    ]
