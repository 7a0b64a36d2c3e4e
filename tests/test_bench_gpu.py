"""What scripts/bench.py gpu rests on: the FLOPs it divides by, models made of numbers alone, arms that train
on the same rows from the same weights; and what it says of arms that fail."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib.bench import gpu, ours, rivals, rounds, shaped, text_rivals
from lib.bench.flops import Work, flops_of
from lib.bench.options import Options
from lib.config_keys import with_values
from lib.models import adapters, backbone
from tests.gpu_checks import needs
from tests.test_bare_machine import without_tyro
from tests.tools import ROOT, save_random

ARENA, BOOLQ, RAG = gpu.SUBJECTS
WORK = Work(weights=10, layers=1, hidden=2, causal=False, frozen=False, lengths=np.array([3, 1]))


def toy(subject: gpu.Subject, name: str = gpu.OURS, quantize: str = "none", **more: Any) -> dict[str, Any]:
    """The order of an arm of a subject in a toy's shape."""
    order = gpu.order_of(subject, Options("gpu", threads=1), quantize, toy=True)
    order |= gpu.arms_of(subject)[name] | {"seed": 0, "precision": "fp32", "validation_rows": 4}
    return order | more


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 6 * 10 * 4 + 12 * 2 * (9 + 1)),
        ({"causal": True}, 6 * 10 * 4 + 6 * 2 * (9 + 1)),
        ({"frozen": True}, 4 * 10 * 4 + 12 * 2 * (9 + 1)),
        ({"words": 7, "num_logits": 2}, 6 * (10 * 4 + 2 * 7 * 2) + 12 * 2 * (9 + 1)),
    ],
)
def test_flops_are_those_of_the_formula(changed: dict[str, Any], expected: float) -> None:
    assert flops_of(Work(**vars(WORK) | changed)) == expected


@pytest.mark.parametrize("frozen", [False, True])
def test_flops_are_those_that_torch_counts(frozen: bool) -> None:
    """Of a small Llama whose attention computes the whole square."""
    import transformers

    sizes: Any = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 50}
    config = transformers.LlamaConfig(**sizes, intermediate_size=48, attn_implementation="eager")
    model = transformers.LlamaForCausalLM(config)
    if frozen:
        model.requires_grad_(False)
    states = torch.randn(2, 20, 32, requires_grad=True)  # what stands below needs its gradient
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=states).logits.sum().backward()
    weights = sum(part.weight.numel() for part in model.model.modules() if isinstance(part, nn.Linear))
    work = Work(weights, 3, 32, False, frozen, np.array([20, 20]), words=50, num_logits=40)
    # rotary tables are products of 20 x 8 numbers
    assert counter.get_total_flops() == pytest.approx(flops_of(work), rel=2e-3)


def parts_of(model: nn.Module) -> dict[str, tuple[str, torch.dtype, torch.Size]]:
    return {
        name: (type(model.get_submodule(name.rpartition(".")[0])).__name__, value.dtype, value.shape)
        for name, value in model.named_parameters()
    }


@needs("bitsandbytes")
@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_a_model_made_of_numbers_is_what_is_loaded_from_files(quantize: str, tmp_path: Path) -> None:
    setting = shaped.prepare(toy(BOOLQ, quantize=quantize))
    made, task = setting.model(), setting.task
    task.described.config.save_pretrained(tmp_path)
    task.tokenizer.save_pretrained(tmp_path)
    save_random(tmp_path)
    values = {"model.model": str(tmp_path), "model.init": "pretrained"}
    loaded = shaped.make_task(task.recipe, with_values(setting.config, values)).build(None)
    assert parts_of(made) == parts_of(loaded)
    assert adapters.count(made) == adapters.count(loaded)


@needs("bitsandbytes")
def test_all_arms_begin_with_the_same_weights() -> None:
    """But for what is kept in bf16 where others keep it so."""
    first, second = (shaped.prepare(toy(RAG, name, "nf4")).model() for name in (gpu.OURS, gpu.TRAINER))
    pairs = list(zip(first.named_parameters(), second.named_parameters(), strict=True))
    assert {value.dtype for _, (_, value) in pairs} == {torch.uint8, torch.bfloat16, torch.float32}
    for (name, one), (_, other) in pairs:
        assert torch.equal(one.to(other.dtype), other), name
    assert {name for name, value in first.named_parameters() if value.requires_grad}


@needs("bitsandbytes")
def test_one_layer_at_a_time_has_float_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized, weights, most = shaped._in_4_bits, list[weakref.ref[Any]](), 0

    def count(layer: nn.Linear, kind: str) -> nn.Module:
        nonlocal most
        weights.append(weakref.ref(layer.weight))
        most = max(most, sum(weight() is not None for weight in weights))
        return quantized(layer, kind)

    monkeypatch.setattr(shaped, "_in_4_bits", count)
    shaped.prepare(toy(RAG, quantize="nf4")).model()
    assert len(weights) == 2 * 7 and most == 1


def test_rows_have_the_lengths_of_real_ones_and_something_to_learn() -> None:
    draw = np.random.default_rng(0)
    rows = shaped.rows_of(shaped._labelled, [list(ARENA.lengths[0])] * 2, 2000, 30_522, draw)
    found = np.percentile(rows.sequence_lengths, range(0, 101, 10))
    assert found == pytest.approx(ARENA.lengths[0], rel=0.15, abs=12)
    assert all(rows.sequences_of(row)[0][0] == 4 + rows.labels[row] for row in range(2000))
    texts = shaped.rows_of(shaped._text, [[9] * 11, [3] * 11], 2, 1000, draw)
    assert texts.num_targets.tolist() == [3, 3]


@pytest.mark.parametrize("subject", gpu.SUBJECTS, ids=lambda subject: subject.recipe)
def test_arms_train_on_the_same_rows_and_end_alike(subject: gpu.Subject) -> None:
    """One batch again and again, in float32 and without dropout: then no order of rows and no rounding hides
    a difference."""
    exact = {"model.dropout": 0.0, "adapter.lora_dropout": 0.0, "optim.epochs": 4.0}
    orders = [toy(subject, name, warm_up=1) for name in (gpu.OURS, gpu.TRAINER)]
    for order in orders:
        order["values"] |= exact
        order["rows"] = order["values"]["optim.batch"]
    first, second = (shaped.prepare(order | {"arm": "ours"}) for order in orders)  # bases in float32
    theirs = text_rivals.train if subject is RAG else rivals.trainer
    one, other = ours.train(first, orders[0]), theirs(second, orders[1])
    assert one["rows_per_s"] > 0 and other["rows_per_s"] > 0
    for key in ("trained", "loss"):
        assert one[key] == pytest.approx(other[key], rel=1e-5)
    random = np.log(1000 if subject is RAG else len(first.task.recipe.labels))
    assert one["loss"] < 0.98 * random, "something was learned"
    setting = first
    work = setting.work()
    assert work["tokens"] == setting.train.sequence_lengths.sum() and work["flops"] > 0


def test_the_real_shapes_have_their_names_sizes() -> None:
    sizes = {}
    for subject, known in ((ARENA, 0.335e9), (BOOLQ, 1.236e9), (RAG, 8.03e9)):
        order = gpu.order_of(subject, Options("gpu"), "none", toy=False) | {
            "rows": 2,
            "arm": "ours",
            "seed": 0,
        }
        setting = shaped.prepare(order)
        with torch.device("meta"):
            base: Any = backbone.random(setting.task.described, setting.task.kind)
        sizes[subject.recipe] = sum(value.numel() for value in base.parameters()), known
    assert all(size == pytest.approx(known, rel=0.01) for size, known in sizes.values()), sizes


def test_an_arm_that_fails_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = {"rows_per_s": 2.0, "tokens": 640.0, "flops": 3.2e14, "peak_gib": 1.5, "trained": 0.5, "loss": 0.6}

    def arm(order: dict[str, Any], limit_s: float) -> dict[str, Any]:
        if order["arm"] == "ours":
            return ran | {"token_budget": 4096}
        raise RuntimeError("trainer ended with 1:\ntorch.OutOfMemoryError: CUDA out of memory")

    monkeypatch.setattr(gpu, "arm", arm)
    gpu.compare(ARENA, Options("gpu", rows=32), "none", "NVIDIA A100-SXM4-80GB")
    said = capsys.readouterr().out
    assert f"round 0, {gpu.TRAINER}: out of memory" in said and "times as fast" not in said
    # of each of 32 rows 1e13 FLOPs and 20 tokens, 2 rows a second: 2e13 of 312e12 FLOP/s
    (line,) = [line for line in said.splitlines() if line.startswith(f"  {gpu.OURS}")]
    assert line.split()[2:] == ["2.00", "40", "6.4%", "1.50", "0.5000,", "0.6000"]


def test_an_arm_has_a_time_limit() -> None:
    with pytest.raises(RuntimeError, match="ours took more than 0 s; fewer --rows take less"):
        rounds.arm(toy(BOOLQ), limit_s=0.01)


def test_bench_gpu_alone_needs_no_tyro() -> None:
    script = "from lib.bench import gpu; gpu.main = print; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = without_tyro(script, str(ROOT / "scripts" / "bench.py"), "gpu")
    assert done.returncode == 0 and done.stdout.startswith("Options(what='gpu'"), done.stderr
    done = without_tyro(script, str(ROOT / "scripts" / "bench.py"), "arena")
    assert done.returncode == 2 and "lacks tyro" in done.stderr
