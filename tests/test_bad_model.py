"""A model folder that is incomplete, damaged or changed is refused by name, and leaves no run folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lib import recipe, run
from lib.base import exits
from lib.command_line import parse
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


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tokenizer": (without_tokenizer, "vocabulary|tokenizer"),
    "cut weights": (cut_weights, "cannot be loaded"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
    "other shapes": (lambda folder: edit(folder, intermediate_size=96), "cannot be loaded"),
    "small embedding": (lambda folder: edit(folder, vocab_size=200), "has 260 words, its embedding 200"),
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


def test_a_model_that_changed_is_refused_on_resume(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights come from the checkpoint, but what they mean from the folder's config.json."""
    runs = tmp_path / "runs"
    assert train(model, runs, "--stop-at", "1") == 75
    record = (only_run(runs) / "run.json").read_text()
    shutil.copy(model / "config.json", tmp_path / "kept.json")
    edit(model, hidden_act="relu")
    assert train(model, runs) == 3
    assert "fingerprint of model changed" in capsys.readouterr().err
    assert (only_run(runs) / "run.json").read_text() == record  # a refused resume rewrites nothing
    shutil.copy(tmp_path / "kept.json", model / "config.json")
    assert train(model, runs) == 0
