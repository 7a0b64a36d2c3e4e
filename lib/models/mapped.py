"""A backbone whose weights are its files' own pages, in the files' own types: nothing is copied, and all
processes of a machine share them. Each weight gets its type and its place when the model is placed."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lib.models import offload

TYPES = (torch.float32, torch.bfloat16, torch.float16)  # each number of theirs is one of float32 too


def load(make: Callable[[], Any], files: list[Path]) -> Any | None:
    """What `make` makes, with the weights in `files`, ready for evaluation. None unless each weight is there
    once, by a name that is known and in its shape: families whose files hold other pieces than their models
    do are put together by transformers, which also says what is wrong."""
    backbone = offload.empty(make)
    weights = _read(offload.index(backbone, files, None))
    buffers = {name: value for name, value in backbone.named_buffers() if name in backbone.state_dict()}
    if not _same_shapes({**dict(backbone.named_parameters(remove_duplicate=False)), **buffers}, weights):
        return None
    made: dict[int, nn.Parameter] = {}  # by the empty one whose place it takes: tied weights stay one
    for above, module in backbone.named_modules():
        for name, empty in module.named_parameters(recurse=False, remove_duplicate=False):
            weight = weights[f"{above}.{name}".removeprefix(".")]
            if made.setdefault(id(empty), nn.Parameter(weight)).data_ptr() != weight.data_ptr():
                return None  # tied here, two in the files
            setattr(module, name, made[id(empty)])
    for name, buffer in buffers.items():
        buffer.copy_(weights[name])
    return backbone.eval()


def _read(index: dict[str, dict[str, str]]) -> dict[str, Tensor]:
    with ExitStack() as opened:
        paths = {entry["safetensors_file"] for entry in index.values()}
        files = {path: opened.enter_context(safe_open(path, framework="pt")) for path in sorted(paths)}
        kept: dict[tuple[str, str], Tensor] = {}
        for entry in index.values():
            file, name = entry["safetensors_file"], entry["weight_name"]
            if (file, name) not in kept:
                kept[file, name] = files[file].get_tensor(name)
        return {name: kept[entry["safetensors_file"], entry["weight_name"]] for name, entry in index.items()}


def _same_shapes(wanted: dict[str, Tensor], weights: dict[str, Tensor]) -> bool:
    return wanted.keys() == weights.keys() and all(
        value.shape == weights[name].shape and (weights[name].dtype in TYPES or not value.is_floating_point())
        for name, value in wanted.items()
    )
