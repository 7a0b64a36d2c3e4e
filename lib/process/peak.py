"""What the devices of a run can compute at most, by which its MFU is divided: as the makers of GPUs say, else
as measured."""

import time
from dataclasses import dataclass

import torch

from lib.process import dist
from lib.process.world import World

# TFLOP/s by torch.cuda.get_device_name(): of bf16 with float32 sums, dense (half of what a sheet says with
# sparsity), and of float32 outside the tensor cores. None, like every other name: measured.
LISTED: dict[str, tuple[float | None, float | None]] = {
    # https://images.nvidia.com/content/Solutions/data-center/a40/nvidia-a40-datasheet.pdf
    "NVIDIA A40": (149.7, 37.4),
    # https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf
    "NVIDIA A100-PCIE-40GB": (312, 19.5),
    "NVIDIA A100-SXM4-40GB": (312, 19.5),
    "NVIDIA A100 80GB PCIe": (312, 19.5),
    "NVIDIA A100-SXM4-80GB": (312, 19.5),
    # https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet
    "NVIDIA H100 80GB HBM3": (989, 67),
    "NVIDIA H100 PCIe": (756, 51),
    "NVIDIA H100 NVL": (835, 60),
    # https://www.nvidia.com/en-us/data-center/h200/
    "NVIDIA H200": (989, 67),
    # https://www.nvidia.com/en-us/data-center/hgx/ (float32 has been quoted in several ways)
    "NVIDIA B200": (2250, None),
    # https://www.nvidia.com/en-us/data-center/l4/ and https://www.nvidia.com/en-us/data-center/l40s/
    "NVIDIA L4": (121, 30.3),
    "NVIDIA L40S": (362, 91.6),
    # https://d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf
    "NVIDIA A10G": (70, 35),
    # https://www.nvidia.com/en-us/data-center/tesla-t4/ (its tensor cores know fp16, but no bf16)
    "Tesla T4": (None, 8.1),
    # https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.1.pdf
    "NVIDIA GeForce RTX 3090": (71, 35.6),
    "NVIDIA RTX A6000": (154.8, 38.7),
    # https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf
    "NVIDIA GeForce RTX 4090": (165.2, 82.6),
    "NVIDIA RTX 6000 Ada Generation": (364.2, 91.1),
    # https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf
    "NVIDIA GeForce RTX 5090": (209.5, 104.8),
}
# Of square matrices. Many threads are best at the largest; the smallest are done before a busy machine turns
# to somebody else (at load 8 on two cores 512 and 1,024 alone once gave a third of the peak).
SIZES = {"cpu": (256, 512, 1024), "cuda": (4096, 8192)}
SECONDS = 0.15  # for each size
LEAST = 3  # products of each size: the first ones choose kernels and wake threads


@dataclass(frozen=True)
class Peak:
    """Of all ranks together."""

    flops_per_s: float
    source: str
    """data sheet, or measured"""


def of(world: World) -> Peak:
    """All ranks call it, and measure at the same time where they do: they share a machine."""
    name = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else ""
    said = listed(name, world.precision)
    dist.barrier()
    mine = said or measured(world)
    everybody = sum(row[0] for row in dist.gather_floats([mine]))
    return Peak(everybody, "data sheet" if said else "measured")


def listed(name: str, precision: str) -> float | None:
    """FLOP/s of one GPU of this name in bf16 or fp32; None when no sheet is known."""
    bf16, float32 = LISTED.get(name, (None, None))
    tera = bf16 if precision == "bf16" else float32
    if precision != "bf16" and bf16 and torch.get_float32_matmul_precision() != "highest":
        tera = bf16 / 2  # by TORCH_ALLOW_TF32_CUBLAS_OVERRIDE; TF32 has half the rate on all that know it
    return None if tera is None else tera * 1e12


def measured(world: World) -> float:
    """FLOP/s of the fastest product of two matrices on this rank's device, in the run's precision, with its
    threads. No number is drawn."""
    dtype = torch.bfloat16 if world.precision == "bf16" else torch.float32
    return max(2 * size**3 / _least_s(size, dtype, world.device) for size in SIZES[world.device.type])


def _least_s(size: int, dtype: torch.dtype, device: torch.device) -> float:
    # no zeros and no ones: a GPU multiplies them with less power, hence faster
    matrix = torch.arange(size * size, dtype=torch.float32, device=device).sin().view(size, size).to(dtype)
    out = torch.empty_like(matrix)
    spans: list[float] = []
    while len(spans) < LEAST or sum(spans) < SECONDS:
        began_s = time.perf_counter()
        torch.mm(matrix, matrix, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spans.append(time.perf_counter() - began_s)
    return min(spans)
