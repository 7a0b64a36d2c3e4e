"""Words on the command line -> a configuration that makes sense, or every contradiction at once.

Needs no torch, so `--help` answers at once.
"""

import dataclasses
import re
from pathlib import Path

import tyro

from lib.config import MOST_THREADS, Config, leaves, with_values


def parse(default: Config, argv: list[str], program: str, description: str | None = None) -> Config:
    """The command line over a recipe's values. Raises ValueError for values that make no sense; exits 2 on
    typos."""
    config = tyro.cli(Config, default=default, args=argv, prog=program, description=description)
    return settled(config, default)


def settled(config: Config, default: Config) -> Config:
    """What was typed over `default`, ready to run: smoke, full paths, no contradictions."""
    if config.smoke:
        lr = config.optim.lr
        config = smoke(config)
        if lr != default.optim.lr:  # typed, by hand or by a sweep: it costs nothing and fetches nothing
            config = with_values(config, {"optim.lr": lr})
    return validate(absolute_paths(config))


def words(config: Config, default: Config) -> list[str]:
    """The inverse of `parse`: what to type behind the recipe's name to get this configuration."""
    own, found = leaves(dataclasses.replace(smoke(default), smoke=False) if config.smoke else default), []
    for key, value in leaves(config).items():
        if value == own[key]:
            continue
        flag = "--" + key.rpartition(".")[2].replace("_", "-")
        if isinstance(value, bool):
            found += [flag if value else flag.replace("--", "--no-", 1)]
        elif isinstance(value, tuple):
            found += [flag, *map(str, value)]
        elif isinstance(value, dict):
            found += [flag, *(str(word) for pair in value.items() for word in pair)]
        else:
            found += [flag, str(value)]
    return found


def split_recipe(argv: list[str], default: str = "arena") -> tuple[str, list[str]]:
    """The first word, when it is no flag, names the recipe."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    return default, argv


def absolute_paths(config: Config) -> Config:
    """Local data and models by their full path, so that a run can be read and resumed from any folder."""

    def full(name: str) -> str:
        return str(Path(name).resolve()) if Path(name).exists() else name

    data = dataclasses.replace(
        config.data, data=full(config.data.data) if config.data.data != "sample" else "sample"
    )
    model = config.model.model
    if model not in ("minilm", "tiny"):
        model = full(model)
    if data.index is not None:  # also one that is not there: the message then says where it was looked for
        data = dataclasses.replace(data, index=str(Path(data.index).resolve()))
    return dataclasses.replace(config, data=data, model=dataclasses.replace(config.model, model=model))


def smoke(config: Config) -> Config:
    """The same experiment as a toy that ends in seconds: tiny model, few sample rows, short texts, six
    steps."""
    replace = dataclasses.replace
    data = replace(config.data, data="sample", sample_rows=160, max_length=min(config.data.max_length, 96))
    return replace(
        config,
        smoke=True,
        # a toy's tokens are bytes, and the sample's rows have their contexts
        data=replace(data, max_cut=1.0, index=None, context="auto"),
        model=replace(config.model, model="tiny", init="random"),
        adapter=replace(config.adapter, quantize="none"),  # a toy made in memory has no weights to quantize
        optim=replace(config.optim, batch=16, max_steps=6, epochs=1, lr=1e-3, eval_every=3, precision="fp32"),
        compute=replace(config.compute, devices=config.compute.devices or 1),
        tracking=replace(config.tracking, log_every=1),
    )


def _problems(config: Config) -> list[str]:
    """Every value that makes no sense, each with what is allowed."""
    data, model, adapter = config.data, config.model, config.adapter
    optim, compute, tracking = config.optim, config.compute, config.tracking
    positive = {
        "--sample-rows": data.sample_rows,
        "--max-rows": data.max_rows,
        "--max-length": data.max_length,
        "--index-passages": data.index_passages,
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
        "--threads": compute.threads,
        "--log-every": tracking.log_every,
        "--save-every": tracking.save_every,
        "--save-minutes": tracking.save_minutes,
        "--keep": tracking.keep,
        "--stop-at": tracking.stop_at,
        "--seeds": tracking.seeds,
    }
    shares = {"--max-rejected": data.max_rejected, "--warmup": optim.warmup, "--dropout": model.dropout}
    limits = {"--max-cut": data.max_cut, "--max-prior": data.max_prior}
    limits |= {"--max-near-duplicates": data.max_near_duplicates}
    shares |= {"--attention-dropout": model.attention_dropout, "--lora-dropout": adapter.lora_dropout}
    found = [
        f"{flag} is {value}; it must be above 0 (and finite)"
        for flag, value in positive.items()
        if value is not None and not 0 < value < float("inf")
    ]
    found += [
        f"{flag} is {value}; it must be at least 0 and below 1"
        for flag, value in shares.items()
        if value is not None and not 0 <= value < 1
    ]
    found += [
        f"{flag} is {value}; it must be from 0 to 1" for flag, value in limits.items() if not 0 <= value <= 1
    ]
    if not 0 <= optim.weight_decay < float("inf"):
        found.append(f"--weight-decay is {optim.weight_decay}; it must be 0 or more")
    if not 0 <= optim.seed < 2**32:
        found.append(f"--seed is {optim.seed}; it must be from 0 to {2**32 - 1}")
    if compute.devices is not None and optim.batch < compute.devices:
        found.append(
            f"--batch {optim.batch} is smaller than {compute.devices} ranks; use at least {compute.devices}"
        )
    if model.init == "random" and model.freeze != "none":
        found.append(f"--init random with --freeze {model.freeze} would train on noise; use --freeze none")
    if compute.threads is not None and compute.threads > MOST_THREADS:
        found.append(f"--threads is {compute.threads}; use at most {MOST_THREADS}")
    return found + _adapter_problems(config) + _retrieval_problems(config) + _tracking_problems(config)


def validate(config: Config) -> Config:
    """`config` itself, or ValueError with every contradiction at once."""
    found = _problems(config)
    if found:
        raise ValueError("\n".join(found))
    return config


def _tracking_problems(config: Config) -> list[str]:
    tracking, found = config.tracking, []
    if tracking.lint_only and (tracking.seeds > 1 or config.smoke):
        found.append("--lint-only trains nothing; leave --seeds and --smoke out")
    if tracking.name is not None and not re.fullmatch(r"\w[\w .+=,@-]{0,99}", tracking.name):
        found.append(f"--name is {tracking.name!r}; use a word of up to 100 letters, digits and _ .+=,@-")
    return found


def _retrieval_problems(config: Config) -> list[str]:
    data = config.data
    found = []
    if data.context == "retrieved" and data.index is None:
        found.append("--context retrieved needs an index; add --index FOLDER (scripts/index.py builds one)")
    if data.context == "ready" and data.index is not None:
        found.append(f"--context ready never asks --index {data.index}; leave one of them out")
    if data.index is not None and not data.prompt:
        found.append(
            f"--no-prompt leaves the contexts out that --index {data.index} would find; drop one of them"
        )
    return found


def _adapter_problems(config: Config) -> list[str]:
    model, adapter = config.model, config.adapter
    found = []
    if adapter.lora_rank < 0:
        found.append(f"--lora-rank is {adapter.lora_rank}; it must be 0 (no LoRA) or more")
    ranks, alphas = adapter.lora_rank_pattern.values(), adapter.lora_alpha_pattern.values()
    if min(ranks, default=1) < 1 or min(alphas, default=1) <= 0:
        found.append("--lora-rank-pattern takes ranks from 1, --lora-alpha-pattern numbers above 0")
    if adapter.lora_rank and model.freeze != "none":
        found.append(
            f"--freeze {model.freeze} with --lora-rank {adapter.lora_rank}: LoRA freezes the whole backbone; "
            "use --freeze none, and --lora-layers for the blocks that get LoRA"
        )
    if adapter.lora_rank and model.init == "random" and not config.smoke:
        found.append("--init random with --lora-rank would train on noise; use --lora-rank 0")
    if adapter.quantize != "none":
        if model.init == "random" or model.model == "tiny":
            found.append(
                f"--quantize {adapter.quantize} needs trained weights; use --init pretrained and a --model "
                "that has some, or --quantize none --lora-rank 0"
            )
        if not adapter.lora_rank and model.freeze != "all":
            found.append(
                f"--quantize {adapter.quantize}: weights of 4 or 8 bits cannot train; use --lora-rank 16 or "
                "--freeze all"
            )
    return found
