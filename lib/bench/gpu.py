"""What `scripts/bench.py gpu` measures: three models in their real shapes with random weights, trained by
this loop and by plain Transformers and peft at their best, on the same rows. Without a GPU toys stand for
them."""

import importlib.util
import statistics
from dataclasses import dataclass
from typing import Any

import torch

from lib.bench.models import BERT_LARGE, LLAMA_1B, LLAMA_8B
from lib.bench.options import Options
from lib.bench.rounds import BEST, Order, Results, arm, faster, heading, peak
from lib.process.peak import listed

LIMIT_S = 90.0  # an arm, its start included: six of them stay under ten minutes
OURS, TRAINER = "this loop", "Trainer at its best"
LORA: dict[str, Any] = {"adapter.lora_rank": 16, "adapter.lora_alpha": 32, "optim.lr": 1e-3}
TOY: dict[str, int] = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
TOY |= {"num_attention_heads": 4, "vocab_size": 1000}
TOY_LENGTH = 8  # a toy's texts are shorter by this much


@dataclass(frozen=True)
class Subject:
    """What is trained."""

    name: str
    recipe: str
    shape: dict[str, Any]
    values: dict[str, Any]
    """Of the configuration."""
    lengths: tuple[tuple[int, ...], ...]
    """Deciles of the lengths of a row's sequences, as real rows have them (least, 10 %, ... most)."""
    rows: int
    pieces: int
    """Passes of a batch in the Trainer, whose passes are then about as large as ours."""

    @property
    def frozen(self) -> bool:
        return "adapter.lora_rank" in self.values

    @property
    def batch(self) -> int:
        size: int = self.values["optim.batch"]
        return size


SUBJECTS = (
    Subject(
        "bert-large, the whole of it",
        "arena",
        BERT_LARGE,
        {"data.max_length": 512, "optim.batch": 32, "task.swap": False, "optim.lr": 1e-4},
        # 1,171 pairs of answers in Kaggle's columns, bert-base-uncased's tokenizer, a prompt before each
        (
            (14, 43, 62, 80, 104, 146, 207, 277, 376, 512, 512),
            (16, 45, 64, 80, 101, 138, 191, 271, 388, 512, 512),
        ),
        rows=2048,
        pieces=2,
    ),
    Subject(
        "Llama 3.2 of 1B, LoRA of rank 16",
        "boolq",
        LLAMA_1B,
        LORA | {"data.max_length": 512, "optim.batch": 64},
        # 1,527 rows of BoolQ, Llama 3's tokenizer
        ((26, 61, 77, 94, 108, 120, 135, 153, 177, 213, 512),),
        rows=2048,
        pieces=4,
    ),
    Subject(
        "Llama 3.1 of 8B, LoRA of rank 16",
        "german_rag",
        LLAMA_8B,
        LORA | {"data.max_length": 2048, "optim.batch": 16, "optim.token_budget": 4096},
        # 603 rows of the German XQuAD with four chunks, Llama 3's tokenizer: prompts and answers
        (
            (562, 903, 953, 1004, 1051, 1084, 1164, 1228, 1293, 1409, 1906),
            (9, 9, 16, 17, 18, 19, 19, 21, 23, 27, 60),
        ),
        rows=64,
        pieces=8,
    ),
)


def main(asked: Options) -> None:
    """Print a table for each subject."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    heading(asked.threads)
    if device is None:
        print(
            "no GPU here: a REHEARSAL with toy shapes. It shows that every arm runs; its figures mean nothing"
        )
    quantize = "nf4" if importlib.util.find_spec("bitsandbytes") else "none"
    if quantize == "none":
        print("bitsandbytes is missing: LoRA on a base in bf16 (float32 in this loop on a CPU), NOT in NF4")
    has_peft = importlib.util.find_spec("peft") is not None
    for subject in SUBJECTS:
        if subject.frozen and not has_peft:
            print(f"\n{subject.name}: left out, peft is missing")
            continue
        compare(subject, asked, quantize if subject.frozen else "none", device)


def compare(subject: Subject, asked: Options, quantize: str, device: str | None) -> None:
    """The arms of one subject, in turn, and their table. All rows are trained on twice: kernels and
    allocators settle the first time, the second time is measured, so that all arms are timed on the same
    tokens."""
    order = order_of(subject, asked, quantize, toy=device is None)
    by_arm: Results = {}
    print(
        f"\n{subject.recipe}: {subject.name}{' in NF4' if quantize == 'nf4' else ''}; {_sizes(order)}",
        flush=True,
    )
    for seed in range(asked.num_rounds):
        for name, more in arms_of(subject).items():
            try:
                by_arm.setdefault(name, []).append(arm(order | more | {"seed": seed}, limit_s=LIMIT_S))
            except RuntimeError as error:
                why = "out of memory" if "OutOfMemoryError" in str(error) else str(error).splitlines()[-1]
                print(f"  round {seed}, {name}: {why}", flush=True)
    most = listed(device or "", "bf16")
    table({name: runs for name, runs in by_arm.items() if runs}, order["rows"], most)


def _sizes(order: Order) -> str:
    shape, values = order["shape"], order["values"]
    return (
        f"{shape['num_hidden_layers']} layers, hidden {shape['hidden_size']}, {shape['vocab_size']:,} words, "
        f"up to {values['data.max_length']} tokens, batch {values['optim.batch']}, {order['rows']} rows"
    )


def order_of(subject: Subject, asked: Options, quantize: str, toy: bool) -> Order:
    """What all arms of a subject share."""
    shape, values, lengths = subject.shape, dict(subject.values), subject.lengths
    batch = subject.batch
    rows = batch * max(1, (asked.rows or subject.rows) // batch)
    if toy:
        shape = shape | TOY | ({"num_key_value_heads": 2} if "num_key_value_heads" in shape else {})
        values |= {
            "data.max_length": values["data.max_length"] // TOY_LENGTH,
            "optim.batch": subject.pieces * 2,
        }
        lengths = tuple(tuple(max(4, size // TOY_LENGTH) for size in one) for one in lengths)
        rows = 4 * values["optim.batch"]
    values |= {"optim.epochs": 2.0, "adapter.quantize": quantize}
    # the Trainer's first rate of a warm-up is 0, ours the one after it: of few steps that is one less
    values |= {"optim.schedule": "constant", "optim.warmup": 0.0}
    order: Order = {
        "recipe": subject.recipe,
        "shape": shape,
        "values": values,
        "lengths": lengths,
        "rows": rows,
    }
    order |= {"validation_rows": 32, "threads": asked.threads, "precision": "bf16", "quantize": quantize}
    return order | {"warm_up": rows // values["optim.batch"]}


def arms_of(subject: Subject) -> dict[str, Order]:
    rival = BEST | {"accumulate": subject.pieces}
    del rival["warm_up"]
    if subject.recipe == "german_rag":
        rival |= {"arm": "text trainer", "maker": "Trainer"}
    else:
        rival |= {"attention": "sdpa"}
    return {OURS: {"arm": "ours"}, TRAINER: rival}


def table(by_arm: Results, rows: int, most: float | None) -> None:
    """Medians of the rounds; MFU counts the arithmetic that cannot be left out, the same for all arms."""
    print(f"  {'':22}{'rows/s':>9}{'tokens/s':>11}{'MFU':>8}{'peak GiB':>10}   loss: trained, validation")
    for name, runs in by_arm.items():
        rate = statistics.median(run["rows_per_s"] for run in runs)
        each = {key: statistics.median(run[key] for run in runs) / rows for key in ("tokens", "flops")}
        share = f"{each['flops'] * rate / most:8.1%}" if most else f"{'-':>8}"
        losses = "  ".join(f"{run['trained']:.4f}, {run['loss']:.4f}" for run in runs)
        tokens = each["tokens"] * rate
        print(f"  {name:22}{rate:9.2f}{tokens:11,.0f}{share}{peak(by_arm, name):10.2f}   {losses}")
    if len(by_arm) == 2:
        budget, times = by_arm[OURS][-1]["token_budget"], faster(by_arm, OURS, TRAINER)
        print(f"  this loop is {times:.2f} times as fast, in passes of up to {budget:,} tokens")
