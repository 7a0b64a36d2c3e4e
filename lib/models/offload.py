"""A backbone that is run block by block with its weights on the disk: memory holds one block at a time.

The index points into the safetensors files as they lie (a checkpoint's, a base model's, an adapter's);
nothing is copied. Hooks of accelerate bring a block's weights before its forward pass and drop them after it.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lib.base.files import read_json, write_json
from lib.models import adapters, frozen_weights
from lib.models.freezing import stacks
from lib.models.heads import BACKBONE

INDEX = "index.json"
WRAPPED = "base_model.model."  # what peft puts before every name


class OnDisk(Mapping[str, Tensor]):
    """Name of a weight -> the weight in float32, mapped from its file anew each time; those `rounded` as a
    model in memory would keep them. transformers maps the files of a whole model as well: products see the
    same numbers at the same places."""

    def __init__(self, index: dict[str, dict[str, str]], rounded: Collection[str] = ()) -> None:
        self.index, self.rounded = index, rounded

    def __getitem__(self, name: str) -> Tensor:
        entry = self.index[name]
        with safe_open(entry["safetensors_file"], framework="pt") as file:
            weight = file.get_tensor(entry["weight_name"]).to(torch.float32)
        return frozen_weights.rounded(weight) if name in self.rounded else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self.index)

    def __len__(self) -> int:
        return len(self.index)


def stored(folder: Path) -> OnDisk:
    """The weights of the model whose index is in `folder`, by their names in the whole model's state."""
    return OnDisk({BACKBONE + name: entry for name, entry in read_json(folder / INDEX).items()})


def empty(make: Any) -> Any:
    """What `make` makes, with parameters that take no memory (buffers are real)."""
    import accelerate

    with accelerate.init_empty_weights():
        made = make()
    adapters.plain(made).tie_weights()  # each name got an empty parameter of its own
    return made


@dataclass(frozen=True)
class Stored:
    """Where the weights of a backbone are."""

    files: list[Path]
    adapter: Path | None
    rounded: Collection[str]
    """Names of those that count for what they are in bfloat16."""


def run_from_disk(backbone: Any, stored: Stored, folder: Path, device: torch.device) -> None:
    """Let an empty backbone (with an empty adapter, perhaps) take its weights from the files, one block at a
    time; the index is written into `folder`. Raises ValueError when a weight stands in none of them."""
    from accelerate.hooks import attach_align_device_hook
    from accelerate.utils import set_module_tensor_to_device

    backbone.requires_grad_(False)  # autocast would keep a bfloat16 copy of what may train
    places = index(backbone, stored.files, stored.adapter)
    names = dict(backbone.named_parameters(remove_duplicate=False))
    if lacking := next((name for name in names if name not in places and "pooler" not in name), None):
        searched = ", ".join(str(file) for file in stored.files)
        raise ValueError(
            f"--offload: the weight {lacking} is not in {searched} under a name that is known; predict "
            "without --offload"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / INDEX, places)
    weights, plain = OnDisk(places, stored.rounded), adapters.plain(backbone)
    prefix = WRAPPED if adapters.is_adapted(backbone) else ""
    tables = [plain.get_input_embeddings(), plain.get_output_embeddings()]
    tied = {name.rpartition(".")[0] for name in plain.all_tied_weights_keys}
    apart = {
        name: part
        for name, part in plain.named_modules()
        if name in tied or any(part is table for table in tables)
    }
    for above, blocks in stacks(plain):
        apart |= {f"{above}.{number}": block for number, block in enumerate(blocks)}
    for name in places:  # norms, position tables: small, and some are read from outside their module
        if not any(name.startswith(f"{prefix}{part}.") for part in apart):
            set_module_tensor_to_device(backbone, name, device, value=weights[name])
    for name, value in list(backbone.named_parameters()):
        if name not in places:  # a pooler: it runs, and nobody reads what it says
            set_module_tensor_to_device(backbone, name, device, value=torch.zeros(value.shape))
    for name, module in apart.items():
        attach_align_device_hook(
            module,
            execution_device=device,
            offload=True,
            weights_map=weights,
            module_name=f"{prefix}{name}",
            preload_module_classes=[type(module).__name__],
        )
    for buffer_name, buffer in list(backbone.named_buffers()):
        if buffer.device != device:
            set_module_tensor_to_device(backbone, buffer_name, device, value=buffer)


def index(backbone: Any, files: list[Path], adapter: Path | None) -> dict[str, dict[str, str]]:
    """In accelerate's form: name of a weight -> file and name in that file, for all that stand in one.
    Weights that are tied are where one of them is, if not each has a place of its own."""
    stored = _names_in(files)
    added = _names_in([adapter] if adapter else [])
    names: dict[int, list[str]] = {}  # weights that are tied are one object with several names
    for name, value in backbone.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(name)
    kept = backbone.state_dict().keys()
    for name, value in backbone.named_buffers():
        if name in kept:
            names[id(value)] = [name]
    places: dict[str, dict[str, str]] = {}
    for same in names.values():
        found = {name: _find(name, stored, added, backbone) for name in same}
        first = next((entry for entry in found.values() if entry is not None), None)
        if first is not None:
            places |= {name: entry or first for name, entry in found.items()}
    return places


def _find(name: str, stored: dict[str, Path], added: dict[str, Path], backbone: Any) -> dict[str, str] | None:
    """Where a weight stands: files of other classes of a family have a prefix more or less."""
    plain, above = name.removeprefix(WRAPPED), f"{adapters.plain(backbone).base_model_prefix}."
    for wrapper in adapters.WRAPPERS:
        plain = plain.replace(wrapper, "")
    own = name.replace(f".modules_to_save.{adapters.NAME}", "").replace(f".{adapters.NAME}", "")
    for names, candidates in ((added, [own]), (stored, [plain, above + plain, plain.removeprefix(above)])):
        for candidate in candidates:
            if candidate in names:
                return {"safetensors_file": str(names[candidate]), "weight_name": candidate}
    return None


def _names_in(files: list[Path]) -> dict[str, Path]:
    file_of: dict[str, Path] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            file_of |= dict.fromkeys(file.keys(), path)
    return file_of
