"""LoRA's frozen base in bfloat16: the same bits where products are taken in bf16, the same numbers wherever
it is used."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lib import recipe as recipes
from lib.command_line import parse
from lib.config import Config
from lib.data import rows as encoded_rows
from lib.models import frozen_weights
from lib.models.placement import place, settle
from lib.runs import resume
from lib.tasks import make as make_task
from tests.tools import SHORT, only_run, run, save_random, wide_model

KINDS = {"encoder": "arena", "decoder": "boolq", "seq2seq": "science_exam", "gpt2": "boolq"}


def gpt2(folder: Path) -> str:
    """A decoder whose linear layers are Conv1D."""
    import transformers

    from lib.models import tiny

    config = transformers.GPT2Config(
        n_embd=64, n_layer=2, n_head=4, vocab_size=len(tiny.tokenizer()), n_positions=128, pad_token_id=0
    )
    config.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    save_random(folder)
    return str(folder)


def configured(kind: str, folder: Path, *words: str) -> Config:
    model = gpt2(folder) if kind == "gpt2" else wide_model(folder, kind)
    flags = [*SHORT, "--model", model, "--lora-rank", "4", "--quantize", "none", "--dropout", "0"]
    config = parse(
        recipes.load(KINDS[kind]).config,
        [*flags, "--precision", "bf16", "--base-precision", "bf16", *words],
        "test",
    )
    # noise will do here: what counts is how it is kept
    return dataclasses.replace(config, model=dataclasses.replace(config.model, init="random"))


def made(config: Config) -> tuple[Any, Any, Any]:
    """The task, its model as training has it, and a batch."""
    recipe = recipes.load(config.recipe)
    task = make_task(recipe, config)
    examples = [recipe.to_example(row | {"id": number}) for number, row in enumerate(recipe.sample(6, 0))]
    rows = encoded_rows.pack(task.encode(examples, lambda: None, refuse=False))
    torch.manual_seed(0)
    return task, task.build(None), task.collate(rows, tuple(range(6)))


def narrow(model: Any, config: Config) -> None:
    frozen_weights.narrow(model, config)
    settle(model, torch.device("cpu"))


def step(task: Any, model: Any, batch: Any) -> list[torch.Tensor]:
    """The loss and all gradients, under bf16."""
    model.zero_grad()
    torch.manual_seed(0)  # of dropout
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.loss(model(batch.inputs), batch)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_step_under_bf16_is_the_same_to_the_bit(tmp_path: Path, kind: str) -> None:
    config = configured(kind, tmp_path / "model")
    task, model, batch = made(config)
    model = place(model, torch.device("cpu")).train()
    before = step(task, model, batch)
    size = sum(p.numel() * p.element_size() for p in model.backbone.parameters())
    narrow(model, config)
    after = step(task, model, batch)
    assert len(before) == len(after) > 8
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    narrowed = sum(p.numel() * p.element_size() for p in model.backbone.parameters())
    assert narrowed < 0.8 * size, "with a vocabulary of this size the blocks are most of it"


@pytest.mark.parametrize("kind", list(KINDS))
def test_products_in_float32_have_the_rounded_weights(tmp_path: Path, kind: str) -> None:
    """What an export merges and what --offload reads are these numbers too."""
    config = configured(kind, tmp_path / "model")
    task, model, batch = made(config)
    _, other, _ = made(config)
    narrow(model, config)
    frozen_weights.round_off(other, config)
    with torch.inference_mode():
        outputs = [each.eval()(batch.inputs) for each in (model, other)]
    flat = [torch.cat([part.flatten().float() for part in (out if isinstance(out, tuple) else [out])])
            for out in outputs]  # fmt: skip
    assert torch.equal(*flat)
    names = frozen_weights.names(made(config)[1].backbone)
    there = {name for name, value in model.backbone.state_dict().items() if value.dtype == torch.bfloat16}
    assert there == names != set()


def test_what_trains_tables_norms_and_what_a_family_keeps_stay_in_float32(tmp_path: Path) -> None:
    config = configured("seq2seq", tmp_path / "model")
    _, model, _ = made(config)
    narrow(model, config)
    for name, value in model.named_parameters():
        wide = value.requires_grad or any(part in name for part in ("shared", "norm", ".wo.", "relative"))
        assert value.dtype == (torch.float32 if wide else torch.bfloat16) or "lm_head" in name, name


@pytest.mark.parametrize(
    "words",
    [("--precision", "fp32"), ("--base-precision", "fp32"), ("--lora-rank", "0")],
)
def test_it_stays_in_float32_where_products_are_or_somebody_says_so(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    config = configured("encoder", tmp_path / "model", *words)
    _, model, _ = made(config)
    narrow(model, config)
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_a_run_records_it_and_scores_and_exports_the_same(tmp_path: Path) -> None:
    model = tmp_path / "model"
    wide_model(model, "decoder")
    save_random(model)
    words = [*SHORT, "--model", str(model), "--lora-rank", "4", "--quantize", "none", "--precision", "bf16"]
    done = run("boolq", *words, "--runs-dir", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path / "runs")
    record = json.loads((folder / "run.json").read_text())
    assert record["base_precision"] == "bf16"
    again = run(str(folder), script="evaluate.py")
    assert "the same to the last digit as training reported" in again.stdout, again.stderr
    exported = run(str(folder), str(tmp_path / "exported"), script="export.py")
    assert exported.returncode == 0, exported.stderr
    best = next((folder / "checkpoints").glob("step-*"))
    run_folder = resume.RunFolder(folder)
    assert resume.as_trained(run_folder, best).adapter.base_precision == "bf16"
    del record["base_precision"]  # a run from before: its base was in float32
    (folder / "run.json").write_text(json.dumps(record))
    assert resume.as_trained(run_folder, best).adapter.base_precision == "fp32"
