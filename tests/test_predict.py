"""Answers for rows without a label, and models whose weights stay on the disk."""

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lib import recipe, run
from lib.base import exits
from lib.base.exits import CheckError
from lib.base.files import read_lines
from lib.base.tensor_file import write_tensors
from lib.command_line import parse
from lib.config import DataConfig
from lib.corpus.corpus import OTHER, Corpus
from lib.data import rows as encoded_rows
from lib.evaluation.predict import predict
from lib.evaluation.predictor import Predictor
from lib.evaluation.rescore import rescore
from lib.evaluation.trained import OtherRows
from lib.models import heads, tiny
from lib.models.placement import place
from lib.recipe import Recipe
from lib.tasks import make as make_task
from tests.tools import ROOT, SHORT, alone, only_run, save_random, small_decoder, wide_model

ROWS = ["--sample-rows", "90", "--max-rows", "12", "--max-steps", "2", "--eval-every", "2"]


def train(at: Path, name: str, *flags: str) -> Path:
    config = parse(recipe.load(name).config, [*SHORT, *ROWS, "--runs-dir", str(at), *flags], "test")
    assert exits.run(lambda: run.train(config)) == 0
    return only_run(at)


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = ["--model", "tiny", "--init", "random", "--max-length", "200"]
    return train(tmp_path_factory.mktemp("exam"), "science_exam", *flags)


@pytest.fixture(scope="module")
def boolq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA on a decoder."""
    at = tmp_path_factory.mktemp("boolq")
    flags = ["--model", small_decoder(at / "base"), "--quantize", "none", "--lora-rank", "4"]
    return train(at / "runs", "boolq", *flags, "--lr", "1e-2")


def without(loaded: Recipe, num_rows: int) -> list[dict[str, Any]]:
    """Sample rows that lack their answer."""
    return [
        {key: value for key, value in row.items() if key not in loaded.label_columns}
        for row in loaded.sample(num_rows, 7)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_an_exam_without_answers_becomes_a_submission(exam: Path, tmp_path: Path) -> None:
    rows = without(recipe.load("science_exam"), 9)
    names = ["id", "prompt", "context", *"ABCDE"]
    with (tmp_path / "test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    found = predict(exam, OtherRows(str(tmp_path / "test.csv")), None, None, None)
    assert found.path == exam / "predicted" / "test.jsonl" and (found.num_rows, found.num_rejected) == (9, 0)
    said = read_lines(found.path)
    assert [row["id"] for row in said] == [str(number) for number in range(9)]
    assert all("label" not in row and abs(sum(row["probabilities"]) - 1) < 1e-6 for row in said)
    assert found.submission is not None
    lines = found.submission.read_text().splitlines()
    assert lines[0] == "id,prediction" and lines[1] == "0," + " ".join(said[0]["ranking"][:3])
    with pytest.raises(ValueError, match="test.jsonl is there and is not overwritten; name another .* --out"):
        predict(exam, OtherRows(str(tmp_path / "test.csv")), None, None, None)


def test_a_row_that_is_too_long_is_in_the_submission_too(
    exam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = without(recipe.load("science_exam"), 3)
    rows[1]["prompt"] = "What is the colour of the fern? " * 2000
    found = predict(exam, OtherRows(write(tmp_path / "long.jsonl", rows)), tmp_path / "out.jsonl", None, None)
    assert [row["id"] for row in read_lines(found.path)] == ["0", "1", "2"]
    assert found.submission is not None and len(found.submission.read_text().splitlines()) == 4
    assert "WARNING: 1 rows are longer than the model can read" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["arena", "boolq", "science_exam"])
def test_rows_without_a_label_are_examples_only_where_none_is_needed(name: str, tmp_path: Path) -> None:
    from lib.corpus import readers, sources

    loaded = recipe.load(name)
    data = write(tmp_path / "rows.jsonl", without(loaded, 5))
    corpus = Corpus.read(replace(loaded.config.data, data=data), loaded, with_label=False).whole()
    rows = corpus.splits[OTHER]
    assert len(rows) == 5 and not corpus.rejected and not any("label" in row for row in rows)
    with pytest.raises(ValueError, match="lacks the column"):  # as training reads them
        sources.load(replace(loaded.config.data, data=data), loaded)
    source = sources.Source("rows", {"train": [readers.RawRow("rows:1", without(loaded, 1)[0])]})
    (rejected,) = Corpus.of(source, DataConfig(), loaded).rejected
    assert "is missing" in rejected.reason or rejected.reason == "there is no answer"


@pytest.mark.parametrize("name", ["arena", "boolq", "science_exam"])
@pytest.mark.parametrize("blank", ["", " ", None, -1, "-1", math.nan])
def test_an_answer_that_is_not_there_yet_is_none_in_whatever_words(name: str, blank: Any) -> None:
    """Files keep the answers' columns and leave them empty, null or -1; who trains needs an answer."""
    from lib.corpus import readers, sources

    loaded = recipe.load(name)
    values = [row | {c: blank for c in loaded.label_columns if c in row} for row in loaded.sample(3, 0)]
    rows = [readers.RawRow(f"rows:{place}", row) for place, row in enumerate(values, 1)]
    source = sources.Source("rows", {"train": rows})
    corpus = Corpus.of(source, DataConfig(), loaded, with_label=False)
    assert not corpus.rejected and not any("label" in row for row in corpus.splits["train"])
    assert len(Corpus.of(source, DataConfig(), loaded).rejected) == 3


def test_an_empty_answer_is_still_malformed() -> None:
    row = recipe.load("boolq").sample(1, 0)[0] | {"answer": ""}
    with pytest.raises(ValueError, match="answer is ''; it must be one of true"):
        recipe.load("boolq").to_example(row)
    assert "label" not in recipe.load("boolq").to_example(row | {"answer": None})
    pair = recipe.load("arena").sample(1, 0)[0]
    del pair["winner_tie"]  # two of three columns are no rows without labels
    with pytest.raises(KeyError, match="winner_tie"):
        recipe.load("arena").to_example(pair)


def test_an_adapter_on_a_base_on_the_disk_says_the_same_to_the_bit(boolq: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "new.jsonl", without(recipe.load("boolq"), 11))
    whole = predict(boolq, OtherRows(data), tmp_path / "whole.jsonl", None, None)
    parts = predict(boolq, OtherRows(data), tmp_path / "parts.jsonl", tmp_path / "index", None)
    assert whole.path.read_text() == parts.path.read_text()
    assert {row["answer"] for row in read_lines(whole.path)} <= {"yes", "no"}
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["index.json"]  # and no copy of a weight
    with pytest.raises(ValueError, match="is in use for something else"):
        predict(boolq, OtherRows(data), tmp_path / "more.jsonl", tmp_path, None)


def test_a_file_that_appeared_meanwhile_is_left_and_malformed_rows_are_listed(
    exam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = without(recipe.load("science_exam"), 120)
    rows[5] |= {"B": None}
    data, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    found = predict(exam, OtherRows(data), out, None, None)
    assert (found.num_rows, found.num_rejected) == (119, 1)
    (said,) = read_lines(tmp_path / "out.rejected.jsonl")
    assert said["where"] == "rows.jsonl:6" and "option B is None" in said["reason"]
    honest = Predictor.predict

    def late(*words: Any) -> Any:
        (tmp_path / "late.jsonl").write_text("precious")
        return honest(*words)

    monkeypatch.setattr(Predictor, "predict", late)
    with pytest.raises(ValueError, match=r"late\.jsonl was made by somebody else meanwhile"):
        predict(exam, OtherRows(data), tmp_path / "late.jsonl", None, None)
    assert (tmp_path / "late.jsonl").read_text() == "precious"
    assert not [path.name for path in tmp_path.iterdir() if path.name[0] == "."]


def test_a_base_that_is_another_by_now_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    wide_model(base, "decoder")
    save_random(base)
    flags = ["--model", str(base), "--quantize", "none", "--lora-rank", "4", "--max-length", "100"]
    folder = train(tmp_path / "runs", "boolq", *flags)
    data = write(tmp_path / "new.jsonl", without(recipe.load("boolq"), 3))
    predict(folder, OtherRows(data), tmp_path / "whole.jsonl", None, None)
    # copies: the file they are mapped from is written anew
    weights = {name: value.clone() for name, value in load_file(base / "model.safetensors").items()}
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] += 0.25
    write_tensors(base / "model.safetensors", weights)
    for offload in (None, tmp_path / "index"):
        with pytest.raises(CheckError, match="fingerprint of base changed since this run began"):
            predict(folder, OtherRows(data), tmp_path / "other.jsonl", offload, None)
    with pytest.raises(CheckError, match="fingerprint of base changed since this run began"):
        rescore(folder, "test", None, None)
    assert not (tmp_path / "other.jsonl").exists() and not list((folder / "evaluations").iterdir())


def test_a_base_whose_file_has_no_pooler_runs_from_the_disk(tmp_path: Path) -> None:
    import transformers

    base = tmp_path / "base"
    base.mkdir()
    wide_model(base)
    torch.manual_seed(0)
    made = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(base))
    weights = {name: value for name, value in made.state_dict().items() if "pooler" not in name}
    write_tensors(base / "model.safetensors", weights)
    flags = ["--model", str(base), "--quantize", "none", "--lora-rank", "4", "--max-length", "100"]
    folder = train(tmp_path / "runs", "boolq", *flags)
    data = write(tmp_path / "new.jsonl", without(recipe.load("boolq"), 3))
    whole = predict(folder, OtherRows(data), tmp_path / "whole.jsonl", None, None)
    parts = predict(folder, OtherRows(data), tmp_path / "parts.jsonl", tmp_path / "index", None)
    assert whole.path.read_text() == parts.path.read_text()


def test_what_cannot_be_predicted_is_refused(exam: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", without(recipe.load("science_exam"), 3))
    out = tmp_path / "out.jsonl"
    for arguments, words in (
        ((tmp_path, data, out, None, None), "is no run folder"),
        ((exam, "gone.csv", out, None, None), "gone.csv cannot be read"),
        ((exam, data, tmp_path / "out.csv", None, None), "must end in .jsonl"),
        ((exam, data, Path(data) / "out.jsonl", None, None), "is a file, not a folder"),
        ((exam, data, out, None, 0), "--threads is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            run_of, data_of, *others = arguments
            predict(run_of, OtherRows(str(data_of)), *others)  # type: ignore[arg-type]
    assert not out.exists()


def test_rows_may_call_their_columns_otherwise(boolq: Path, tmp_path: Path) -> None:
    rows = without(recipe.load("boolq"), 4)
    renamed = [{"q": row.pop("question"), **row} for row in map(dict, rows)]
    whole = predict(boolq, OtherRows(write(tmp_path / "rows.jsonl", rows)), tmp_path / "a.jsonl", None, None)
    other = OtherRows(write(tmp_path / "other.jsonl", renamed), "question=q")
    assert predict(boolq, other, tmp_path / "b.jsonl", None, None).path.read_text() == whole.path.read_text()


# Scores four rows and prints the memory they took beyond what the imports had left, in bytes.
MEASURE = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch, transformers, accelerate, accelerate.hooks
from lib import recipe
from lib.command_line import parse
from lib.config import DataConfig
from lib.corpus.corpus import OTHER, Corpus
from lib.data import rows as encoded_rows
from lib.tasks import make as make_task
from lib.base.tensor_file import write_tensors
from tests.tools import alone

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
from transformers.models.llama import modeling_llama
torch.ones(64, 64) @ torch.ones(64, 64)

def resident(word):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(word))

folder, index = Path(sys.argv[1]), sys.argv[2]
loaded = recipe.load("boolq")
flags = ["--model", str(folder / "backbone"), "--quantize", "none", "--lora-rank", "0", "--precision", "fp32"]
task = make_task(loaded, parse(loaded.config, [*flags, "--max-length", "100"], "test"), folder)
examples = [loaded.to_example(row | {"id": str(n)}) for n, row in enumerate(loaded.sample(4, 0))]
rows = encoded_rows.pack(task.encode([{**row, "id": str(n)} for n, row in enumerate(examples)], lambda: None))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is resident now
idle = resident("VmRSS")
if index:
    model = task.build_on_disk(folder, Path(index), alone()).eval()
else:
    model = task.build(folder).eval()
with torch.inference_mode():
    said = [row["probabilities"] for row in task.predict(model, task.collate(rows, (0, 1, 2, 3)))]
print(json.dumps({"said": said, "bytes": resident("VmHWM") - idle}))
"""
WIDTH, INNER = 1024, 2816
# a block: q, k, v, o of 1024 x 1024; gate, up, down of 1024 x 2816; two norms; float32
BLOCK = 4 * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER + 2 * WIDTH)


def llama_on_disk(folder: Path, num_layers: int) -> Path:
    """A checkpoint's folder with a random Llama and a head: 300 or 600 MiB."""
    import transformers

    tokenizer = tiny.tokenizer()
    config = transformers.LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=num_layers,
        num_attention_heads=16,
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        pad_token_id=0,
    )
    with torch.device("meta"):
        empty = transformers.LlamaModel(config)
    torch.manual_seed(0)
    drawn: dict[str, torch.Tensor] = {}  # once for all blocks: drawing 600 MiB takes half a minute
    for name, value in empty.named_parameters():
        drawn.setdefault(re.sub(r"\d+", "N", name), 0.02 * torch.randn(value.shape) + (value.dim() == 1))
    weights = {name: drawn[re.sub(r"\d+", "N", name)] for name, _ in empty.named_parameters()}
    config.save_pretrained(folder / "backbone")
    write_tensors(folder / "backbone" / "model.safetensors", weights)
    tokenizer.save_pretrained(folder / "backbone")
    head = heads.new_head(WIDTH, WIDTH, 1, 0)
    write_tensors(
        folder / "head.safetensors", {f"head.{name}": value for name, value in head.state_dict().items()}
    )
    return folder


def measured(folder: Path, index: Path | None) -> dict[str, Any]:
    words = [sys.executable, "-c", MEASURE, str(folder), str(index or "")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_weights_on_the_disk_take_the_memory_of_two_blocks_whatever_the_depth(tmp_path: Path) -> None:
    found = {}
    for num_layers in (6, 12):
        folder = llama_on_disk(tmp_path / str(num_layers), num_layers)
        found[num_layers] = measured(folder, tmp_path / f"index {num_layers}")
        assert found[num_layers]["bytes"] <= 2 * BLOCK + (64 << 20) + ACTIVATIONS, found[num_layers]["bytes"]
    print(
        {layers: round(each["bytes"] / 2**20) for layers, each in found.items()}, "MiB; a block", BLOCK >> 20
    )
    # six more blocks are 294 MiB; an index of twice as many names and the allocator move less than a tenth
    assert abs(found[12]["bytes"] - found[6]["bytes"]) < 16 << 20
    whole = measured(tmp_path / "6", None)
    assert whole["said"] == found[6]["said"]
    assert whole["bytes"] > 6 * BLOCK


# four sequences of at most 100 tokens; the widest tensors of a block are three of INNER numbers a token
ACTIVATIONS = 4 * 100 * 3 * INNER * 4


@pytest.mark.parametrize("kind", ["bert", "deberta", "deberta-v2", "electra", "gpt_neox", "gpt2", "roberta"])
def test_families_run_from_the_disk_to_the_bit(kind: str, tmp_path: Path) -> None:
    import transformers

    tokenizer = tiny.tokenizer()
    sizes: Any = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 64,
        "intermediate_size": 96,
    }
    sizes |= {"max_position_embeddings": 130, "pad_token_id": 0, "relative_attention": True}
    sizes |= {"pos_att_type": ["c2p", "p2c"]} if "deberta" in kind else {}
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer) + 4, **sizes)
    (tmp_path / "at").mkdir()
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "at" / "backbone")
    tokenizer.save_pretrained(tmp_path / "at" / "backbone")
    loaded = recipe.load("boolq")
    flags = ["--model", str(tmp_path / "at" / "backbone"), "--quantize", "none", "--lora-rank", "0"]
    task = make_task(loaded, parse(loaded.config, [*flags, "--max-length", "100"], "test"), tmp_path / "at")
    examples = [{**loaded.to_example(row), "id": str(n)} for n, row in enumerate(loaded.sample(3, 0))]
    rows = encoded_rows.pack(task.encode(examples, lambda: None))  # type: ignore[arg-type]
    fresh = task.build(None).eval()
    heads.save(fresh, {k: v for k, v in fresh.state_dict().items() if k.startswith("head.")}, tmp_path / "at")
    batch = task.collate(rows, (0, 1, 2))
    with torch.inference_mode():
        expected = task.predict(task.build(tmp_path / "at").eval(), batch)
        model = task.build_on_disk(tmp_path / "at", tmp_path / "index", alone()).eval()
        assert task.predict(model, batch) == expected
    resting = [name for name, value in model.backbone.named_parameters() if not value.is_meta]
    assert not any(".0." in name for name in resting), "blocks are on the disk before and after"


@pytest.mark.parametrize("kind", ["encoder", "decoder", "seq2seq"])
def test_options_are_scored_from_the_disk_to_the_bit(kind: str, tmp_path: Path) -> None:
    """The output layer and, in T5, two stacks are on the disk as well."""
    loaded, at = recipe.load("science_exam"), tmp_path / "at"
    torch.manual_seed(0)
    flags = ["--model", wide_model(tmp_path / "model", kind), "--quantize", "none", "--lora-rank", "0"]
    config = parse(loaded.config, [*flags, "--init", "random", "--max-length", "112"], "test")
    fresh = make_task(loaded, config).build(None).eval()
    heads.save(fresh, dict(fresh.state_dict()), at)
    tiny.tokenizer().save_pretrained(at / "backbone")
    task = make_task(loaded, config, at)
    examples = [{**loaded.to_example(row), "id": str(n)} for n, row in enumerate(loaded.sample(3, 0))]
    rows = encoded_rows.pack(task.encode(examples, lambda: None))  # type: ignore[arg-type]
    batch = task.collate(rows, (0, 1, 2))
    with torch.inference_mode():
        placed = place(task.build(at).eval(), torch.device("cpu"))
        expected = task.predict(placed, batch)
        model = task.build_on_disk(at, tmp_path / "index", alone()).eval()
        assert task.predict(model, batch) == expected
