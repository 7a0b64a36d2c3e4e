"""What `scripts/bench.py german_rag` measures: LoRA on a Llama of hidden 512, questions in any order and
those of a context drawn together, against the Hugging Face Trainer and trl's SFTTrainer with the same LoRA;
and texts written, against generate."""

import tempfile
from pathlib import Path

from lib.bench import texts, verdicts
from lib.bench.clock import RATES
from lib.bench.models import LLAMA
from lib.bench.options import Options
from lib.bench.rounds import Order, faster, race
from lib.bench.texts import LIKE_OURS, TRAINER, Goal, Subject, best

SUBJECT = Subject(
    recipe="german_rag",
    rows="germanquad/xquad_de.train.jsonl",
    tokenizer="llama-2",
    shape=LLAMA,
    flags=("--quantize", "none"),
)
ROWS, CONTEXTS = "ours, row order", "ours, contexts together"
LORA = ("--lora-rank", "12")
GOALS = [Goal(ROWS, TRAINER, faster=1.4, memory=0.4), Goal(ROWS, LIKE_OURS, memory=0.4)]
GOALS += [Goal(CONTEXTS, TRAINER, faster=3.0, memory=0.4), Goal(CONTEXTS, LIKE_OURS, memory=0.4)]
WRITTEN, WRITE_FASTER = 64, 5.0  # the first rows of the file, where questions of a context stand together


def main(asked: Options) -> None:
    """Print both tables. Every arm draws its batches from all rows, so that no more of them share a context
    by chance than in an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        order = texts.begin(asked, SUBJECT, Path(folder))
        write(order, asked.num_rounds)
        flags = [*order["flags"], *LORA]
        texts.check_losses(order | {"flags": flags})
        flags += ["--max-steps", str(max(2, asked.num_rows // 16))]
        together = [*flags, "--draw", "contexts"]
        arms: dict[str, Order] = {
            ROWS: {"arm": "ours"},
            CONTEXTS: {"arm": "ours", "flags": together},
            TRAINER: best("Trainer", 1),
        }
        order |= {"rows": None, "flags": flags}
        texts.compare(order, arms, asked, GOALS)
        for words in (flags, together):
            texts.padding(order | {"flags": words})


def write(order: Order, rounds: int) -> None:
    """Rows a second of both ways to write, and how many texts are the same."""
    order = order | {"flags": [*order["flags"], "--lora-rank", "0"], "rows": WRITTEN}
    by_arm = race(order, {"write": {"arm": "write"}, "generate": {"arm": "generate"}}, rounds, {})
    ours, theirs = by_arm["write"][-1], by_arm["generate"][-1]
    same = sum(one == other for one, other in zip(ours["texts"], theirs["texts"], strict=True))
    print(
        f"\n{len(ours['texts'])} texts of up to {theirs['max_new_tokens']} tokens: {same} equal those of "
        f"generate, row by row; tokens of {ours['again']} were computed again alone"
    )
    times = [faster(by_arm, "write", "generate", rate) for rate in RATES]
    cpu = f"{times[1]:.2f} by processor seconds"
    verdicts.at_least(f"times the rows/s of generate ({cpu})", times[0], WRITE_FASTER)
