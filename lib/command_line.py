"""Words on the command line -> a configuration that makes sense, or every contradiction at once.

Needs no torch, so `--help` answers at once.
"""

import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff as FlagCreatePairsOff  # for scripts
from tyro.conf import Positional as Positional
from tyro.conf import arg

from lib import other_flags
from lib.base import ranks
from lib.config import ChooseConfig, CompleteConfig, Config
from lib.config_keys import leaves, with_values

T = TypeVar("T")
Run = Annotated[Positional[str], arg(metavar="RUN")]
Runs = Annotated[Positional[tuple[str, ...]], arg(metavar="RUN RUN ...")]
RecipeName = Annotated[Positional[str | None], arg(metavar="[RECIPE]")]
Passages = Annotated[Positional[str], arg(metavar="PASSAGES")]
Out = Annotated[Positional[Path], arg(metavar="OUT")]
RunOrNone = Annotated[Positional[str | None], arg(metavar="[RUN]")]
SheetOrNone = Annotated[Positional[Path | None], arg(metavar="[OUT.xlsx]")]
Unnamed = Annotated[T, arg(name="")]  # a part of a script's options whose flags are flat words
MOST_THREADS = 1024  # beyond this a process is refused more of them by the system


def options(kind: type[T], description: str | None) -> T:
    """The words of a script without a recipe, as this dataclass has them; exits 2 on typos. Such a script
    runs in one process: raises ValueError in one of several workers."""
    asked = tyro.cli(kind, prog=Path(sys.argv[0]).name, description=description)
    ranks.refuse_several(Path(sys.argv[0]).name)
    return asked


def over(default: T, argv: list[str], program: str, description: str | None = None) -> T:
    """The words of a script with a recipe over that recipe's values; exits 2 on typos. Raises ValueError for
    flags of other tools."""
    other_flags.refuse(argv)
    return tyro.cli(type(default), default=default, args=argv, prog=program, description=description)


def parse(default: Config, argv: list[str], program: str, description: str | None = None) -> Config:
    """The command line over a recipe's values. Raises ValueError for values that make no sense; exits 2 on
    typos."""
    return settled(over(default, argv, program, description), default)


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
    own, typed = leaves(dataclasses.replace(smoke(default), smoke=False) if config.smoke else default), []
    for key, value in leaves(config).items():
        if value == own[key]:
            continue
        flag = "--" + key.rpartition(".")[2].replace("_", "-")
        if isinstance(value, bool):
            typed += [flag if value else flag.replace("--", "--no-", 1)]
        elif isinstance(value, tuple):
            typed += [flag, *map(str, value)]
        elif isinstance(value, dict):
            typed += [flag, *(str(word) for pair in value.items() for word in pair)]
        else:
            typed += [flag, str(value)]
    return typed


def split_recipe(argv: list[str], default: str = "arena") -> tuple[str, list[str]]:
    """The first word, when it is no flag, names the recipe."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    return default, argv


def absolute_paths(config: Config) -> Config:
    """Local data and models by their full path, so that a run can be read and resumed from any folder."""

    def full(name: str) -> str:
        # not resolve(): a link into a cache has the suffix, what it points to may have none
        return os.path.abspath(name) if Path(name).exists() else name

    data, model, task = config.data.data, config.model.model, config.task
    paths = {"data.data": data if data == "sample" else full(data)}
    paths |= {"model.model": model if model in ("minilm", "tiny") else full(model)}
    if isinstance(task, ChooseConfig) and task.index is not None:
        # also one that is not there: the message then says where it was looked for
        paths |= {"task.index": os.path.abspath(task.index)}
    return with_values(config, paths)


def smoke(config: Config) -> Config:
    """The same experiment as a toy that ends in seconds: tiny model, few sample rows, short texts, six
    steps."""
    replace = dataclasses.replace
    # a toy's tokens are bytes
    data = replace(config.data, data="sample", sample_rows=160, max_cut=1.0, columns=None)
    task = config.task
    if isinstance(task, ChooseConfig):  # the sample's rows have their contexts
        task = replace(task, index=None, context="auto")
    length = 96
    if isinstance(task, CompleteConfig):  # a prompt and the whole of a text
        task, length = replace(task, max_new_tokens=16, eval_generate=8), 384
    return replace(
        config,
        smoke=True,
        data=replace(data, max_length=min(data.max_length, length)),
        task=task,
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
    return problems + _adapter_problems(config) + _retrieval_problems(config) + _tracking_problems(config)


def validate(config: Config) -> Config:
    """`config` itself, or ValueError with every contradiction at once."""
    problems = _problems(config)
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
