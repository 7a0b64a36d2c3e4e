"""A model folder that is incomplete, damaged or changed is refused by name, and leaves no run folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib import recipe, run
from lib.base import exits
from lib.command_line import parse
from lib.config import ModelConfig
from lib.models import backbone, source
from tests.tools import SHORT, only_run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole one, of the toy's size."""
    import transformers

    from lib.models import tiny

    tokenizer = tiny.tokenizer()
    folder = tmp_path / "model"
    transformers.BertModel(tiny.config("encoder", len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(model: Path, runs_dir: Path, *flags: str) -> int:
    words = [*SHORT, "--max-steps", "2", "--model", str(model), "--runs-dir", str(runs_dir), *flags]
    return exits.run(lambda: run.train(parse(recipe.load("arena").config, words, "train.py arena")))


def edit(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])


def newer_tokenizer(folder: Path) -> None:
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["type"] = "WordPieceNext"
    (folder / "tokenizer.json").write_text(json.dumps(words))


def no_vocabulary(folder: Path) -> None:
    import transformers

    transformers.CLIPConfig().save_pretrained(folder)


def pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def pickle_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapter_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tokenizer": (without_tokenizer, "vocabulary|tokenizer"),
    "cut weights": (cut_weights, "cannot be loaded"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
    "other shapes": (
        lambda folder: edit(folder, intermediate_size=96),
        "of its weights have other shapes than its config.json says",
    ),
    "another type": (lambda folder: edit(folder, intermediate_size=48.5), "its configuration: "),
    "newer tokenizer": (newer_tokenizer, "its tokenizer: Exception: "),
    "no vocabulary": (no_vocabulary, "is a clip, which has no vocabulary of its own"),
    "pointer of git": (
        lambda folder: pointer(folder / "model.safetensors"),
        "is a pointer of git LFS",
    ),
    "pointer as tokenizer": (lambda folder: pointer(folder / "tokenizer.json"), "git lfs pull"),
    "pickle alone": (pickle_alone, "pytorch_model.bin is a pickle, which can run code"),
    "adapter alone": (adapter_alone, "but a LoRA adapter; --model takes a whole model: its base (some/base)"),
    "small embedding": (lambda folder: edit(folder, vocab_size=200), "has 260 words, its embedding 200"),
    "4 bits already": (
        lambda folder: edit(
            folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
        ),
        "is stored in bitsandbytes already",
    ),
    "odd sizes": (lambda folder: edit(folder, num_attention_heads=5), "not a multiple"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_model_folder_exits_2_and_leaves_no_run(
    name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it, message = FAULTS[name]
    break_it(model)
    assert train(model, tmp_path / "runs") == 2
    said = capsys.readouterr().err
    assert f"--model {model}" in said
    assert any(part in said for part in message.split("|"))
    assert not list(tmp_path.glob("runs/arena/[!.]*"))


def test_what_lies_beside_a_model_is_not_read(model: Path, tmp_path: Path) -> None:
    """An adapter that was merged into it, and a second file of weights."""
    import peft
    import transformers

    base = transformers.AutoModel.from_pretrained(model)
    expected = {name: weight.clone() for name, weight in base.state_dict().items()}
    lora = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    peft.get_peft_model(base, lora).save_pretrained(model)
    shutil.copy(model / "adapter_model.safetensors", model / "model_old.safetensors")
    described = backbone.describe(ModelConfig(model=str(model)), "encoder")
    loaded = backbone.load(described, ModelConfig(model=str(model)), "encoder", seed=0)
    assert all(weight.requires_grad for weight in loaded.parameters())
    found = loaded.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert [file.name for file in backbone.files(described)] == ["model.safetensors"]


def test_a_whole_file_of_weights_goes_before_an_index_of_parts(model: Path) -> None:
    """As transformers does it, also when the parts are gone."""
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors"}})
    )
    assert [file.name for file in source.weights(model)] == ["model.safetensors"]


def test_a_model_that_changed_is_refused_on_resume(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights come from the checkpoint, but what they mean from the folder's config.json."""
    runs = tmp_path / "runs"
    assert train(model, runs, "--stop-at", "1") == 75
    record = json.loads((only_run(runs) / "run.json").read_text())
    shutil.copy(model / "config.json", tmp_path / "kept.json")
    edit(model, hidden_act="relu")
    assert train(model, runs) == 3
    assert "fingerprint of model changed" in capsys.readouterr().err
    after = json.loads((only_run(runs) / "run.json").read_text())
    # a refused resume rewrites nothing, but it took its time, which a machine by the hour is paid for
    assert len(after.pop("sittings")) == len(record.pop("sittings")) + 1
    assert after == record
    shutil.copy(tmp_path / "kept.json", model / "config.json")
    assert train(model, runs) == 0
