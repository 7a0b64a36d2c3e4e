"""What the devices of a run can compute at most: from a list, else measured."""

import time
from dataclasses import replace

import pytest
import torch

from lib.process import peak
from tests.tools import alone


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [("NVIDIA A40", "bf16", 149.7), ("NVIDIA A40", "fp32", 37.4), ("NVIDIA H200", "bf16", 989)]
    + [("Tesla T4", "bf16", None), ("Tesla T4", "fp32", 8.1), ("NVIDIA A41", "bf16", None)],
)
def test_the_peak_of_a_gpu_is_that_of_its_sheet(name: str, precision: str, tera: float | None) -> None:
    found = peak.listed(name, precision)
    assert found == (None if tera is None else tera * 1e12)


def test_float32_is_faster_where_tf32_was_turned_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert peak.listed("NVIDIA A100-SXM4-80GB", "fp32") == 156e12
    assert peak.listed("Tesla T4", "fp32") == 8.1e12


def test_what_no_sheet_is_known_of_is_measured_on_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak.dist, "gather_floats", lambda values: [values, [2.0]])
    monkeypatch.setattr(peak, "measured", lambda world: 3.0)
    assert peak.of(alone()) == peak.Peak(5.0, "measured")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_measurement_is_short_and_draws_no_number(precision: str) -> None:
    began_s, before = time.perf_counter(), torch.get_rng_state()
    assert peak.measured(replace(alone(), precision=precision)) > 1e8
    # 0.15 s for each of three sizes, and the last product of each
    assert time.perf_counter() - began_s < 3
    assert torch.equal(torch.get_rng_state(), before)
