"""A way to train is one class behind the engine's verbs: loop, checkpoints, evaluation know no more of it."""

import shutil
from pathlib import Path

import pytest

from tests.test_imports import MODULES, imported
from tests.tools import ROOT, SHORT, losses, only_run, run, weights_hash, wide_model

CHECKS = str(ROOT / "tests" / "engine_checks.py")


def test_only_one_place_and_the_bench_name_an_engine() -> None:
    engines = {"lib.training.ddp", "lib.training.zero"}
    naming = {name for name, path in MODULES.items() if engines & set(imported(path))}
    # ordered is a kind of ddp
    assert naming == {"lib.training.strategies", "lib.training.ordered", "lib.bench.ours"}


def test_a_throw_away_engine_trains_stops_and_goes_on_and_so_does_ddp_from_its_checkpoint(
    tmp_path: Path,
) -> None:
    """Its moments lie on two ranks, so that its checkpoints need both."""
    model = wide_model(tmp_path / "model")
    words = ["arena", *SHORT, "--model", model, "--init", "random", "--devices", "2", "--runs-dir"]
    whole = run(*words, str(tmp_path / "whole"), script=CHECKS)
    assert whole.returncode == 0, whole.stderr
    half = run(*words, str(tmp_path / "half"), "--stop-at", "3", script=CHECKS)
    assert half.returncode == 75, half.stderr
    shutil.copytree(tmp_path / "half", tmp_path / "ddp", symlinks=True)
    for folder, script in (("half", CHECKS), ("ddp", "train.py")):
        again = run(*words, str(tmp_path / folder), script=script)
        assert again.returncode == 0, again.stderr
    unbroken, resumed, ddp = (only_run(tmp_path / name) for name in ("whole", "half", "ddp"))
    assert losses(resumed) == losses(unbroken)
    assert weights_hash(resumed, 6) == weights_hash(unbroken, 6)
    # two ranks' sums are the same in any order, but DDP adds up its buckets, not tensors
    assert losses(ddp) == pytest.approx(losses(unbroken), rel=1e-6)
