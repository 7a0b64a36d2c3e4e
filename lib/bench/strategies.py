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
        memory(bert(Path(folder) / "model"), asked)
    ordered(asked)


def bert(folder: Path) -> str:
    """A folder with BERT-base's shape and the toy's tokenizer."""
    import transformers

    from lib.models import tiny

    transformers.BertConfig(**SHAPE).save_pretrained(folder)
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
