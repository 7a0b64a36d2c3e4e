"""The whole of what DeepSpeed keeps in shares: the gradient's norm, moments and weights, put together and
taken apart without its own checkpoint files, which are pickles.

Everything here knows the insides of DeepSpeed's two optimizers (stages 1 and 2; stage 3), as they are in
0.19.8. All ranks call all of it, in the same order.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models import frozen_weights

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's


def norm(optimizer: Any) -> Tensor:
    """() of the whole gradient, infinite when it holds a NaN; after the backward pass of the last
    micro-batch."""
    from deepspeed.runtime.utils import combine_grad_norm_groups

    if hasattr(optimizer, "scaled_global_norm"):
        return optimizer.scaled_global_norm()
    return combine_grad_norm_groups(optimizer._get_norm_groups())


def share_out(module: nn.Module, configuration: dict[str, Any], device: torch.device) -> None:
    """Each weight to the device in its type, and the other ranks' shares of it away again, one after the
    other: no rank ever has them all."""
    import deepspeed

    deepspeed.init_distributed()  # it is there; DeepSpeed is to know
    first: Any = None
    for parameter, dtype in frozen_weights.types(module):
        parameter.data = parameter.data.to(device).to(dtype)
        if first is None:
            first = parameter
            deepspeed.zero.Init(nn.ParameterList([first]), config_dict_or_path=configuration)
        else:
            first.convert_to_zero_parameters(param_list=[parameter])


def keep_weights_once(optimizer: Any, rank: int) -> None:
    """The optimizer updates a copy of its share of the weights, which is there for models in 16 bits. In
    float32 it can be the share itself: 4 bytes a number less, over the ranks."""
    if _is_stage_3(optimizer):
        own = optimizer.fp16_partitioned_groups_flat
    else:
        own = [parts[rank] for parts in optimizer.parallel_partitioned_bit16_groups]
    for share, part in zip(_shares(optimizer), own, strict=True):
        if part is not None and (share.dtype, share.device) == (part.dtype, part.device):
            share.data = part
    if not _is_stage_3(optimizer):
        optimizer._link_all_hp_params()  # views of the shares


def let_go(optimizer: Any, module: nn.Module) -> None:
    """Of weights, gradients and moments: DeepSpeed itself is held by hooks and lists of its own."""
    optimizer.optimizer.state.clear()
    for parameter in module.parameters():
        parameter.grad = None
        parameter.data = parameter.data.new_empty(0)
        if hasattr(parameter, "ds_tensor"):
            parameter.ds_tensor.data = parameter.ds_tensor.data.new_empty(0)
    for value in vars(optimizer).values():
        for tensor in _tensors_in(value):
            tensor.grad = None
            tensor.data = tensor.data.new_empty(0)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors_in(each)
    elif isinstance(value, dict):
        yield from _tensors_in(list(value.values()))


def forget(optimizer: Any) -> None:
    """Drop a gradient that was summed up; as DeepSpeed's own step does when the gradient overflowed."""
    optimizer.zero_grad(set_to_none=True)
    if _is_stage_3(optimizer):
        optimizer._pre_step()
        optimizer._overflow_clean_up(1.0)
        return
    optimizer.micro_step_id = -1  # the next gradient is the first of a step
    for group in optimizer.averaged_gradients:
        optimizer.averaged_gradients[group] = None
        optimizer.all_grad_tensors[group] = None
    if optimizer.cpu_offload:
        optimizer._offload_accumulated_param_ids = set()
        optimizer.reset_cpu_buffers()


def _is_stage_3(optimizer: Any) -> bool:
    return hasattr(optimizer, "fp32_partitioned_groups_flat")


def _shares(optimizer: Any) -> list[Tensor]:
    """What this rank updates, as flat tensors."""
    if _is_stage_3(optimizer):
        return optimizer.fp32_partitioned_groups_flat
    return optimizer.single_partition_of_fp32_groups


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, value) for name, value in module.named_parameters() if value.requires_grad)


def moments(optimizer: Any, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """As lib.training.optim.state_tensors has them: the optimizer's state by parameter name, one whole tensor
    at a time; nothing before the first step."""
    from deepspeed.utils import safe_get_full_optimizer_state

    states = optimizer.optimizer.state
    if not any(states.values()):
        return
    step = next(iter(states.values()))["step"]
    _link(optimizer)
    for name, parameter in _trained(module):
        yield f"{name}/step", torch.as_tensor(step)
        for kind in MOMENTS:
            yield f"{name}/{kind}", safe_get_full_optimizer_state(parameter, kind)


def load(optimizer: Any, module: nn.Module, tensors: Mapping[str, Tensor], rank: int) -> None:
    """Take `moments` apart again. Raises KeyError when they belong to other parameters."""
    if not tensors:  # saved before the first step
        return
    step = next(value for key, value in tensors.items() if key.endswith("/step"))
    for number, share in enumerate(_shares(optimizer)):
        on_disk = _is_stage_3(optimizer) and optimizer._swappable_optimizer_subgroup(number)
        if on_disk:
            optimizer._optimizer_states_and_gradient_swap_in(number)
        state = optimizer.optimizer.state[share]
        state["step"] = step.to(share.device, copy=True)
        state.update({kind: torch.zeros_like(share) for kind in MOMENTS})
        if on_disk:
            optimizer._optimizer_states_and_gradient_swap_out(number)
    _link(optimizer)
    for name, parameter in _trained(module):
        for kind in MOMENTS:
            _set_moment(parameter, tensors[f"{name}/{kind}"], kind, rank)


def _link(optimizer: Any) -> None:
    """Let parameters know where their moments are. DeepSpeed does it once, when the first group of parameters
    has moved and the others have no moments yet."""
    if not _is_stage_3(optimizer):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _set_moment(parameter: Any, value: Tensor, kind: str, rank: int) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if not hasattr(parameter, "ds_id"):
        safe_set_full_optimizer_state(parameter, value, kind)
        return
    share = parameter.ds_tensor.numel()  # all ranks have as many; the last one's may end in padding
    mine = value.flatten()[share * rank : share * (rank + 1)]
    safe_set_local_optimizer_state(parameter, F.pad(mine, (0, share - len(mine))), kind)


def weights(module: nn.Module, kept: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors named in `kept`, whole, one at a time."""
    import deepspeed

    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, value in kept.items():
        parameter = parameters.get(name)
        if parameter is None or not hasattr(parameter, "ds_id"):
            yield name, value
        else:
            with deepspeed.zero.GatheredParameters([parameter]):
                yield name, parameter.data
