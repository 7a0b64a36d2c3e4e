"""A model is read weight by weight, straight to its place and type."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.config import ModelConfig
from lib.launching.workers import launch
from lib.models import adapters, backbone, mapped
from tests.tools import ROOT, wide_model

SCRIPT = ROOT / "tests" / "loading_checks.py"
pytestmark = pytest.mark.usefixtures("workers_begin_at_once")
CLASSES = {"encoder": "AutoModel", "decoder": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}
KINDS: dict[str, backbone.Kind] = {"encoder": "encoder", "decoder": "causal", "seq2seq": "seq2seq"}


def saved(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model of the kind, in a folder in this type; it itself."""
    import transformers

    wide_model(folder, kind)
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES[kind]).from_config(transformers.AutoConfig.from_pretrained(folder))
    model.to(dtype).save_pretrained(folder)
    return model.eval()


def described(folder: Path) -> backbone.Described:
    return backbone.describe(ModelConfig(model=str(folder)), "causal")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", list(CLASSES))
def test_weights_are_the_files_own_numbers_in_its_type(
    tmp_path: Path, kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And buffers those of the model that transformers makes; nothing of it had to be asked."""
    import transformers

    model, found = saved(tmp_path, kind, dtype), described(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(getattr(transformers, CLASSES[kind]), "from_pretrained", None)
        ours: Any = backbone.load(found, ModelConfig(), KINDS[kind], 0)
    theirs = getattr(transformers, CLASSES[kind]).from_pretrained(tmp_path, dtype=torch.float32)
    assert not ours.training and ours.config is not found.config
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    assert list(ours.state_dict()) == list(theirs.state_dict()) == list(model.state_dict())
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name].float(), weight.float()), name
    assert len(list(ours.parameters())) == len(list(theirs.parameters())), "what is tied stays tied"
    buffers = dict(theirs.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in ours.named_buffers())


def test_what_its_files_do_not_hold_as_it_is_is_left_to_transformers(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    saved(tmp_path, "decoder")
    found, file = described(tmp_path), tmp_path / "model.safetensors"

    def make() -> Any:
        return backbone.random(found, "causal")

    whole = load_file(file)
    first = next(iter(whole))
    assert mapped.load(make, [file]) is not None
    for damaged in (
        {name: weight for name, weight in whole.items() if name != first},
        whole | {first: whole[first][:-1].contiguous()},
        whole | {first: whole[first].double()},
    ):
        save_file(damaged, file)
        assert mapped.load(make, [file]) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_new_matrices_are_not_rounded_to_the_type_of_a_file(tmp_path: Path, dtype: torch.dtype) -> None:
    from lib import recipe
    from lib.command_line import parse

    words = ["--lora-rank", "4", "--quantize", "none", "--lora-save", "lm_head"]
    adapter = parse(recipe.load("boolq").config, words, "test").adapter
    states = []
    for kept in (torch.float32, dtype):
        folder = tmp_path / str(kept)
        saved(folder, "decoder", kept)
        base = backbone.load(described(folder), ModelConfig(), "causal", 0)
        model = adapters.add(base, adapter, seed=0)
        for name, parameter in model.named_parameters():
            wide = parameter.requires_grad or "original_module" in name  # what the copy that trains is of
            assert parameter.dtype == (torch.float32 if wide else kept), name
        states.append({name: weight for name, weight in model.state_dict().items() if "lora_A" in name})
    assert states[0] and all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_no_rank_holds_more_than_it_keeps_and_one_weight(
    strategy: str, told: dict[str, list[list[float]]]
) -> None:
    for most, end, size in told[strategy]:
        kept = 4 * size / (2 if strategy == "zero3" else 1)  # float32
        assert kept * 0.95 <= end <= kept * 1.05
        # the largest weight in float32 (gathered from rank 0 it is there twice), and 4 MB of everything else
        assert most <= kept + 2 * 4 * 8000 * 768 + 4e6


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    import transformers

    from lib.models import tiny

    out, model = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("model")
    stack = {"hidden_size": 768, "num_hidden_layers": 10, "num_attention_heads": 12, "vocab_size": 8000}
    config = transformers.LlamaConfig(**stack, intermediate_size=2048, num_key_value_heads=12)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    assert launch(SCRIPT, [str(model), str(out), "ddp", "zero3"], 2) == 0
    return {strategy: json.loads((out / f"{strategy}.json").read_text()) for strategy in ("ddp", "zero3")}
