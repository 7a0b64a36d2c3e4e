"""The best checkpoint in wandb: what is logged, and an evaluation from what is fetched.

The service cannot be asked here: a folder stands in for it.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib import recipe, run
from lib.base import exits
from lib.command_line import parse
from lib.evaluation.rescore import rescore
from lib.runs.folder import RunFolder
from lib.tracking import artifact
from lib.training import checkpoint
from tests.tools import SHORT, only_run

wandb = pytest.importorskip("wandb")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that says it was followed online."""
    runs = tmp_path_factory.mktemp("runs")
    words = [*SHORT, "--model", "tiny", "--init", "random", "--runs-dir", str(runs), "--name", "a b+c"]
    config = parse(recipe.load("arena").config, words, "test")
    assert exits.run(lambda: run.train(config)) == 0
    folder = RunFolder(only_run(runs))
    folder.write_config(replace(config, tracking=replace(config.tracking, wandb="online")))
    return folder.path


class Service:
    """Keeps what is logged, and gives it back."""

    def __init__(self, at: Path) -> None:
        self.at, self.names, self.metadata = at, [], {}

    def log_artifact(self, logged: Any, aliases: list[str]) -> None:
        self.names, self.metadata = [f"{logged.name}:{alias}" for alias in aliases], logged.metadata
        for name, entry in logged.manifest.entries.items():
            (self.at / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(entry.local_path, self.at / name)

    def artifact(self, name: str, type: str) -> Any:
        assert (name.split("/")[0], type) == ("train-arena", "model") and name.split("/")[1] in self.names
        return SimpleNamespace(metadata=self.metadata, download=self.download)

    def download(self, root: Path) -> str:
        return str(shutil.copytree(self.at, root, dirs_exist_ok=True))


@pytest.fixture
def service(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service(tmp_path)
    artifact.log_best(service, finished)
    monkeypatch.setattr(wandb, "Api", lambda: service)
    shutil.rmtree(finished / "artifact", ignore_errors=True)
    return service


def test_the_fetched_checkpoint_gives_the_same_digits_without_the_run_folders_own(
    finished: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (service.at / "optimizer.safetensors").exists()
    monkeypatch.setattr("lib.evaluation.trained.best_checkpoint", None)  # not even looked at
    found = rescore(finished, None, None, None, from_artifact=True)
    assert found.before is not None and found.now["scores"] == found.before["scores"]
    assert checkpoint.verify(next((finished / "artifact").iterdir())) == "optimizer.safetensors is missing"


@pytest.mark.parametrize("file", ["head.safetensors", "manifest.json", "state.json"])
def test_a_damaged_or_cut_artifact_is_said_and_the_run_folder_is_read(
    file: str, finished: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = bytearray((service.at / file).read_bytes())
    damaged[len(damaged) // 2] ^= 4
    (service.at / file).write_bytes(damaged)
    found = rescore(finished, None, None, None, from_artifact=True)
    said = capsys.readouterr().out
    assert "WARNING: the artifact is not used" in said and file in said
    assert found.before is not None and found.now["scores"] == found.before["scores"]


def test_a_service_that_is_away_or_lies_is_said_and_the_run_folder_is_read(
    finished: Path, service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.metadata = {"checkpoint": "../../elsewhere"}
    with pytest.raises(artifact.FetchError, match="elsewhere"):
        artifact.fetch(finished, "arena")

    def away() -> None:
        raise wandb.errors.CommError("no route")

    monkeypatch.setattr(wandb, "Api", away)
    found = rescore(finished, None, None, None, from_artifact=True)
    assert "CommError: no route" in capsys.readouterr().out
    assert found.before is not None and found.now["scores"] == found.before["scores"]


def test_names_are_what_wandb_allows_and_other_runs_are_read_from_their_folder(
    finished: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert service.names[0] == f"{finished.name[:15]}-a-b-c:best"
    folder = RunFolder(finished)
    online = folder.config()
    folder.write_config(replace(online, tracking=replace(online.tracking, wandb="offline")))
    rescore(finished, None, None, None, from_artifact=True)
    folder.write_config(online)
    assert "followed with --wandb offline: read from its folder" in capsys.readouterr().out
    assert not (finished / "artifact").exists()
