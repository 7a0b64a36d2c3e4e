"""What of a configuration makes no sense, each with what is allowed. Needs no torch."""

import re

from lib import combinations, deepspeed_config
from lib.base import moments
from lib.config import ChooseConfig, CompleteConfig, Config, RagConfig, TrackingConfig

MOST_THREADS = 1024  # beyond this a process is refused more of them by the system


def problems_of(config: Config) -> list[str]:
    """Every value that makes no sense, each with what is allowed."""
    data, model, adapter = config.data, config.model, config.adapter
    optim, compute, tracking = config.optim, config.compute, config.tracking
    positive = {
        "--sample-rows": data.sample_rows,
        "--max-rows": data.max_rows,
        "--max-length": data.max_length,
        "--lora-alpha": adapter.lora_alpha,
        "--batch": optim.batch,
        "--epochs": optim.epochs,
        "--max-steps": optim.max_steps,
        "--lr": optim.lr,
        "--clip": optim.clip,
        "--token-budget": optim.token_budget,
        "--min-micro-batches": optim.min_micro_batches,
        "--eval-every": optim.eval_every,
        "--devices": compute.devices,
        "--log-every": tracking.log_every,
        "--save-every": tracking.save_every,
        "--save-minutes": tracking.save_minutes,
        "--keep": tracking.keep,
        "--stop-at": tracking.stop_at,
        "--seeds": tracking.seeds,
        "--price": config.limits.price,
        "--max-cost": config.limits.max_cost,
        "--failure-hours": config.limits.failure_hours,
    }
    shares = {"--max-rejected": data.max_rejected, "--warmup": optim.warmup, "--dropout": model.dropout}
    limits = {"--max-cut": data.max_cut, "--max-prior": data.max_prior}
    limits |= {"--max-near-duplicates": data.max_near_duplicates}
    shares |= {"--attention-dropout": model.attention_dropout, "--lora-dropout": adapter.lora_dropout}
    problems = [
        f"{flag} is {value}; it must be above 0 (and finite)"
        for flag, value in positive.items()
        if value is not None and not 0 < value < float("inf")
    ]
    problems += [
        f"{flag} is {value}; it must be at least 0 and below 1"
        for flag, value in shares.items()
        if value is not None and not 0 <= value < 1
    ]
    problems += [
        f"{flag} is {value}; it must be from 0 to 1" for flag, value in limits.items() if not 0 <= value <= 1
    ]
    if not 0 <= optim.weight_decay < float("inf"):
        problems.append(f"--weight-decay is {optim.weight_decay}; it must be 0 or more")
    if not 0 <= optim.seed < 2**32:
        problems.append(f"--seed is {optim.seed}; it must be from 0 to {2**32 - 1}")
    if compute.devices is not None and optim.batch < compute.devices:
        problems.append(
            f"--batch {optim.batch} is smaller than {compute.devices} ranks; use at least {compute.devices}"
        )
    if model.init == "random" and model.freeze != "none":
        problems.append(f"--init random with --freeze {model.freeze} would train on noise; use --freeze none")
    problems += thread_problems(compute.threads)
    problems += _adapter_problems(config) + _retrieval_problems(config) + _text_problems(config)
    problems += combinations.problems_of(config) + deepspeed_config.problems_of(config)
    return problems + _tracking_problems(config) + _limit_problems(config)


def validate(config: Config) -> Config:
    """`config` itself, or ValueError with every contradiction at once."""
    problems = problems_of(config)
    if problems:
        raise ValueError("\n".join(problems))
    return config


def thread_problems(threads: int | None) -> list[str]:
    if threads is None or 0 < threads <= MOST_THREADS:
        return []
    return [f"--threads is {threads}; it must be from 1 to {MOST_THREADS}"]


def refuse_threads(threads: int | None) -> None:
    """For scripts without a configuration. Raises ValueError."""
    for problem in thread_problems(threads):
        raise ValueError(problem)


def _tracking_problems(config: Config) -> list[str]:
    tracking, problems = config.tracking, []
    if tracking.lint_only and (tracking.seeds > 1 or config.smoke):
        problems.append("--lint-only trains nothing; leave --seeds and --smoke out")
    if tracking.name is not None and not re.fullmatch(r"\w[\w .+=,@-]{0,99}", tracking.name):
        problems.append(f"--name is {tracking.name!r}; use a word of up to 100 letters, digits and _ .+=,@-")
    return problems


def _limit_problems(config: Config) -> list[str]:
    limits, tracking, problems = config.limits, config.tracking, []
    if limits.max_cost is not None and limits.price is None:
        problems.append(
            f"--max-cost {limits.max_cost:g} needs to know what an hour costs; add --price 0.44, say"
        )
    if limits.deadline is not None:
        try:
            if moments.moment_s(limits.deadline) <= moments.now_s():
                now = moments.written(moments.now_s())
                problems.append(
                    f"--deadline {limits.deadline} is past (it is {now}); name a later one, or 8h"
                )
        except ValueError as error:
            problems.append(f"--deadline: {error}")
    if limits.notice is None:
        if limits.failure_hours is not None:
            problems.append("--failure-hours is read with --notice only; add --notice 0, or leave it out")
        return problems
    if not 0 <= limits.notice < float("inf"):
        problems.append(f"--notice is {limits.notice:g}; it must be 0 (no warning) or more seconds")
    if tracking.save_every is not None or tracking.save_minutes != TrackingConfig.save_minutes:
        problems.append(
            "--notice chooses when to save; leave --save-every and --save-minutes out, or --notice"
        )
    return problems


def _retrieval_problems(config: Config) -> list[str]:
    task, problems = config.task, []
    if not isinstance(task, ChooseConfig):
        return []
    if task.index_passages < 1:
        problems.append(f"--index-passages is {task.index_passages}; it must be above 0")
    if task.context == "retrieved" and task.index is None:
        problems.append(
            "--context retrieved needs an index; add --index FOLDER (scripts/index.py builds one)"
        )
    if task.context == "ready" and task.index is not None:
        problems.append(f"--context ready never asks --index {task.index}; leave one of them out")
    if task.index is not None and not task.prompt:
        problems.append(
            f"--no-prompt leaves the contexts out that --index {task.index} would find; drop one of them"
        )
    return problems


def _text_problems(config: Config) -> list[str]:
    task, problems = config.task, []
    if not isinstance(task, CompleteConfig):
        return []
    if task.max_new_tokens < 1:
        problems.append(f"--max-new-tokens is {task.max_new_tokens}; it must be above 0")
    if not 0 <= task.temperature < float("inf"):
        problems.append(f"--temperature is {task.temperature}; it must be 0 (greedy) or more")
    if not 0 < task.top_p <= 1:
        problems.append(f"--top-p is {task.top_p}; it must be above 0 and at most 1")
    if task.eval_generate < 0:
        problems.append(f"--eval-generate is {task.eval_generate}; it must be 0 (none) or more")
    if isinstance(task, RagConfig):
        if task.chunks < 1:
            problems.append(f"--chunks is {task.chunks}; it must be above 0")
        if not 0 <= task.unanswerable <= 1:
            problems.append(f"--unanswerable is {task.unanswerable}; it must be from 0 to 1")
        if task.letters_only:
            problems.append("--letters-only takes the brackets from sources, so none is cited; leave it out")
    return problems


def _adapter_problems(config: Config) -> list[str]:
    model, adapter = config.model, config.adapter
    problems = []
    if adapter.lora_rank < 0:
        problems.append(f"--lora-rank is {adapter.lora_rank}; it must be 0 (no LoRA) or more")
    ranks, alphas = adapter.lora_rank_pattern.values(), adapter.lora_alpha_pattern.values()
    if min(ranks, default=1) < 1 or min(alphas, default=1) <= 0:
        problems.append("--lora-rank-pattern takes ranks from 1, --lora-alpha-pattern numbers above 0")
    if adapter.lora_rank and model.freeze != "none":
        problems.append(
            f"--freeze {model.freeze} with --lora-rank {adapter.lora_rank}: LoRA freezes the whole backbone; "
            "use --freeze none, and --lora-layers for the blocks that get LoRA"
        )
    if adapter.lora_rank and model.init == "random" and not config.smoke:
        problems.append("--init random with --lora-rank would train on noise; use --lora-rank 0")
    if adapter.quantize != "none":
        if model.init == "random" or model.model == "tiny":
            problems.append(
                f"--quantize {adapter.quantize} needs trained weights; use --init pretrained and a --model "
                "that has some, or --quantize none --lora-rank 0"
            )
        if not adapter.lora_rank and model.freeze != "all":
            problems.append(
                f"--quantize {adapter.quantize}: weights of 4 or 8 bits cannot train; use --lora-rank 16 or "
                "--freeze all"
            )
    return problems
