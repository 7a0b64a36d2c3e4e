"""The learning rate as a function of the step, which weights decay, an optimizer that comes back exactly."""

import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from lib.base.tensor_file import write_tensors
from lib.config import OptimConfig
from lib.training import optim

LR = 8e-4


def config(**values: Any) -> OptimConfig:
    given: dict[str, Any] = {"lr": LR, "warmup": 0.1, "schedule": "linear"}
    return OptimConfig(**(given | values))


def rate(step: int, num_steps: int = 100, **values: Any) -> float:
    """In shares of the highest rate."""
    return optim.learning_rate(step, num_steps, config(**values)) / LR


def model(seed: int = 0) -> nn.Sequential:
    """An embedding, a linear layer with a bias, a norm: two matrices and three vectors."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3), nn.LayerNorm(3))


def train(model: nn.Module, optimizer: torch.optim.AdamW, num_steps: int) -> None:
    """Steps on ids that are the same for every model."""
    for step in range(num_steps):
        optimizer.zero_grad()
        model(torch.tensor([[step % 7, 1, 2]])).pow(3).sum().backward()
        optimizer.step()


# the learning rate


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_rate_rises_over_the_warm_up_and_is_highest_at_its_end(schedule: str) -> None:
    # a warm-up of 0.1 * 100 = 10 steps
    assert rate(1, schedule=schedule) == pytest.approx(1 / 10)
    assert rate(5, schedule=schedule) == pytest.approx(5 / 10)
    assert rate(10, schedule=schedule) == 1
    assert rate(11, schedule=schedule) == 1  # the first step of the way down is still the highest


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        # step 56: 45 of the 90 steps after the warm-up are done; step 100: 89 of 90
        ("linear", 56, 1 / 2),
        ("linear", 100, 1 / 90),
        ("cosine", 56, 1 / 2),
        ("cosine", 100, (1 + math.cos(math.pi * 89 / 90)) / 2),
        ("constant", 56, 1),
        ("constant", 100, 1),
    ],
)
def test_the_rate_after_the_warm_up(schedule: str, step: int, expected: float) -> None:
    assert rate(step, schedule=schedule) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
def test_the_rate_is_never_0_and_never_rises_again(schedule: str, warmup: float) -> None:
    for num_steps in (1, 2, 3, 10, 101):
        rates = [rate(step, num_steps, schedule=schedule, warmup=warmup) for step in range(1, num_steps + 1)]
        top = rates.index(max(rates))
        assert min(rates) > 0 and max(rates) == 1
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)


def test_a_part_of_a_warm_up_step_is_a_whole_one() -> None:
    # 0.1 * 15 = 1.5, so two steps
    assert [rate(step, 15) for step in (1, 2, 3)] == pytest.approx([1 / 2, 1, 1])


@pytest.mark.parametrize(("warmup", "num_steps"), [(0.0, 1), (0.0, 50), (0.5, 1)])
def test_without_a_warm_up_the_first_step_has_the_highest_rate(warmup: float, num_steps: int) -> None:
    # half of one step is rounded up to one step, which ends the warm-up at once
    assert rate(1, num_steps, warmup=warmup) == 1


# weight decay


def test_weight_decay_is_for_matrices_alone() -> None:
    made = model()
    decays = {
        id(parameter): group["weight_decay"]
        for group in optim.make(made, config(weight_decay=0.3)).param_groups
        for parameter in group["params"]
    }
    assert {name: decays[id(parameter)] for name, parameter in made.named_parameters()} == {
        "0.weight": 0.3,
        "1.weight": 0.3,
        "1.bias": 0,
        "2.weight": 0,
        "2.bias": 0,
    }


def test_a_step_without_gradient_shrinks_matrices_and_leaves_vectors() -> None:
    made = model()
    before = {name: parameter.detach().clone() for name, parameter in made.named_parameters()}
    for parameter in made.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optim.make(made, config(lr=0.1, weight_decay=0.5)).step()
    for name, parameter in made.named_parameters():
        # decoupled: w - lr * decay * w = 0.95 w
        kept = 0.95 if parameter.ndim == 2 else 1
        assert torch.allclose(parameter, before[name] * kept, rtol=1e-6, atol=0), name


def test_frozen_weights_are_left_out() -> None:
    made = model()
    made[0].requires_grad_(False)
    made[2].requires_grad_(False)
    groups = optim.make(made, config()).param_groups
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in made[1].parameters()]


def test_a_group_without_weights_is_not_made() -> None:
    assert len(optim.make(nn.Linear(3, 2, bias=False), config()).param_groups) == 1


# the state


def test_there_is_no_state_before_the_first_step() -> None:
    made = model()
    assert optim.state_tensors(made, optim.make(made, config())) == {}


def test_the_state_has_a_name_for_every_tensor() -> None:
    made = model()
    made[0].requires_grad_(False)
    optimizer = optim.make(made, config())
    train(made, optimizer, 2)
    found = optim.state_tensors(made, optimizer)
    trains = ("1.weight", "1.bias", "2.weight", "2.bias")
    assert set(found) == {f"{name}/{key}" for name in trains for key in ("exp_avg", "exp_avg_sq", "step")}
    assert found["1.bias/step"].item() == 2


@pytest.mark.parametrize("num_steps", [0, 1, 5])
def test_a_reloaded_optimizer_goes_on_bit_for_bit(num_steps: int, tmp_path: Path) -> None:
    made, again = model(), model(seed=1)
    optimizer = optim.make(made, config())
    train(made, optimizer, num_steps)
    write_tensors(tmp_path / "optimizer.safetensors", optim.state_tensors(made, optimizer))
    reloaded = optim.make(again, config())
    again.load_state_dict(made.state_dict())
    optim.load_state_tensors(again, reloaded, safetensors.torch.load_file(tmp_path / "optimizer.safetensors"))
    for one, two in zip(
        optim.state_tensors(made, optimizer).items(),
        optim.state_tensors(again, reloaded).items(),
        strict=True,
    ):
        assert one[0] == two[0] and torch.equal(one[1], two[1])
        assert one[1].dtype == two[1].dtype and one[1].shape == two[1].shape
    train(made, optimizer, 3)
    train(again, reloaded, 3)
    assert all(torch.equal(one, two) for one, two in zip(made.parameters(), again.parameters(), strict=True))


def test_a_loaded_state_is_a_copy() -> None:
    made, again = model(), model()
    optimizer, reloaded = optim.make(made, config()), optim.make(again, config())
    train(made, optimizer, 1)
    optim.load_state_tensors(again, reloaded, optim.state_tensors(made, optimizer))
    train(again, reloaded, 1)
    assert optim.state_tensors(made, optimizer)["1.bias/step"].item() == 1


def test_the_state_of_other_weights_is_refused() -> None:
    made = model()
    with pytest.raises(KeyError):
        optim.load_state_tensors(made, optim.make(made, config()), {"9.weight/exp_avg": torch.zeros(3)})
