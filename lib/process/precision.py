"""Which number format the matrix products use. Weights, gradients, sums and losses stay in float32."""

from contextlib import AbstractContextManager, nullcontext

import torch

# transformers' deberta (v1) fills masked bf16 scores with float32's lowest number: an error
FLOAT32_ONLY = ("deberta",)


def resolve(wanted: str, device: torch.device, model_type: str) -> str:
    """auto -> bf16 where the device multiplies bf16 in hardware and the model can bear it, else fp32.
    Raises ValueError for bf16 with a model that cannot."""
    if model_type in FLOAT32_ONLY:
        if wanted == "bf16":
            raise ValueError(
                f"--precision bf16: {model_type} models cannot compute in it; use --precision fp32"
            )
        return "fp32"
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"  # without AMX bf16 is slower than fp32


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context in which forward passes run."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
