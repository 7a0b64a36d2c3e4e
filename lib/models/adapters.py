"""What trains on a frozen backbone (LoRA, by peft), and what a frozen backbone is kept in (bitsandbytes).

LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685; QLoRA: Dettmers et al. 2023, https://arxiv.org/abs/2305.14314.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.base.hub import first_line
from lib.base.tensor_file import write_tensors
from lib.config import AdapterConfig
from lib.models.freezing import stacks

WEIGHTS = "adapter_model.safetensors"
WRAPPERS = (".base_layer", ".original_module")  # what peft puts around a layer that it changes
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it recommends kernels from the hub
ALL_LINEAR = ["all-linear"]
NAME = "default"  # peft's own word for the only adapter of a model


def quantization(adapter: AdapterConfig, precision: str) -> Any:
    """What transformers needs to load quantized weights; None for none. Products with 4-bit weights are taken
    in bfloat16, or in float32 when `precision` is fp32."""
    if adapter.quantize == "none":
        return None
    import transformers

    if adapter.quantize == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=adapter.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32 if precision == "fp32" else torch.bfloat16,
    )


def keep_as_loaded(backbone: nn.Module) -> None:
    """On CPUs with AVX-512 bitsandbytes repacks 4-bit weights for evaluation and back for training, and loses
    a little each time: ranks that evaluate and ranks that do not would train on different weights."""
    for module in backbone.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


@contextmanager
def in_float32(backbone: nn.Module, device: torch.device) -> Iterator[None]:
    """All products in float32, also those with weights of 4 bits, which have a type of their own for them."""
    few_bits = [module for module in backbone.modules() if hasattr(module, "compute_dtype")]
    before = [module.compute_dtype for module in few_bits]
    try:
        for module in few_bits:
            module.compute_dtype = torch.float32  # type: ignore[assignment]
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module, dtype in zip(few_bits, before, strict=True):
            module.compute_dtype = dtype  # type: ignore[assignment]


def has_int8(backbone: nn.Module) -> bool:
    """Does it hold weights of 8 bits?"""
    return any(type(module).__name__ == "Linear8bitLt" for module in backbone.modules())


def lora_config(adapter: AdapterConfig, backbone: nn.Module) -> Any:
    """peft's configuration of the adapter."""
    import peft

    layers = list(adapter.lora_layers)
    pattern: Any = adapter.lora_layers_pattern
    targets: Any = list(adapter.lora_targets)
    if targets == ALL_LINEAR:  # peft takes some blocks of named layers only
        targets = _linear_names(backbone) if layers else ALL_LINEAR[0]
    if layers and pattern is None:
        pattern = sorted({name.rpartition(".")[2] for name, _ in stacks(backbone)})
    pooled = any(name.rpartition(".")[2] == "pooler" for name, _ in backbone.named_modules())
    return peft.LoraConfig(
        r=adapter.lora_rank,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        bias=adapter.lora_bias,
        target_modules=targets,
        # nobody reads it here, so nothing there would train
        exclude_modules=r"(.*\.)?pooler(\..*)?" if pooled else None,
        use_rslora=adapter.lora_rslora,
        modules_to_save=list(adapter.lora_save) or None,
        layers_to_transform=layers or None,
        layers_pattern=pattern,
        rank_pattern=dict(adapter.lora_rank_pattern),
        alpha_pattern=dict(adapter.lora_alpha_pattern),
    )


def add(backbone: nn.Module, adapter: AdapterConfig, seed: int) -> Any:
    """The backbone, frozen, with LoRA's matrices in it. Raises ValueError when something that the adapter
    names is nowhere in it."""
    import peft

    _check(adapter, backbone)
    for name, module in backbone.named_modules():
        if any(f".{name}".endswith(f".{word}") for word in adapter.lora_save):
            module.float()  # peft copies it, and the copy trains
    try:
        with _looking_wide(backbone), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # a matter of peft's
            torch.manual_seed(seed)
            return peft.get_peft_model(backbone, lora_config(adapter, backbone))
    except ValueError as error:
        raise ValueError(
            f"--lora-targets {' '.join(adapter.lora_targets)}: {first_line(error).rstrip('.')}; the "
            f"layers of this model are {', '.join(_linear_names(backbone))}"
        ) from error


@contextmanager
def _looking_wide(backbone: nn.Module) -> Iterator[None]:
    """peft gives new matrices the type of the layer they stand at, which would round them where a file has 16
    bits: inside, such weights are one number in float32 that is seen as many."""
    before = [(p, p.data) for p in backbone.parameters() if p.dtype in (torch.bfloat16, torch.float16)]
    for parameter, weight in before:
        parameter.data = torch.zeros((), device=weight.device).expand(weight.shape)
    try:
        yield
    finally:
        for parameter, weight in before:
            parameter.data = weight


def _check(adapter: AdapterConfig, backbone: Any) -> None:
    """Raises ValueError for a name, a block or a pattern that this model does not have; peft is content when
    one of several is there."""
    names = [name for name, _ in backbone.named_modules() if name]
    targets = () if list(adapter.lora_targets) == ALL_LINEAR else adapter.lora_targets
    modules = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
    for flag, asked, there in (
        ("--lora-targets", targets, _linear_names(backbone)),
        ("--lora-save", adapter.lora_save, modules),
    ):
        if nowhere := [word for word in asked if not any(f".{name}".endswith(f".{word}") for name in names)]:
            raise ValueError(f"{flag} {' '.join(nowhere)}: nowhere in this model; it has {', '.join(there)}")
    if both := sorted(set(targets) & set(adapter.lora_save)):
        raise ValueError(f"{both[0]} is in --lora-targets and in --lora-save; it trains whole or by LoRA")
    _refuse_tied((*targets, *adapter.lora_save), backbone)
    if adapter.lora_layers:
        most = max(len(blocks) for _, blocks in stacks(backbone))
        if beyond := [block for block in adapter.lora_layers if not 0 <= block < most]:
            raise ValueError(f"--lora-layers {beyond[0]}: the blocks of this model are 0 to {most - 1}")
    for flag, patterns in (("rank", adapter.lora_rank_pattern), ("alpha", adapter.lora_alpha_pattern)):
        for word in patterns:
            try:
                there_is = any(re.match(rf"(.*\.)?({word})$", name) for name in names)
            except re.error as error:
                raise ValueError(f"--lora-{flag}-pattern {word} is no regular expression: {error}") from error
            if not there_is:
                raise ValueError(
                    f"--lora-{flag}-pattern {word}: matches nothing in this model; its layers are "
                    f"{', '.join(_linear_names(backbone))}"
                )


def _refuse_tied(asked: tuple[str, ...], backbone: Any) -> None:
    """Raises ValueError for an output layer or an embedding that are one weight: what is learned for one of
    them would be merged into both, so that no export could say what the run said."""
    parts = backbone.get_output_embeddings(), backbone.get_input_embeddings()
    if any(part is None for part in parts) or parts[0].weight is not parts[1].weight:
        return
    modules = backbone.named_modules(remove_duplicate=False)
    tied = [name for name, module in modules if module in parts]
    if words := [word for word in asked if any(f".{name}".endswith(f".{word}") for name in tied)]:
        raise ValueError(
            f"{' '.join(words)} in --lora-targets or --lora-save: {' and '.join(sorted(tied))} of this model "
            "are one weight, so an adapter of one of them cannot be merged; leave it out"
        )


def is_adapted(backbone: Any) -> bool:
    """Is there an adapter in it?"""
    return hasattr(backbone, "peft_config")


def plain(backbone: Any) -> Any:
    """The model of transformers, an adapter's layers in it or not."""
    return backbone.get_base_model() if is_adapted(backbone) else backbone


def _linear_names(backbone: Any) -> list[str]:
    """The last parts of the linear layers' names, without an output layer's."""
    output = backbone.get_output_embeddings()
    parts = backbone.named_modules()
    return sorted({name.rpartition(".")[2] for name, part in parts if is_linear(part) and part is not output})


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # gpt2's linear layer


def save(backbone: Any, state: dict[str, Tensor], folder: Path) -> None:
    """Write the adapter out of `state` (by the names of backbone.state_dict()) as peft keeps it."""
    folder.mkdir()
    backbone.peft_config[NAME].save_pretrained(folder)
    write_tensors(folder / WEIGHTS, _adapter_state(backbone, state))


def load(backbone: Any, folder: Path) -> None:
    """Read what `save` wrote. Raises ValueError when it belongs to another model or other flags."""
    import peft

    weights, needed = load_file(folder / WEIGHTS), _adapter_state(backbone, backbone.state_dict())
    shapes = [{name: tensor.shape for name, tensor in part.items()} for part in (weights, needed)]
    if differing := dict(shapes[0].items() ^ shapes[1].items()):
        raise ValueError(
            f"the adapter in {folder} is for another base or other flags: {len(differing)} of its weights "
            f"have no place here, {min(differing)} for one"
        )
    peft.set_peft_model_state_dict(backbone, weights)


def kept_names(backbone: Any, state: dict[str, Tensor]) -> set[str]:
    """The names in `state` of what `save` writes, whether it trains or not (nobody reads a pooler's bias)."""
    written = {id(tensor) for tensor in _adapter_state(backbone, state).values()}
    return {name for name, tensor in state.items() if id(tensor) in written}


def _adapter_state(backbone: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    import peft

    return peft.get_peft_model_state_dict(backbone, state_dict=state, save_embedding_layers=False)


def count(model: nn.Module) -> dict[str, int]:
    """Trainable and all parameters, and the bytes of all. Two weights of 4 bits share a byte; of some, this
    rank may hold its share alone."""
    sizes = {"trainable": 0, "total": 0, "bytes": 0}
    for parameter in model.parameters():
        stored = getattr(parameter, "ds_shape", parameter.shape)
        shape = getattr(getattr(parameter, "quant_state", None), "shape", stored)
        sizes["total"] += shape.numel()
        sizes["trainable"] += shape.numel() * parameter.requires_grad
        sizes["bytes"] += stored.numel() * parameter.element_size()
    return sizes
