"""DeepSpeed's configuration, made of the tree: every field that decides a number is written, for defaults
change between versions. Needs no torch."""

import json
from pathlib import Path
from typing import Any

from lib.config import Config
from lib.config_keys import flatten

# What of it which flag decides; anything else of the file is taken over it.
FLAGS = {
    "zero_optimization.stage": "--strategy",
    "zero_optimization.offload_optimizer.device": "--offload-optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "--offload-dir",
    "zero_optimization.offload_param.device": "--offload-params",
    "zero_optimization.offload_param.nvme_path": "--offload-dir",
    "gradient_clipping": "--clip",
    "train_batch_size": "--batch (it is cut into micro-batches by --token-budget)",
    "train_micro_batch_size_per_gpu": "--batch (it is cut into micro-batches by --token-budget)",
    "gradient_accumulation_steps": "--batch (it is cut into micro-batches by --token-budget)",
    "bf16.enabled": "--precision (weights that train stay in float32)",
    "fp16.enabled": "--precision (weights that train stay in float32)",
    "torch_autocast.enabled": "--precision (weights that train stay in float32)",
    "communication_data_type": "nothing: gradients are summed in float32",
    "data_types.grad_accum_dtype": "nothing: gradients are summed in float32",
    "prescale_gradients": "nothing: the gradient is divided by the targets of the whole batch",
    "gradient_predivide_factor": "nothing: the gradient is divided by the targets of the whole batch",
}
# Sections that would train otherwise than the loop does, or could not go on from a checkpoint.
FOREIGN = {
    "optimizer": "--optimizer, --lr and --weight-decay",
    "scheduler": "--schedule and --warmup",
    "data_efficiency": "nothing: batches are made by the loader",
    "curriculum_learning": "nothing: batches are made by the loader",
    "progressive_layer_drop": "nothing: all layers train",
    "elasticity": "--devices (a run goes on with any number)",
    "autotuning": "nothing: --token-budget is fitted before step 1",
    "compile": "--compile",
    "compression_training": "--quantize",
    "quantize_training": "--quantize",
    "sparse_attention": "nothing: attention is the model's",
    "zero_optimization.zenflow": "nothing: all gradients move the weights at once",
    "zero_optimization.zero_quantized_weights": "nothing: weights are gathered as they are",
    "zero_optimization.zero_quantized_gradients": "nothing: gradients are summed in float32",
    "zero_optimization.zero_quantized_nontrainable_weights": "--quantize",
}
DEVICES = {"none": "none", "cpu": "cpu", "disk": "nvme"}
BUCKET = 6_250_000
"""Numbers that are exchanged at once: 25 MB in float32, as much as one of DDP's buckets. DeepSpeed's 500
million would take 2 GB, twice, whatever the model."""
LIVE = 50_000_000
"""Numbers of gathered weights that wait for their next use: 200 MB. DeepSpeed's billion would never let go of
a model that is smaller."""


def of_flags(config: Config, num_ranks: int) -> dict[str, Any]:
    """The configuration without a file."""
    compute = config.compute
    stage = int(compute.strategy.removeprefix("zero"))
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": stage > 1,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
        "round_robin_gradients": False,
        "offload_optimizer": {"device": DEVICES[compute.offload_optimizer]},
    }
    if stage == 3:
        zero |= {
            "offload_param": {"device": DEVICES[compute.offload_params]},
            "stage3_prefetch_bucket_size": BUCKET,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_max_live_parameters": LIVE,
            "stage3_max_reuse_distance": LIVE,
            "sub_group_size": 1_000_000_000,
        }
    for kind in ("offload_optimizer", "offload_param"):
        if zero.get(kind, {}).get("device") == "nvme":
            zero[kind]["nvme_path"] = compute.offload_dir
    return {
        # the loader cuts batches, whatever stands here; gradients are divided by the loop
        "train_batch_size": num_ranks,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optim.clip or 0.0,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},  # --precision bf16 is autocast around float32 weights, as under ddp
        "torch_autocast": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW, also in main memory: the same numbers
        "wall_clock_breakdown": False,
        "zero_optimization": zero,
    }


def read(path: str) -> dict[str, Any]:
    """--deepspeed-config. Raises ValueError when it is no JSON object."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--deepspeed-config {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--deepspeed-config {path} holds no JSON object")
    return _without_auto(values)


def _without_auto(values: dict[str, Any]) -> dict[str, Any]:
    """'auto' is another library's word for what its own flags say: here, what ours say."""
    kept = {key: _without_auto(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value not in ("auto", {})}


def problems_of(config: Config) -> list[str]:
    """What of --deepspeed-config contradicts a flag: both values, and what to do."""
    path = config.compute.deepspeed_config
    if path is None or config.compute.strategy == "ddp":
        return []
    try:
        asked = flatten(read(path))
    except ValueError as error:
        return [str(error)]
    ours = flatten(of_flags(config, config.compute.devices or 1))
    problems = []
    for key, value in asked.items():
        foreign = next((name for name in FOREIGN if key == name or key.startswith(name + ".")), None)
        if foreign is not None and value not in (False, None, 0):
            problems.append(
                f"{path} says {key} = {value!r}; that is decided by {FOREIGN[foreign]}: take it out"
            )
        elif key in FLAGS and value != ours.get(key, "none") and not _the_same(value, ours.get(key)):
            problems.append(
                f"{path} says {key} = {value!r}, the flags say {ours.get(key)!r}; it is decided by "
                f"{FLAGS[key]}: take it out of the file, or change the flag"
            )
    return problems


def _the_same(one: Any, other: Any) -> bool:
    """0 and 0.0, None and none"""
    return one is None and other in (None, "none", 0.0)


def merged(config: Config, num_ranks: int) -> dict[str, Any]:
    """What DeepSpeed is started with."""
    values = of_flags(config, num_ranks)
    path = config.compute.deepspeed_config
    return values if path is None else _over(read(path), values)


def _over(upper: dict[str, Any], lower: dict[str, Any]) -> dict[str, Any]:
    joined = dict(lower)
    for key, value in upper.items():
        below = lower.get(key)
        joined[key] = _over(value, below) if isinstance(value, dict) and isinstance(below, dict) else value
    return joined
