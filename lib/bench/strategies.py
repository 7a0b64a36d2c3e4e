"""What `scripts/bench.py strategies` measures: memory a rank under each strategy beside the formula, and what
the ordered sum costs."""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from lib.bench.arena import rows_per_s, train
from lib.bench.options import Options
from lib.bench.rounds import arm, heading

# BERT-base: 110 million numbers
SHAPE: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12}
SHAPE |= {"num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30_522}
# 190 million numbers, of which nearly all are in linear layers: 380 MB in 16 bits
LARGER: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 14}
LARGER |= {"num_attention_heads": 16, "intermediate_size": 4096, "vocab_size": 8_000}
# Bytes of a number that trains, on n ranks: weights, gradient and both moments in float32 are 16.
FORMULAS = {
    "ddp": ("16", lambda n: 16),
    "zero1": ("8 + 8/n", lambda n: 8 + 8 / n),
    "zero2": ("4 + 12/n", lambda n: 4 + 12 / n),
    "zero3": ("16/n", lambda n: 16 / n),
}


def main(asked: Options) -> None:
    """Print both tables."""
    heading(asked.threads, "fp32")
    with tempfile.TemporaryDirectory() as folder:
        memory(bert(Path(folder) / "model", SHAPE), asked)
        base(bert(Path(folder) / "in 16 bits", LARGER, saved=True), asked)
    ordered(asked)


def bert(folder: Path, shape: dict[str, Any], saved: bool = False) -> str:
    """A folder with a model's shape and the toy's tokenizer, and perhaps random weights in bfloat16."""
    import torch
    import transformers

    from lib.models import tiny

    config = transformers.BertConfig(**shape)
    if saved:
        model: Any = transformers.BertModel(config)
        model.to(torch.bfloat16).save_pretrained(folder)
    config.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def memory(model: str, asked: Options) -> None:
    columns = f"{'ranks':>6}{'formula':>12}{'at rest':>10}{'peak':>8}{'s a step':>10}"
    print(f"\n{'bytes a number, a rank':24}{columns}")
    for strategy, (words, formula) in FORMULAS.items():
        for ranks in (1, 2):
            flags = ["--model", model, "--init", "random", "--strategy", strategy, "--max-length", "32"]
            flags += ["--batch", "4", "--max-cut", "1", "--sample-rows", "100"]
            order: dict[str, Any] = {"arm": "shares", "recipe": "arena", "flags": flags, "rows": 4}
            order |= {"validation_rows": 4, "threads": 1, "seed": 0, "precision": "fp32"}
            told = arm(order, ranks)
            print(
                f"{strategy + ': ' + words:24}{ranks:6}{formula(ranks):12.1f}{told['rest']:10.1f}"
                f"{told['peak']:8.1f}{told['seconds']:10.2f}   load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


def base(model: str, asked: Options) -> None:
    """What LoRA needs with its frozen base in float32, and in bfloat16."""
    print(f"\n{'LoRA on a base in':24}{'bytes a number at rest':>24}{'peak':>8}{'s a step':>10}")
    for kept in ("fp32", "bf16"):
        flags = ["--model", model, "--lora-rank", "8", "--base-precision", kept, "--max-length", "32"]
        flags += ["--batch", "4", "--max-cut", "1", "--sample-rows", "100"]
        order: dict[str, Any] = {"arm": "shares", "recipe": "arena", "flags": flags, "rows": 4}
        order |= {"validation_rows": 4, "threads": asked.threads, "seed": 0, "precision": "bf16"}
        told = [arm(order, 1) for _ in range(asked.rounds or 3)]
        rest, peak, seconds = (
            statistics.median(each[name] for each in told) for name in ("rest", "peak", "seconds")
        )
        print(f"{kept:24}{rest:24.2f}{peak:8.2f}{seconds:10.2f}   load {os.getloadavg()[0]:.1f}", flush=True)


def ordered(asked: Options) -> None:
    """Rows a second of two ranks with sums of a fixed order, beside those with DDP's."""
    for words in ((), ("--lora-rank", "8")):
        ratios = []
        for _ in range(asked.rounds or 3):
            flags = ["--model", "minilm", "--devices", "2", "--threads", "1", *words]
            fast, exact = (rows_per_s(train(asked, *flags, "--reduce", how)) for how in ("fast", "ordered"))
            ratios.append(fast / exact)
        shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(
            f"--reduce ordered, MiniLM {' '.join(words) or 'in full'}, two ranks: a step takes "
            f"{statistics.median(ratios):.3f} times as long ({shown}; load {os.getloadavg()[0]:.1f})",
            flush=True,
        )
