"""Runs that write texts, from rows to report: german_rag as LoRA on a base in 4 bits, meta_review whole."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from lib import recipe, run
from lib.answers import BASE
from lib.base import exits
from lib.base.exits import StoppedError
from lib.base.files import read_json, read_lines
from lib.command_line import parse
from lib.config import CompleteConfig
from lib.corpus.corpus import Corpus
from lib.evaluation import predict as predicting
from lib.evaluation.ask_twins import ask
from lib.evaluation.options import Options
from lib.evaluation.predict import predict
from lib.evaluation.predictor import Predictor
from lib.evaluation.rescore import rescore
from lib.evaluation.trained import OtherRows
from lib.evaluation.try_prompts import try_prompts
from lib.export import dataset
from lib.export import make as make_export
from tests import tools
from tests.tools import SHORT, STORIES, only_run, small_decoder

LENGTHS = ["--max-length", "500", "--max-new-tokens", "12", "--eval-generate", "3", "--max-rejected", "0.9"]


def train(at: Path, name: str, *flags: str) -> Path:
    words = [*SHORT, "--max-rows", "10", "--max-steps", "2", "--eval-every", "1", *LENGTHS, *flags]
    config = parse(recipe.load(name).config, [*words, "--runs-dir", str(at)], "test")
    assert exits.run(lambda: run.train(config)) == 0
    return only_run(at)


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("rag")
    flags = ["--model", small_decoder(at / "base"), "--quantize", "nf4", "--lora-rank", "4", "--batch", "8"]
    return train(at / "runs", "german_rag", *flags)


# A chat that writes the date; two tokens that the model has for bytes are its signs, the second ends a turn
CHAT = """{{ bos_token + strftime_now('%d %b %Y') }}{% for message in messages %}\
{{ '<0x01>' + message.role + ': ' + message.content + '<0x02>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<0x01>assistant: ' }}{% endif %}"""
SIGNS = {"<0x01>": 4, "<0x02>": 5}


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a chat, where the model's tokenizer has tokens for its signs."""
    at = tmp_path_factory.mktemp("summary")
    model = small_decoder(at / "base")
    if STORIES.is_dir():
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        tokenizer.add_tokens([tokenizers.AddedToken(sign, special=True) for sign in SIGNS])
        assert tokenizer.convert_tokens_to_ids(list(SIGNS)) == list(SIGNS.values())
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(model)
    return train(at / "runs", "meta_review", "--model", model, *(["--chat"] if STORIES.is_dir() else []))


def test_scores_of_texts_stand_beside_the_base_model_and_what_needs_none(rag: Path) -> None:
    scores = read_json(rag / "scores.json")["splits"]["test"]
    baselines = {BASE, "another row's text", "always refuse", "first sentence of the first chunk"}
    assert set(scores["baselines"]) == baselines
    assert "loss" in scores["baselines"][BASE] and "loss" not in scores["baselines"]["always refuse"]
    assert scores["baselines"]["always refuse"]["correct_refusals"]["value"] == 1
    predictions, before = (read_lines(rag / f"predictions/{name}.jsonl") for name in ("test", "test before"))
    assert [row["id"] for row in predictions] == [row["id"] for row in before]
    for row in predictions:
        assert row["num_written"] <= 12 and row["ended"] == (row["num_written"] < 12 or row["ended"])
    # the loss is the sum over the count
    total = sum(row["loss"] for row in predictions) / sum(row["num_tokens"] for row in predictions)
    assert scores["scores"]["loss"]["value"] == pytest.approx(total, rel=1e-12)
    matrix = scores["matrix"]
    assert sum(sum(counts.values()) for counts in matrix.values()) == len(predictions)


def test_few_texts_are_written_while_training_goes_on_and_all_at_the_end(rag: Path) -> None:
    lines = [line for line in read_lines(rag / "metrics.jsonl") if line["kind"] == "validation"]
    assert len(lines) == 2 and "rouge_l" in lines[0]["scores"]
    assert all("answer" in row for row in read_lines(rag / "predictions/validation.jsonl"))


def test_a_fresh_process_writes_the_same_texts(rag: Path) -> None:
    found = rescore(rag, None, None, None)
    assert found.same is True
    again = read_lines(found.folder / "predictions/test.jsonl")
    assert again == read_lines(rag / "predictions/test.jsonl")


def test_the_report_shows_texts_side_by_side_and_twins_once_they_were_asked(rag: Path) -> None:
    page = (rag / "report.html").read_text()
    for words in (
        "Texts side by side",
        "this model",
        "before training",
        "Answered, cited, refused",
        "sacreBLEU",
    ):
        assert words in page
    assert "Does it cite because it has read?" not in page
    asked = ask(rag, "test", None)
    page = (rag / "report.html").read_text()
    assert "Does it cite because it has read?" in page and asked.found == read_json(rag / "twins.json")
    # a row with one chunk alone has none to spare
    assert 0 < asked.found["rates"]["chunk removed"]["num_rows"] <= asked.found["num_rows"]


def test_twins_of_a_recipe_that_cites_nothing_are_refused(summary: Path) -> None:
    with pytest.raises(ValueError, match="meta_review name no sources"):
        ask(summary, "test", None)


def without_target(name: str, at: Path) -> str:
    loaded = recipe.load(name)
    rows = [
        {key: value for key, value in row.items() if key not in loaded.label_columns}
        for row in loaded.sample(14, 7)
    ]
    at.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(at)


def test_predict_goes_on_behind_what_is_written(
    summary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = without_target("meta_review", tmp_path / "new.jsonl")
    whole = predict(summary, OtherRows(data), tmp_path / "whole.jsonl", None, None)
    assert "TEXTS HAD NOT ENDED AFTER 12 TOKENS" in capsys.readouterr().out
    rows = read_lines(whole.path)
    assert len(rows) == 14 and all(row["answer"] is not None and "loss" not in row for row in rows)
    assert not list(tmp_path.glob("*.part.jsonl"))

    # stopped after the first batch of three; a kill cuts the last line short
    monkeypatch.setattr("lib.tasks.complete.WRITING", 0.17)
    honest, batches = Predictor.write, []

    def stops(self: Predictor, rows: Any, indices: tuple[int, ...]) -> Any:
        batches.append(indices)
        if len(batches) == 2:
            raise StoppedError("stopped during evaluation")
        return honest(self, rows, indices)

    monkeypatch.setattr(Predictor, "write", stops)
    with pytest.raises(StoppedError):
        predict(summary, OtherRows(data), tmp_path / "parts.jsonl", None, None)
    part = tmp_path / "parts.part.jsonl"
    kept = len(read_lines(part)) - 1
    assert kept == len(batches[0]) > 0 and not (tmp_path / "parts.jsonl").exists()
    part.write_text(part.read_text()[:-20])
    monkeypatch.setattr(
        Predictor, "write", lambda self, *words: batches.append(words[1]) or honest(self, *words)
    )
    del batches[:]
    predict(summary, OtherRows(data), tmp_path / "parts.jsonl", None, None)
    assert sum(map(len, batches)) == 14 - kept + 1  # the one whose line was cut is written again
    assert read_lines(tmp_path / "parts.jsonl") == rows


def test_texts_of_other_rows_are_not_gone_on_with(summary: Path, tmp_path: Path) -> None:
    data = without_target("meta_review", tmp_path / "new.jsonl")
    (tmp_path / "out.part.jsonl").write_text('{"key": "of another model"}\n')
    with pytest.raises(ValueError, match="holds texts of another model or of other rows; remove it"):
        predict(summary, OtherRows(data), tmp_path / "out.jsonl", None, None)
    assert predicting.PART == ".part.jsonl"


def test_prompts_are_tried_on_the_same_rows_and_compared(tmp_path: Path) -> None:
    model = small_decoder(tmp_path / "base")
    (tmp_path / "a.txt").write_text("{reviews}\nSummary:\n")
    (tmp_path / "b.txt").write_text("Once upon a time {reviews}")
    files = (str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    asked = Options(run="meta_review", data="sample", prompt_file=files, rows=4, max_length=500, threads=1)
    found = try_prompts(model, asked)
    assert set(found.scores) == {"a.txt", "b.txt"} and found.num_rows == 4
    assert list(found.verdicts) == ["b.txt"] and "b.txt against a.txt: loss" in found.in_words()
    (tmp_path / "c.txt").write_text("{review}")
    with pytest.raises(ValueError, match=r"unknown placeholder \{review\}; allowed are \{reviews\}"):
        file = str(tmp_path / "c.txt")
        try_prompts(model, Options(run="meta_review", data="sample", prompt_file=(file,), max_length=500))
    with pytest.raises(ValueError, match="arena has no prompt to try"):
        try_prompts(model, Options(run="arena"))


def test_a_prompt_file_is_kept_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Lies:\n{chunks}\n{question}\n\n")
    config = parse(recipe.load("german_rag").config, ["--prompt-file", str(tmp_path / "prompt.txt")], "test")
    assert isinstance(config.task, CompleteConfig)
    assert config.task.template == "Lies:\n{chunks}\n{question}" and config.task.prompt_file is None
    (tmp_path / "prompt.txt").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        parse(recipe.load("german_rag").config, ["--prompt-file", str(tmp_path / "prompt.txt")], "test")
    with pytest.raises(ValueError, match="cannot be read"):
        parse(recipe.load("german_rag").config, ["--prompt-file", str(tmp_path / "gone.txt")], "test")


def test_a_data_set_of_rows_is_read_back_as_the_same_rows(tmp_path: Path) -> None:
    loaded = recipe.load("meta_review")
    config = parse(loaded.config, ["--data", "sample", "--sample-rows", "60"], "test")
    written = dataset.write(config, loaded, tmp_path / "rows")
    before = Corpus.read(config.data, loaded).complete()
    back = parse(loaded.config, ["--data", str(tmp_path / "rows")], "test")
    after = Corpus.read(back.data, loaded).complete()
    assert after.splits == before.splits and written.rows == before.sizes()
    with pytest.raises(ValueError, match="is there and is not overwritten"):
        dataset.write(config, loaded, tmp_path / "rows")
    with pytest.raises(ValueError, match="boolq has no form to write"):
        dataset.write(recipe.load("boolq").config, recipe.load("boolq"), tmp_path / "other")


def test_letters_only_cleans_what_is_read_and_learned_and_not_what_is_scored(tmp_path: Path) -> None:
    loaded = recipe.load("meta_review")
    words = ["--data", "sample", "--sample-rows", "40", "--model", small_decoder(tmp_path / "m"), *LENGTHS]
    config = parse(loaded.config, [*words, "--letters-only"], "test")
    from lib.tasks import make

    task = make(loaded, config)
    example = loaded.to_example({"Input": "It's 3.5% better (p<0.05)!", "Output": "Accept: 8/10."})
    (row,) = task.encode([{**example, "id": "1"}], lambda: None)  # type: ignore[typeddict-item]
    prompt, target = task.shown(row)
    assert "Its 35 better p005" in prompt and "Accept 810" in target and "Accept:" not in target
    assert example["target"] == "Accept: 8/10."


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_an_export_is_checked_by_its_own_lines(rag: Path, summary: Path, kind: str, tmp_path: Path) -> None:
    """The card's lines give the loss of three rows without the project, and write the sample's."""
    folder, out = (rag, tmp_path / "out") if kind == "adapter" else (summary, tmp_path / "out")
    checked = make_export.export(folder, out, kind == "adapter", None, True)
    assert checked is not None and checked.rows > 0 and checked.largest <= 1e-6
    card = (out / "README.md").read_text()
    assert "def write(**fields):" in card and "def loss(target, **fields):" in card
    ends = "[2, 1, 4, 5]" if kind == "whole" and STORIES.is_dir() else "[2]"  # </s>, and in a chat any sign
    assert not STORIES.is_dir() or f"ENDS = {ends}" in card


def test_weights_on_the_disk_write_the_same_texts(summary: Path, tmp_path: Path) -> None:
    data = without_target("meta_review", tmp_path / "new.jsonl")
    said = [
        read_lines(predict(summary, OtherRows(data), tmp_path / f"{name}.jsonl", folder, None).path)
        for name, folder in (("memory", None), ("disk", tmp_path / "weights"))
    ]
    assert [row["answer"] for row in said[0]] == [row["answer"] for row in said[1]]


def test_what_a_kill_left_beside_the_texts_is_taken_over(summary: Path, tmp_path: Path) -> None:
    """The first line of the kept texts was not written yet; the rejected rows were, and those of others."""
    data, out = Path(without_target("meta_review", tmp_path / "new.jsonl")), tmp_path / "out.jsonl"
    data.write_text(data.read_text() + json.dumps({"Input": ""}) + "\n")
    (tmp_path / "out.part.jsonl").touch()
    (tmp_path / "out.rejected.jsonl").write_text("half")
    written = predict(summary, OtherRows(str(data)), out, None, None)
    assert (written.num_rows, written.num_rejected) == (14, 1)
    (rejected,) = read_lines(tmp_path / "out.rejected.jsonl")
    assert rejected["where"] == "new.jsonl:15" and not (tmp_path / "out.part.jsonl").exists()
    with pytest.raises(ValueError, match=r"out\.jsonl is there and is not overwritten"):
        predict(summary, OtherRows(str(data)), out, None, None)


def test_two_ranks_write_what_one_writes(tmp_path: Path) -> None:
    model, said = small_decoder(tmp_path / "base"), []
    for devices in (1, 2):
        runs = tmp_path / f"runs{devices}"
        words = [
            *SHORT,
            "--max-rows",
            "10",
            "--max-steps",
            "1",
            *LENGTHS,
            "--model",
            model,
            "--no-base-texts",
        ]
        done = tools.run("meta_review", *words, "--devices", str(devices), "--runs-dir", str(runs))
        assert done.returncode == 0, done.stderr
        said.append(read_lines(only_run(runs) / "predictions/test.jsonl"))
    assert [row["answer"] for row in said[0]] == [row["answer"] for row in said[1]]
