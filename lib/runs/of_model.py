"""What a run's folder and its first lines say of its model and of what computes it."""

from dataclasses import asdict
from typing import Any

from torch import nn

from lib.base import tensor_file
from lib.job import Job
from lib.models import adapters, frozen_weights
from lib.models.freezing import frozen_names
from lib.process import dist, peak
from lib.runs import resume
from lib.runs.record import base_fingerprint
from lib.task import Task


def record_weights(job: Job, model: nn.Module, task: Task, fresh: bool) -> None:
    """Keep the fingerprints of the weights that a run begins with. Raises CheckError when those that no
    checkpoint keeps (a frozen base) are not what they were."""
    if fresh:
        fingerprints = base_fingerprint(model, task)
        kept = "bf16" if frozen_weights.wanted(job.config) else "fp32"
        weights = tensor_file.fingerprint(model.state_dict())
        job.folder.write_record(weights=weights, base=fingerprints.get("base"), base_precision=kept)
    else:
        resume.check_base(job.folder, model, task)


def peak_flops(job: Job) -> float:
    """FLOP/s of all ranks together; what was found before on the same hardware stays, so that all steps there
    are shares of one number."""
    hardware = f"{job.world}, {job.world.precision}"
    known: dict[str, Any] = dist.on_main(lambda: job.folder.record().get("peaks", {}))
    if hardware not in known:
        known[hardware] = asdict(peak.of(job.world))
        job.write_record(peaks=known)
    return known[hardware]["flops_per_s"]


def describe(job: Job, model: nn.Module) -> None:
    """How many parameters train, in what they are kept, and which are frozen."""
    size, adapter, say = adapters.count(model), job.config.adapter, job.tracker.say
    job.write_record(parameters=size)
    kept = job.world.precision
    kept += f", LoRA of rank {adapter.lora_rank}" if adapter.lora_rank else ""
    kept += f" on a base in {adapter.quantize}" if adapter.quantize != "none" else ""
    say(
        f"model {job.config.model.model}: {size['trainable']:,} of {size['total']:,} parameters train, "
        f"{size['bytes'] / 2**20:,.0f} MiB of weights, {kept}"
    )
    if adapter.quantize != "none" and job.world.device.type == "cpu":
        say("products with quantized weights are slow on a CPU; --quantize none is faster there")
    if frozen := frozen_names(model):
        say(f"frozen: {', '.join(frozen)}")
    dropout = job.config.model.attention_dropout
    why = "" if dropout else " (0 keeps CPU attention on its fast path)"
    say(f"attention dropout {dropout:g}{why}")
