"""The number of processes changes nothing: gradients, evaluation, what follows when one rank meets a NaN."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lib.launching.workers import launch
from tests.rank_checks import CASES, ODD_ROWS
from tests.tools import ROOT, metrics, only_run, status, wide_model

SCRIPT = ROOT / "tests" / "rank_checks.py"
pytestmark = pytest.mark.usefixtures("workers_begin_at_once")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a wide model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("encoder", "decoder", "seq2seq"):
        wide_model(folder / kind, kind)
    return str(folder)


@pytest.fixture(scope="module")
def by_ranks(models: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of ranks -> what rank_checks.py wrote."""
    found = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in (1, 2, 3)}
    for ranks, out in found.items():
        assert launch(SCRIPT, [models, str(out)], ranks) == 0
    return found


# Options that an encoder reads after the same context have nearly the same gradients, which cancel in the
# softmax (its weights add up to 0): float32 is then 5e-6 away from float64 however the batch is cut, and two
# cuts 3e-6 from each other; in float64 they are 6e-15 apart. Language models' options share less (1.4e-6).
BOUND = {"science_exam-encoder": 1e-5, "science_exam-decoder": 3e-6, "science_exam-seq2seq": 3e-6}


@pytest.mark.parametrize("case", ["-".join(case) for case in CASES])
def test_gradient_is_the_same_for_every_way_to_cut_a_batch(by_ranks: dict[int, Path], case: str) -> None:
    whole = np.load(by_ranks[1] / case / "gradient-1.npy").astype(np.float64)
    assert len(whole) > 3_000_000  # 2 layers of 12 * 384**2 and more: the whole gradient, no part of it
    for ranks in (1, 2, 3):
        for pieces in (ranks, 4):
            cut = np.load(by_ranks[ranks] / case / f"gradient-{pieces}.npy").astype(np.float64)
            assert np.linalg.norm(whole - cut) / np.linalg.norm(whole) <= BOUND.get(case, 1e-6), (
                ranks,
                pieces,
            )


@pytest.mark.parametrize("case", ["-".join(case) for case in CASES])
@pytest.mark.parametrize("ranks", [2, 3])
def test_evaluation_is_bitwise_equal_and_every_id_comes_once(
    by_ranks: dict[int, Path], ranks: int, case: str
) -> None:
    alone, shared = (json.loads((by_ranks[n] / case / "said.json").read_text()) for n in (1, ranks))
    assert shared == alone
    assert len({row["id"] for row in shared}) == len(shared) == ODD_ROWS


def test_nan_on_one_rank_skips_the_step_on_all_and_names_step_rank_and_rows(
    models: str, tmp_path: Path
) -> None:
    assert launch(SCRIPT, [models, str(tmp_path), "2"], 2) == 0
    folder = only_run(tmp_path / "runs")
    (skipped,) = metrics(folder, "skipped")
    assert skipped["step"] == 2
    assert "rank 1" in skipped["reason"] and "rows " in skipped["reason"]
    trained = metrics(folder, "train")
    assert [line["step"] for line in trained] == [1, 3, 4, 5, 6]
    assert all(np.isfinite(line["loss"]) for line in trained)


def test_three_bad_steps_in_a_row_end_the_run_with_4_and_save_nothing_bad(
    models: str, tmp_path: Path
) -> None:
    assert launch(SCRIPT, [models, str(tmp_path), "4", "5", "6"], 2) == 4
    folder = only_run(tmp_path / "runs")
    assert status(folder)["exit_code"] == 4
    saved = list((folder / "checkpoints").rglob("*.safetensors"))
    assert saved, "step 3 was evaluated and saved"
    for file in saved:
        assert all(np.isfinite(tensor).all() for tensor in load_file(file).values())
