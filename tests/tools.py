"""What several tests use: real training processes, a small model with a real width, and ways to look at a
run."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import pytest

from tests import warm

if TYPE_CHECKING:
    from lib.config import Config
    from lib.process.world import World

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
STORIES = SHARED / "models" / "stories260K"
OFFLINE = {"HF_HUB_OFFLINE": "1"}
REAL_ARENA = SHARED / "lmsys" / "train.csv"

# A short experiment in float32 on sample rows; 30 rows are odd for 2 and 3 ranks and for a batch of 8.
SHORT = ["--data", "sample", "--sample-rows", "90", "--max-rows", "30", "--max-length", "80", "--batch", "8"]
SHORT += ["--max-cut", "1"]  # tokens are bytes
SHORT += [
    "--max-steps",
    "6",
    "--eval-every",
    "3",
    "--precision",
    "fp32",
    "--threads",
    "1",
    "--log-every",
    "1",
]


@cache
def wide_model(folder: Path, kind: str = "encoder") -> str:
    """A model of hidden size 384 with random weights: toys of 64 hide what threads and bucket orders do to
    sums."""
    import transformers

    from lib.models import tiny

    tokenizer = tiny.tokenizer()
    common: Any = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    stack = {"hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 12}
    stack |= {"intermediate_size": 1536, "max_position_embeddings": 128}
    # the usual 0.02 makes all options of a row look alike, and a gradient that cancels to nothing
    common["initializer_range"] = 0.1
    if kind == "encoder":
        config: Any = transformers.BertConfig(**common, **stack)
    elif kind == "decoder":
        stack["max_position_embeddings"] = 768  # no weight depends on it
        config = transformers.LlamaConfig(**common, **stack, num_key_value_heads=6)
    else:
        sizes = {"d_model": 384, "d_ff": 1536, "d_kv": 32, "num_layers": 2, "num_heads": 12}
        config = transformers.T5Config(**common, **sizes, decoder_start_token_id=0)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def small_decoder(folder: Path) -> str:
    """stories260K, which has learned to tell stories, or a decoder of its kind with random weights where
    ../shared is absent; in a new folder that a test may change."""
    if STORIES.is_dir():
        shutil.copytree(STORIES, folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        return str(folder)
    import transformers

    from lib.models import tiny

    stack = {"hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4}
    stack |= {"intermediate_size": 172, "max_position_embeddings": 512, "vocab_size": len(tiny.tokenizer())}
    config = transformers.LlamaConfig(**stack, pad_token_id=0, bos_token_id=1, initializer_range=0.1)
    config.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    save_random(folder)
    return str(folder)


def alone() -> "World":
    """One process on a CPU, in float32."""
    import torch

    from lib.process.signals import StopFlag
    from lib.process.world import World

    return World(0, 1, torch.device("cpu"), "", 1, StopFlag(deaf=True))


def save_random(folder: Path) -> None:
    """Weights beside the configuration of a decoder."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def configured(name: str, words: Sequence[str]) -> "Config":
    """What the command line makes of a recipe's name and these words, without tyro, which a GPU machine may
    lack: flags of one value, and switches. Raises ValueError for what is no value of a flag."""
    from lib import recipe
    from lib.command_line import settled
    from lib.config_keys import types, with_values

    default, values, left = recipe.load(name).config, dict[str, Any](), list(words)
    kinds = types(default)
    keys = {"--" + key.rpartition(".")[2].replace("_", "-"): key for key in kinds}
    while left:
        flag = left.pop(0)
        key = keys[flag if flag in keys else flag.replace("--no-", "--", 1)]
        values[key] = flag in keys if kinds[key] is bool else _value(kinds[key], flag, left.pop(0))
    return settled(with_values(default, values), default)


def _value(kind: Any, flag: str, word: str) -> Any:
    if get_origin(kind) is Literal:
        if word not in get_args(kind):
            raise ValueError(f"{flag} {word}: there is {', '.join(get_args(kind))}")
        return word
    parts = (
        [part for part in get_args(kind) if part is not NoneType] if isinstance(kind, UnionType) else [kind]
    )
    return _value(parts[0], flag, word) if parts != [kind] else kind(word)


def command(*arguments: str, script: str = "train.py") -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / script), *arguments]


def run(*arguments: str, script: str = "train.py", timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """A script of the project in a process of its own, without a network."""
    return warm.run(command(*arguments, script=script), timeout, os.environ | OFFLINE)


def start(*arguments: str, script: str = "train.py", **streams: Any) -> subprocess.Popen[str]:
    """The same, not waited for; `streams` are subprocess.Popen's."""
    return warm.Popen(command(*arguments, script=script), env=os.environ | OFFLINE, **streams)


def only_run(runs_dir: Path) -> Path:
    """The one run folder under `runs_dir`."""
    (folder,) = runs_dir.glob("*/[!.]*")
    return folder


def weights_hash(folder: Path, step: int) -> str:
    """sha256 over the weights and the optimizer's state of a checkpoint."""
    found = hashlib.sha256()
    files = sorted((folder / "checkpoints" / f"step-{step:06d}").rglob("*.safetensors"))
    assert len(files) == 3, "backbone, head, optimizer"
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder, "train")]


def status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "status.json").read_text())


def point_hub_at(monkeypatch: pytest.MonkeyPatch, url: str, offline: bool) -> None:
    """Ask this address instead of the Hugging Face hub."""
    import huggingface_hub.constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    from transformers.utils import hub

    if hasattr(hub, "hf_api"):  # it keeps the address of its first call
        monkeypatch.setattr(hub.hf_api(), "endpoint", url)


@contextmanager
def local_hub(monkeypatch: pytest.MonkeyPatch, handler: type[BaseHTTPRequestHandler]) -> Iterator[None]:
    """A server on this machine instead of the Hugging Face hub."""
    server = HTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    point_hub_at(monkeypatch, f"http://127.0.0.1:{server.server_port}", offline=False)
    yield
    server.shutdown()
    server.server_close()
