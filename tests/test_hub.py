"""The hub is asked once, and says what to do when it cannot help."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lib import recipe
from lib.base import hub
from lib.config import DataConfig, ModelConfig
from lib.corpus import sources
from lib.models import backbone
from tests.tools import local_hub, point_hub_at

COMMIT = "a" * 40


class Answer(BaseHTTPRequestHandler):
    """A hub with one public and one gated repository of each kind."""

    def do_GET(self) -> None:
        kind, _, rest = self.path.removeprefix("/api/").partition("/")
        name, _, revision = rest.partition("/revision/")
        codes = {"org/open": 200, "org/gated": 401}
        code = codes.get(name, 404) if kind in ("models", "datasets") else 404
        body = json.dumps({"id": name, "sha": COMMIT, "siblings": [], "asked": revision}).encode()
        self.send_response(code if revision == "main" or code != 200 else 404)
        self.send_header("Content-Type", "application/json")
        if code == 401:
            self.send_header("X-Error-Code", "GatedRepo")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with local_hub(monkeypatch, Answer):
        yield


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_branch_is_resolved_to_its_commit(kind: str, endpoint: None) -> None:
    assert hub.commit_of(kind, "org/open", "main") == COMMIT  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("org/none", "main", "hub model org/none at main: .*404"),
        ("org/open", "no-such-branch", "hub model org/open at no-such-branch: .*404"),
        ("org/gated", "main", "hub model org/gated at main: .*401"),
        ("no/such/name", "main", "no/such/name is neither a file here nor a hub id"),
    ],
)
def test_what_the_hub_refuses_is_bad_input(name: str, revision: str, words: str, endpoint: None) -> None:
    with pytest.raises(ValueError, match=words):
        hub.commit_of("model", name, revision)


def test_a_data_set_with_several_configurations_wants_one_named(
    tmp_path: Path, endpoint: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # files as the hub has them, beside this process: `datasets` reads both alike
    folder = tmp_path / "org" / "open"
    folder.mkdir(parents=True)
    page = ["---", "configs:"]
    for name, count in (("hard", 3), ("easy", 5)):
        rows = recipe.load("boolq").sample(count, 0)
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        page += [f"- config_name: {name}", f"  data_files: {name}.jsonl"]
    (folder / "README.md").write_text("\n".join([*page, "---", ""]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    found = sources.load(DataConfig(data="org/open:hard"), recipe.load("boolq"))
    assert len(found.splits["train"]) == 3 and found.revision == COMMIT
    with pytest.raises(ValueError, match=r"'hard', 'easy'.* name one: org/name:configuration"):
        sources.load(DataConfig(data="org/open:middle"), recipe.load("boolq"))


def test_a_model_that_the_hub_does_not_have_is_refused_before_any_download(endpoint: None) -> None:
    with pytest.raises(ValueError, match="hub model org/none at main"):
        backbone.describe(ModelConfig(model="org/none"), "encoder")


@pytest.mark.parametrize("offline", [True, False])
def test_a_model_without_a_network_is_refused_within_seconds(
    offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_hub_at(monkeypatch, "http://127.0.0.1:9", offline)  # nobody listens there
    began_s = time.perf_counter()
    with pytest.raises(ValueError, match="--model org/open cannot be loaded"):
        backbone.describe(ModelConfig(model="org/open"), "encoder")
    assert time.perf_counter() - began_s < 10
