"""Tensors -> a safetensors file, without copying them and without holding the interpreter; and what they are
known by."""

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file (https://github.com/huggingface/safetensors: 8 bytes of header size, a JSON header,
    the raw bytes), written straight from the tensors' memory. The library's own writer copies every tensor
    first and holds the interpreter while it writes, which would stall training."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def fingerprint(weights: Mapping[str, Tensor], names: Iterable[str] | None = None) -> str:
    """sha256 over weights and their names: all of them, or those with `names`."""
    digest = hashlib.sha256()
    for name in sorted(weights if names is None else names):
        digest.update(name.encode())
        # flat: a single number has no dimension that could be seen as bytes
        weight = weights[name].detach().cpu()
        # as training has it, whatever its file has; a number of 8 bits or fewer is part of a quantized weight
        weight = weight.float() if weight.is_floating_point() and weight.itemsize > 1 else weight
        digest.update(weight.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
