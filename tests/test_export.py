"""Exports: what plain transformers and peft make of them, their cards, and what is left when one fails."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib import recipe, run
from lib.base import exits
from lib.base.exits import CheckError, RepeatsError
from lib.base.files import read_json, read_lines, write_json
from lib.command_line import parse
from lib.config import Config
from lib.evaluation.trained import TrainedRun
from lib.export import card, make, merging, push
from lib.runs.folder import RunFolder
from tests.tools import ROOT, SHORT, command, local_hub, only_run, small_decoder, start, wide_model
from tests.tools import run as run_script

ROWS = ["--sample-rows", "150", "--max-rows", "20", "--max-steps", "3", "--eval-every", "3"]


def train(at: Path, name: str, *flags: str) -> Path:
    words = [*SHORT, *ROWS, "--runs-dir", str(at / "runs"), *flags]
    config = parse(recipe.load(name).config, words, "test")
    assert exits.run(lambda: run.train(config)) == 0
    return only_run(at / "runs")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arena: pairs, a context, three classes."""
    at = tmp_path_factory.mktemp("tiny")
    return train(at, "arena", "--model", "tiny", "--init", "random")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BoolQ: two classes under one output; every weight of a BERT of hidden size 384 trains."""
    at = tmp_path_factory.mktemp("wide")
    model = wide_model(at / "model")
    flags = ["--model", model, "--init", "random", "--quantize", "none", "--lora-rank", "0"]
    return train(at, "boolq", *flags)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder in a folder that a test may change."""
    return Path(small_decoder(tmp_path_factory.mktemp("base") / "stories"))


LORA = ["--lora-rank", "4", "--lr", "1e-2", "--max-length", "256"]


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("lora")
    return train(at, "boolq", "--model", str(base), "--quantize", "none", *LORA)


@pytest.fixture(scope="module")
def nf4(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Choose with a decoder: no head; the base in 4 bits."""
    at = tmp_path_factory.mktemp("nf4")
    return train(at, "science_exam", "--model", str(base), "--quantize", "nf4", *LORA)


def example_of(out: Path) -> str:
    """The Python lines of the card."""
    (found,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    return found


# Exports to try: name -> (fixture of the run, adapter_only)
EXPORTS = {
    "tiny": ("tiny", False),
    "wide": ("wide", False),
    "lora": ("lora", False),
    "adapter": ("lora", True),
    "nf4": ("nf4", False),
    "nf4 adapter": ("nf4", True),
}

# Runs each card's lines, as they stand, in its folder, and asks their function for more rows; no project.
OUTSIDE = """
import contextlib, io, json, os, sys
found = {}
for name, (folder, lines, rows) in json.load(sys.stdin).items():
    os.chdir(folder)
    said, names = io.StringIO(), {}
    with contextlib.redirect_stdout(said):
        exec(lines, names)
    found[name] = [json.loads(said.getvalue()), [names["probabilities"](**row) for row in rows]]
assert not any(name.split(".")[0] in ("lib", "tests") for name in sys.modules)
print(json.dumps(found))
"""

# The check that every export makes, of all of them in one process: importing peft alone takes 20 s here.
CHECKS = """
import json, sys
from pathlib import Path
from lib.export import check
from lib.evaluation.trained import TrainedRun
told = json.load(sys.stdin)
found = {n: check.score(TrainedRun.open(Path(run)), Path(out), rows) for n, (run, out, rows) in told.items()}
print(json.dumps(found))
"""


def fresh(lines: str, told: dict[str, Any], *flags: str) -> dict[str, Any]:
    """The JSON that a process of its own makes of other JSON."""
    words = [sys.executable, *flags, "-c", lines]
    done = subprocess.run(words, input=json.dumps(told), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@dataclass
class Exported:
    """An export and what fresh processes made of it."""

    run: Path
    out: Path
    checked: dict[str, Any]
    printed: list[float]
    """By the card's lines."""
    said: list[list[float]]
    """By their function, of the first four stored test rows."""

    @property
    def stored(self) -> list[list[float]]:
        return [row["probabilities"] for row in read_lines(RunFolder(self.run).predictions("test"))]


@pytest.fixture(scope="module")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    at, base = tmp_path_factory.mktemp("exports"), request.getfixturevalue("base")
    inside, outside, runs = {}, {}, {}
    for name, (fixture, adapter_only) in EXPORTS.items():
        folder: Path = request.getfixturevalue(fixture)
        make.export(folder, at / name, adapter_only=adapter_only, base=None, check=False)
        runs[name] = folder
        rows = TrainedRun.open(folder).corpus().splits["test"]
        inside[name] = (str(folder), str(at / name), rows)
        asked = ("texts", "question", "options", "context")
        words = [{key: row[key] for key in asked if key in row} for row in rows[:4]]  # type: ignore[literal-required]
        lines = example_of(at / name)
        assert str(base.parent) not in (at / name / "README.md").read_text(), "no path of this machine"
        lines = lines.replace("BASE = 'stories'", f"BASE = {str(base)!r}")  # as the card says: where it is
        outside[name] = (str(at / name), lines, words)
    checked, said = fresh(CHECKS, inside), fresh(OUTSIDE, outside, "-I")
    return {name: Exported(runs[name], at / name, checked[name], *said[name]) for name in EXPORTS}


def close(found: list[list[float]], expected: list[list[float]], by: float) -> bool:
    pairs = [pair for rows in zip(found, expected, strict=True) for pair in zip(*rows, strict=True)]
    return all(abs(first - second) <= by for first, second in pairs)


@pytest.mark.parametrize("name", EXPORTS)
def test_the_cards_lines_say_what_the_run_said(name: str, exported: dict[str, Exported]) -> None:
    found = exported[name]
    # one row at a time instead of a batch: sums in float32 are taken in another order
    assert close(found.said, found.stored[:4], 1e-4 if name.startswith("nf4") else 1e-5)
    assert found.printed == found.said[0]  # the example of a run on samples is its first test row


@pytest.mark.parametrize(
    ("name", "bound"), [("tiny", 0), ("wide", 0), ("lora", 1e-4), ("adapter", 0), ("nf4", 1e-4)]
)
def test_a_fresh_process_finds_the_runs_probabilities(
    name: str, bound: float, exported: dict[str, Exported]
) -> None:
    """To the bit where no weight was rounded, and well within what is allowed where an adapter was merged."""
    found = exported[name]
    assert found.checked["largest"] <= bound and found.checked["rows"] == len(found.stored)


@pytest.mark.parametrize("name", ["tiny", "wide"])
def test_a_whole_model_is_the_checkpoint_to_the_bit(name: str, exported: dict[str, Exported]) -> None:
    import transformers

    found = exported[name]
    model = transformers.AutoModel.from_pretrained(found.out)
    best = (found.run / "checkpoints" / "best").resolve()
    for key, value in load_file(best / "backbone" / "model.safetensors").items():
        assert torch.equal(model.state_dict()[key], value), key
    assert (found.out / "head.safetensors").read_bytes() == (best / "head.safetensors").read_bytes()
    tokenizer = transformers.AutoTokenizer.from_pretrained(found.out)
    assert len(tokenizer("a b", add_special_tokens=False)["input_ids"]) == 3  # one id a byte


def test_a_merged_adapter_is_its_base_plus_the_product_of_its_matrices(
    exported: dict[str, Exported], base: Path
) -> None:
    import transformers

    found = exported["lora"]
    model = transformers.AutoModel.from_pretrained(found.out)
    adapter = load_file(found.run / "checkpoints" / "best" / "adapter" / "adapter_model.safetensors")
    plain = load_file(base / "model.safetensors")
    name = "layers.2.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    expected = plain[f"model.{name}.weight"] + 32 / 4 * b @ a  # alpha 32, rank 4
    weight = model.state_dict()[f"{name}.weight"]
    assert torch.allclose(weight, expected, atol=1e-6)
    assert (weight - plain[f"model.{name}.weight"]).abs().max() > 1e-3  # the adapter does something


def test_an_adapter_alone_is_as_peft_keeps_it_and_brings_head_and_tokenizer(
    exported: dict[str, Exported],
) -> None:
    out = exported["adapter"].out
    names = {path.name for path in out.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "head.safetensors"} <= names
    assert "model.safetensors" not in names and "tokenizer.json" in names
    assert "PeftModel.from_pretrained" in example_of(out)  # and its lines were run


def test_a_4_bit_run_is_exported_as_the_weights_its_bits_stand_for(
    exported: dict[str, Exported], tmp_path: Path
) -> None:
    found, full = exported["nf4"], tmp_path / "full"
    assert not (found.out / "head.safetensors").exists()  # the words' own probabilities score the options
    assert "AutoModelForCausalLM" in example_of(found.out)
    make.export(found.run, full, adapter_only=False, base="full", check=False)
    name = "model.layers.0.mlp.up_proj.weight"
    rounding = load_file(full / "model.safetensors")[name] - load_file(found.out / "model.safetensors")[name]
    assert rounding.abs().max() > 1e-3  # 4 bits: 16 values for all weights of a block
    # with weights that the run never had nothing is promised, and the card says so
    assert "the scores below are not quite this model's" in (full / "README.md").read_text()


def test_an_export_is_checked_before_it_gets_its_name(tiny: Path, tmp_path: Path) -> None:
    done = run_script(str(tiny), str(tmp_path / "out"), script="export.py")
    assert done.returncode == 0, done.stderr
    # 1e-6 is for the same weights in the same batches on the same machine
    assert "probabilities differ by at most 0 from the run's (at most 1e-06 is allowed)" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_exported_files_that_say_something_else_are_not_exported(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = merging.whole

    def tampered(*arguments: Any) -> Any:
        found = whole(*arguments)
        with torch.no_grad():
            found.encoder.layer[0].output.LayerNorm.bias[0] += 0.1  # one of 125,000 numbers
        return found

    monkeypatch.setattr(merging, "whole", tampered)
    with pytest.raises(CheckError, match="say something else than the run did: they differ by up to"):
        make.export(tiny, tmp_path / "out", adapter_only=False, base=None, check=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    file = tmp_path / "mine.txt"
    for out, words in (
        (tmp_path, "is not empty and nothing is overwritten"),
        (file, "is there and no folder"),
    ):
        with pytest.raises(ValueError, match=words):
            make.export(tiny, out, adapter_only=False, base=None, check=False)
    assert file.read_text() == "mine" and list(tmp_path.iterdir()) == [file]
    (tmp_path / "empty").mkdir()
    make.export(tiny, tmp_path / "empty", adapter_only=False, base=None, check=False)
    assert (tmp_path / "empty" / "README.md").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.faults)])
def test_a_killed_export_leaves_nothing_with_its_name(number: int, tiny: Path, tmp_path: Path) -> None:
    out, beside = tmp_path / "out", tmp_path / ".out.exporting"
    process = start(str(tiny), str(out), script="export.py", stderr=subprocess.DEVNULL)
    while not (beside / "model.safetensors").exists():
        assert process.poll() is None and not out.exists()
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(60) == (exits.STOPPED if number == signal.SIGTERM else -signal.SIGKILL)
    assert not out.exists()
    if number == signal.SIGTERM:
        assert list(tmp_path.iterdir()) == []
    else:  # nobody could clear away; the next one does
        make.export(tiny, out, adapter_only=False, base=None, check=False)
        assert list(tmp_path.iterdir()) == [out]


def copy_of(folder: Path, into: Path) -> Path:
    shutil.copytree(folder, into, symlinks=True)
    return into


def test_what_cannot_be_exported_says_why(tiny: Path, lora: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(run: Path, kind: type[Exception], words: str, **more: Any) -> None:
        with pytest.raises(kind, match=words):
            make.export(run, out, **({"adapter_only": False, "base": None, "check": True} | more))
        assert not out.exists() and not (tmp_path / ".out.exporting").exists()

    refused(tmp_path, ValueError, "is no run folder")
    refused(tiny, ValueError, "this run has no adapter", adapter_only=True)
    refused(lora, ValueError, "this run's base is in float32", base="full")
    gone = copy_of(tiny, tmp_path / "gone")
    settings = read_json(gone / "config.json")
    settings["data"]["data"] = str(tmp_path / "gone.csv")
    write_json(gone / "config.json", settings)
    refused(gone, ValueError, "gone.csv cannot be read.*\n.*bring them back, or add --no-check")
    (weights,) = (gone / "checkpoints").glob("step-*/backbone/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused(gone, RepeatsError, "its sha256 differs", check=False)
    shutil.rmtree(gone / "checkpoints")
    refused(gone, ValueError, "has no checkpoint yet", check=False)
    shutil.rmtree(gone)


def test_an_adapter_for_another_base_is_refused(lora: Path, base: Path, tmp_path: Path) -> None:
    file = base / "model.safetensors"
    before = file.read_bytes()
    weights = load_file(file)
    weights["model.norm.weight"] += 1e-3
    try:
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(CheckError, match="fingerprint of base changed.*take the base that the run began"):
            make.export(lora, tmp_path / "out", adapter_only=True, base=None, check=False)
    finally:
        file.write_bytes(before)
    assert list(tmp_path.iterdir()) == []


def front_of(page: str) -> dict[str, Any]:
    import yaml

    assert page.startswith("---\n")
    return yaml.safe_load(page.split("\n---\n")[0][4:])


def test_no_name_breaks_the_cards_yaml_or_its_tables(tiny: Path) -> None:
    hostile = "a: [b\n---\n# '\"| ```python \ud83d {{ x }}"
    config: Config = RunFolder(tiny).config()
    config = replace(config, data=replace(config.data, data=hostile))
    base = card.Origin(hostile, "org/base\n---\nlicense: mit", "x: y")
    data = card.Origin(hostile, hostile, hostile)
    run = replace(TrainedRun.open(tiny), config=config)
    front = card.front_matter(run, base, data, {"test": {"scores": {"log_loss": 1}}}, False)
    found = front_of(f"---\n{front}\n---\n")
    assert found["license"] == "unknown" and found["metrics"] == ["log_loss"]
    assert found["base_model"] == "org/base\n---\nlicense: mit" and found["datasets"] == [hostile]
    assert "\n" not in card.words(hostile) and "\\|" in card.words(hostile)
    page = card.render(run, tiny / "checkpoints" / "best" / "backbone", False, None)
    assert page.count("```") == 2 and page.count("\n---\n") == 1
    assert front_of(page)["library_name"] == "transformers"


def test_a_base_says_its_licence_or_is_called_unknown(tmp_path: Path) -> None:
    config = recipe.load("arena").config

    def at(name: str) -> card.Origin:
        return card.base_of(replace(config, model=replace(config.model, model=name)))

    assert at("minilm").licence == "apache-2.0"
    assert at(str(tmp_path)).licence == "unknown" and at(str(tmp_path)).hub_id is None
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\nlicense: wrong\n")
    assert at(str(tmp_path)).licence == "mit"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload asks for; what it is sent is kept."""

    got: dict[str, Any] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Hub.got.setdefault("tokens", set()).add(self.headers.get("Authorization"))
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            Hub.got["created"] = json.loads(body)
            answer = {"url": f"http://{self.headers['Host']}/org/new"}
        elif self.path == "/api/models/org/new/preupload/main":
            files = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]}
        elif self.path == "/api/models/org/new/commit/main":
            lines = [json.loads(line) for line in body.splitlines()]
            Hub.got["files"] = {line["value"]["path"] for line in lines if line["key"] == "file"}
            answer = {"commitUrl": f"http://{self.headers['Host']}/org/new/commit/1", "commitOid": "1"}
            answer |= {"hookOutput": "", "success": True}
        self._say(200, answer)

    def do_GET(self) -> None:
        self._say(404, {})

    def _say(self, code: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Hub.got.clear()
    with local_hub(monkeypatch, Hub):
        yield


def test_a_push_sends_every_file_once_and_a_dry_run_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with hub(monkeypatch):
        said = push.send(tmp_path, "org/new", private=True, dry_run=True)
        assert "nothing was sent" in said and "4 bytes  model.safetensors" in said and "private" in said
        assert Hub.got == {}
        said = push.send(tmp_path, "org/new", private=True, dry_run=False)
        assert Hub.got["files"] == {"README.md", "model.safetensors"}
        created = Hub.got["created"]
        assert created["name"] == "new" and (created.get("visibility") == "private" or created["private"])
        assert Hub.got["tokens"] == {"Bearer hf_secret"} and "hf_secret" not in said
    with pytest.raises(ValueError, match="is exported but was not sent to org/new.*hf upload org/new"):
        push.send(tmp_path, "org/new", private=True, dry_run=False)  # nobody listens there any more


def test_without_a_token_nothing_is_written(tiny: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if "TOKEN" not in key}
    environment |= {"HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    words = [str(tiny), str(tmp_path / "out"), "--push", "org/new"]
    done = subprocess.run(
        command(*words, script="export.py"), capture_output=True, text=True, env=environment
    )
    assert done.returncode == exits.BAD_INPUT
    assert "needs a token and there is none; put a token with write access into HF_TOKEN" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new", False, True), "must be ORG/NAME"),
        (("org/a b", False, True), "--push org/a b: "),
        ((None, False, True), "--dry-run is for --push"),
        ((None, True, False), "--public is for --push"),
    ],
)
def test_a_push_that_cannot_work_is_refused_first(
    arguments: tuple[str | None, bool, bool], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        push.refuse(*arguments)
