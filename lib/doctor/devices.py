"""What can be computed here: GPUs and their driver against torch, bf16, bitsandbytes' kernels, DeepSpeed.

Each of these is run in a process of its own: a driver may hang, a kernel may crash.
"""

import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.base.hub import first_line
from lib.doctor.finding import FAIL, GB, OK, WARN, Finding, judged

if TYPE_CHECKING:
    from torch import Tensor

SMI_S = 10.0  # a driver that is loaded for the first query takes seconds
SETUP = "bash setup.sh chooses the build of torch that fits the driver"
PCI, NVIDIA, DISPLAYS = Path("/sys/bus/pci/devices"), "0x10de", ("0x0300", "0x0302")
SIDE = 256  # of the matrices that are multiplied
# A bf16 number is within 2^-9 of what was rounded to it; products of such numbers are exact in float32, whose
# sums are rounded once more at the end. Twice that for other orders of the sums.
BF16_BOUND = 2.0**-8
# NF4 keeps 16 values for normal numbers in blocks of 64: 0.092 of their norm is lost, as measured.
NF4_BOUND = 0.12
# The product is that of the weights as they are kept, in bf16 where the device has it.
PRODUCT_BOUND = 0.01


def gpu() -> Finding:
    """The GPUs that the driver has, and whether torch can compute on them; without one, the CPU."""
    listed, trouble = smi()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        import torch

        usable = torch.cuda.is_available()
    facts: dict[str, Any] = {"gpus": listed, "torch": torch.__version__, "cuda_build": torch.version.cuda}
    if usable:
        return _computing(facts)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed and hidden is not None:
        seen = f"{', '.join(listed)}, but CUDA_VISIBLE_DEVICES is {hidden!r}: torch sees none"
        return Finding("gpu", WARN, seen, "unset CUDA_VISIBLE_DEVICES to use them", facts)
    if listed and torch.version.cuda is None:
        seen = f"{', '.join(listed)}, but torch {torch.__version__} is a build without CUDA"
        return Finding("gpu", FAIL, seen, f"{SETUP}: TORCH_BUILD=auto bash setup.sh", facts)
    if listed:
        why = first_line(said[-1].message) if said else "it does not say why"  # type: ignore[arg-type]
        seen = f"{', '.join(listed)}, but torch {torch.__version__} cannot use it: {why}"
        return Finding("gpu", FAIL, seen, f"{SETUP}; or update the driver", facts)
    finding = cpu(facts)
    if trouble:
        return judged(finding, f"nvidia-smi fails ({trouble}): mend the driver if there is a GPU here")
    if _on_the_bus():
        advice = "a GPU of NVIDIA's is in this machine: install its driver, or docker run --gpus all"
        return judged(finding, advice)
    return finding


def smi() -> tuple[list[str], str]:
    """A line a GPU as nvidia-smi has them, and what it says when it fails."""
    if shutil.which("nvidia-smi") is None:
        return [], ""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=SMI_S)
    except subprocess.TimeoutExpired:
        return [], f"no answer within {SMI_S:g} s"
    lines = [line.strip() for line in asked.stdout.splitlines() if line.strip()]
    if asked.returncode:
        return [], (lines or asked.stderr.splitlines() or ["it says nothing"])[0]
    return [line.replace(", ", " (", 1).replace(", ", ", driver ", 1) + ")" for line in lines], ""


def _computing(facts: dict[str, Any]) -> Finding:
    """Compute on each GPU: a driver may list what this build of torch has no kernels for."""
    import torch

    seen, several = [], torch.cuda.device_count()
    for number in range(several):
        device = torch.device("cuda", number)
        about = torch.cuda.get_device_properties(device)
        name = f"{about.name} ({about.total_memory / GB:.0f} GB)"
        try:
            assert (torch.ones(8, device=device) + 1).sum().item() == 16, "1 + 1 is not 2 on it"
        except (RuntimeError, AssertionError) as error:
            kernels = f"sm_{about.major}{about.minor}; the build has {' '.join(torch.cuda.get_arch_list())}"
            seen_here = (
                f"torch {torch.__version__} cannot compute on GPU {number}, {name}: {first_line(error)}"
            )
            return Finding("gpu", FAIL, f"{seen_here} ({kernels})", f"TORCH_BUILD=auto {SETUP}", facts)
        seen.append(name)
    words = f"{several} usable: {', '.join(seen)}; torch {torch.__version__}; --precision auto is {_auto()}"
    few = several < len(facts["gpus"]) and "CUDA_VISIBLE_DEVICES" not in os.environ
    trouble = f"nvidia-smi lists {len(facts['gpus'])}: look at nvidia-smi and dmesg" if few else ""
    return judged(Finding("gpu", OK, words, facts=facts | {"usable": several, "auto": _auto()}), trouble)


def cpu(facts: dict[str, Any]) -> Finding:
    """What a run computes with where there is no GPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    values = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    values = {key.strip(): value.strip() for key, value in values.items()}
    flags = values.get("flags", "").split()
    has = {name: flag in flags for name, flag in (("AMX", "amx_bf16"), ("avx512_bf16", "avx512_bf16"))}
    able = ", ".join(f"{'with' if there else 'no'} {name}" for name, there in has.items())
    name = values.get("model name", "a CPU")
    seen = f"none, so runs compute on the CPU ({name}; {able}); --precision auto is {_auto()}"
    return Finding("gpu", OK, seen, facts=facts | {"cpu": name, "auto": _auto()} | has)


def _auto() -> str:
    """What --precision auto is for most models."""
    import torch

    from lib.process import precision

    return precision.resolve("auto", torch.device("cuda" if torch.cuda.is_available() else "cpu"), "bert")


def _on_the_bus() -> bool:
    """Is a display or compute card of NVIDIA's in this machine, driver or not?"""

    def read(path: Path) -> str:
        return path.read_text().strip() if path.is_file() else ""

    cards = PCI.iterdir() if PCI.is_dir() else iter(())
    return any(read(card / "vendor") == NVIDIA and read(card / "class")[:6] in DISPLAYS for card in cards)


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _matrix(rows: int, columns: int) -> "Tensor":
    """Normal numbers, always the same."""
    import torch

    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(_device())


def _relative(found: "Tensor", right: "Tensor") -> float:
    return float((found.float() - right).norm() / right.norm())


def bf16(multiply: Callable[..., Any] | None = None) -> Finding:
    """A product in bf16 against that of the same numbers in float32. `multiply`: what computes it."""
    import torch

    left, right = _matrix(SIDE, SIDE).bfloat16(), _matrix(SIDE, SIDE).t().contiguous().bfloat16()
    error = _relative((multiply or torch.mm)(left, right), torch.mm(left.float(), right.float()))
    seen = f"a product on {_device().type} is {error:.2g} off (at most {BF16_BOUND:.2g})"
    facts = {"error": error, "bound": BF16_BOUND}
    if not error <= BF16_BOUND:  # NaN too
        return Finding("bf16", FAIL, seen, "train with --precision fp32, or on another machine", facts)
    return Finding("bf16", OK, seen, facts=facts)


def nf4() -> Finding:
    """bitsandbytes' 4 bits: numbers there and back, and a product with them."""
    if (missing := _import("nf4", "bitsandbytes", "--quantize none needs none of it")) is not None:
        return missing
    import bitsandbytes
    import torch
    from bitsandbytes import functional

    weights, rows = _matrix(SIDE, SIDE), _matrix(8, SIDE)
    kept, state = functional.quantize_4bit(weights, blocksize=64, quant_type="nf4")
    back: Any = functional.dequantize_4bit(kept, state)
    lost, product = _relative(back, weights), bitsandbytes.matmul_4bit(rows, kept.t(), state)
    off = _relative(product, torch.mm(rows, back.float().t()))
    seen = f"4 bits lose {lost:.2g} (at most {NF4_BOUND}), a product with them is {off:.2g} off"
    facts = {"lost": lost, "product": off, "version": version("bitsandbytes")}
    if not (lost <= NF4_BOUND and off <= PRODUCT_BOUND):
        return Finding("nf4", FAIL, seen, "train with --quantize none, or bash setup.sh", facts)
    return Finding("nf4", OK, f"{seen} (at most {PRODUCT_BOUND})", facts=facts)


def deepspeed() -> Finding:
    """Only --strategy zero1, zero2 and zero3 need it."""
    os.environ.setdefault("DS_ACCELERATOR", _device().type)  # else it says aloud that it looked for a GPU
    if (missing := _import("deepspeed", "deepspeed", "--strategy ddp needs none of it")) is not None:
        return missing
    return Finding("deepspeed", OK, f"{version('deepspeed')} can be imported")


def _import(check: str, package: str, otherwise: str) -> Finding | None:
    """Import it, or say why not; that nobody has installed it is a warning."""
    try:
        __import__(package)
        version(package)
        return None
    except (ModuleNotFoundError, PackageNotFoundError) as error:
        if error.name in (package, None):
            return Finding(check, WARN, f"{package} is not installed", f"bash setup.sh; {otherwise}")
        raise
    except Exception as error:  # a library that cannot be loaded says so in its own way
        seen = f"{package} is installed, but cannot be imported: {type(error).__name__}: {first_line(error)}"
        return Finding(check, FAIL, seen, f"bash setup.sh; {otherwise}")
