"""The number of processes changes nothing: gradients, evaluation, what follows when one rank meets a NaN."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lib.launch import launch
from tests.rank_checks import ODD_ROWS
from tests.tools import ROOT, metrics, only_run, status, wide_model

SCRIPT = ROOT / "tests" / "rank_checks.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return wide_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def by_ranks(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of ranks -> what rank_checks.py wrote."""
    found = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in (1, 2, 3)}
    for ranks, out in found.items():
        assert launch(SCRIPT, [model, str(out)], ranks) == 0
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("pieces", [1, 4])
def test_gradient_is_the_same_for_every_way_to_cut_a_batch(
    by_ranks: dict[int, Path], ranks: int, pieces: int
) -> None:
    whole = np.load(by_ranks[1] / "gradient-1.npy").astype(np.float64)
    cut = np.load(by_ranks[ranks] / f"gradient-{pieces}.npy").astype(np.float64)
    assert len(whole) > 3_000_000  # 2 layers of 12 * 384**2 and the head: the whole gradient, no part of it
    assert np.linalg.norm(whole - cut) / np.linalg.norm(whole) <= 1e-6


@pytest.mark.parametrize("ranks", [2, 3])
def test_evaluation_is_bitwise_equal_and_every_id_comes_once(by_ranks: dict[int, Path], ranks: int) -> None:
    alone, shared = (json.loads((by_ranks[n] / "said.json").read_text()) for n in (1, ranks))
    assert shared == alone
    assert len({row["id"] for row in shared}) == len(shared) == ODD_ROWS


def test_nan_on_one_rank_skips_the_step_on_all_and_names_step_rank_and_rows(
    model: str, tmp_path: Path
) -> None:
    assert launch(SCRIPT, [model, str(tmp_path), "2"], 2) == 0
    folder = only_run(tmp_path / "runs")
    (skipped,) = metrics(folder, "skipped")
    assert skipped["step"] == 2
    assert "rank 1" in skipped["reason"] and "rows " in skipped["reason"]
    trained = metrics(folder, "train")
    assert [line["step"] for line in trained] == [1, 3, 4, 5, 6]
    assert all(np.isfinite(line["loss"]) for line in trained)


def test_three_bad_steps_in_a_row_end_the_run_with_4_and_save_nothing_bad(model: str, tmp_path: Path) -> None:
    assert launch(SCRIPT, [model, str(tmp_path), "4", "5", "6"], 2) == 4
    folder = only_run(tmp_path / "runs")
    assert status(folder)["exit_code"] == 4
    saved = list((folder / "checkpoints").rglob("*.safetensors"))
    assert saved, "step 3 was evaluated and saved"
    for file in saved:
        assert all(np.isfinite(tensor).all() for tensor in load_file(file).values())
