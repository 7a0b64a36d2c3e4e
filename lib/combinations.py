"""Which strategy goes with which quantization, adapter, offload, checkpointing and compilation: refused here,
each with its reason and what to type, before anything is downloaded. Needs no torch.

Everything that is not refused trains; tests/test_combinations.py goes through the whole product.
"""

from pathlib import Path

from lib.config import Config


def problems_of(config: Config) -> list[str]:
    """Every part of the configuration that does not go with another one."""
    compute = config.compute
    if compute.strategy == "ddp":
        return _ddp_problems(config)
    problems = _offload_problems(config)
    if compute.reduce != "fast":
        problems.append(
            f"--reduce {compute.reduce} with --strategy {compute.strategy}: DeepSpeed adds up gradients "
            "itself; use --strategy ddp, or leave it out"
        )
    if config.optim.optimizer != "adamw":
        problems.append(
            f"--optimizer {config.optim.optimizer} with --strategy {compute.strategy}: its blocks of 8 bits "
            "cross the borders of the ranks' shares, so no checkpoint could go to other ranks; use "
            "--optimizer adamw, whose state the ranks share, or --strategy ddp"
        )
    if compute.strategy == "zero3":
        problems += _zero3_problems(config)
    return problems


def _ddp_problems(config: Config) -> list[str]:
    compute = config.compute
    given = {
        f"--offload-optimizer {compute.offload_optimizer}": compute.offload_optimizer != "none",
        f"--offload-params {compute.offload_params}": compute.offload_params != "none",
        f"--offload-dir {compute.offload_dir}": compute.offload_dir is not None,
        f"--deepspeed-config {compute.deepspeed_config}": compute.deepspeed_config is not None,
    }
    return [
        f"{words} is DeepSpeed's, and --strategy ddp works without it; add --strategy zero2 (or zero1, "
        "zero3), or leave it out"
        for words, asked in given.items()
        if asked
    ]


def _offload_problems(config: Config) -> list[str]:
    compute, problems = config.compute, []
    if compute.strategy != "zero3":
        if compute.offload_params != "none":
            problems.append(
                f"--offload-params {compute.offload_params} with --strategy {compute.strategy}: each rank "
                "computes with all weights there; use --strategy zero3"
            )
        if compute.offload_optimizer == "disk":
            problems.append(
                f"--offload-optimizer disk with --strategy {compute.strategy}: DeepSpeed does that in stage "
                "3 alone; use --strategy zero3, or --offload-optimizer cpu"
            )
    on_disk = "disk" in (compute.offload_optimizer, compute.offload_params)
    if on_disk and compute.offload_dir is None:
        problems.append("--offload-optimizer and --offload-params disk need --offload-dir (a fast disk)")
    if on_disk and compute.offload_dir is not None and not Path(compute.offload_dir).is_dir():
        problems.append(f"--offload-dir {compute.offload_dir}: there is no such folder")
    if compute.offload_dir is not None and not on_disk:
        problems.append(
            f"--offload-dir {compute.offload_dir} holds nothing without --offload-optimizer disk or "
            "--offload-params disk; add one, or leave it out"
        )
    return problems


def _zero3_problems(config: Config) -> list[str]:
    compute, quantize, problems = config.compute, config.adapter.quantize, []
    if quantize == "int8":
        problems.append(
            "--quantize int8 with --strategy zero3: bitsandbytes keeps its scales beside the weights, where "
            "they are not shared out; use --quantize nf4, or --strategy zero2"
        )
    if quantize != "none" and compute.offload_params != "none":
        problems.append(
            f"--quantize {quantize} with --offload-params {compute.offload_params}: weights of 4 bits are "
            "small already; leave one of them out"
        )
    if compute.compile:
        problems.append(
            "--compile with --strategy zero3: weights come and go within a pass, so every layer would be "
            "compiled again and again; leave it out, or use --strategy zero2"
        )
    return problems
