"""--wandb online: is anybody logged in? Asked before a weight loads."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.tracking import login
from tests.tools import SHORT, run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb = pytest.importorskip("wandb")
    settings = SimpleNamespace(api_key=None, base_url="https://wandb.example.org")
    monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=settings))
    return tmp_path


def test_nobody_is_logged_in(home: Path) -> None:
    (home / ".netrc").write_text("machine elsewhere.org login user password secret\n")
    with pytest.raises(ValueError, match=r"no key for wandb\.example\.org: type `wandb login`"):
        login.require_key()


def test_a_key_in_the_environment_or_in_netrc_is_enough(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "mine").write_text("machine wandb.example.org login user password secret\n")
    monkeypatch.setenv("NETRC", str(home / "mine"))
    login.require_key()
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    login.require_key()


def test_a_damaged_netrc_is_named(home: Path) -> None:
    (home / ".netrc").write_text("what is this\n")
    with pytest.raises(ValueError, match=r"\.netrc cannot be read"):
        login.require_key()


def test_a_run_without_a_key_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    runs = tmp_path / "runs"
    done = run("arena", *SHORT, "--wandb", "online", "--runs-dir", str(runs))
    assert done.returncode == 2 and "type `wandb login`" in done.stderr, done.stderr
    assert not list(runs.glob("*/*/config.json"))
