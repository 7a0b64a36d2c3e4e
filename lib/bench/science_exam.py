"""What `scripts/bench.py science_exam` measures: MiniLM with one score an option, and a small Llama that
computes context and question once for all options, each against the Hugging Face Trainer with one sequence an
option."""

import tempfile
from pathlib import Path

from lib.bench.models import small_llama
from lib.bench.options import Options
from lib.bench.rounds import BEST, Order, arm, compare, heading


def main(asked: Options) -> None:
    """Print both tables."""
    heading(asked.threads)
    # the Trainer keeps all logits of a pass: 4 rows x 5 options x 512 tokens x 32,000 words are 1.2 GiB
    best = {f"Trainer at its best ({16 // n} rows a pass)": BEST | {"accumulate": n} for n in (4, 16)}
    default = {"Trainer at its default": BEST | {"best": False, "accumulate": 4, "warm_up": 0, "rows": 16}}
    with tempfile.TemporaryDirectory() as folder:
        llama = ["--model", small_llama(asked.words_of, Path(folder))]
        for model, flags in (("MiniLM", []), ("Llama of hidden 256, 6 layers", llama)):
            words = ["--data", asked.source, "--batch", "16", "--max-length", "512", *flags]
            order: Order = {"recipe": "science_exam", "flags": words, "threads": asked.threads}
            order |= {"rows": asked.num_rows, "validation_rows": 40}
            print(f"\n{model}, {asked.num_rows} rows of {asked.source}, batch 16, --max-length 512")
            compare(order, {"ours": {"arm": "ours"}} | best, asked.num_rounds, default if asked.slow else {})
            padding = arm(order | {"arm": "padding", "rows": None, "seed": 0})
            print(
                f"real / computed tokens: {padding['real_share']:.3f} over an epoch of {padding['rows']} rows"
            )
