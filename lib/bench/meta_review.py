"""What `scripts/bench.py meta_review` measures: the whole of a model in the shape of pythia-70m against the
Hugging Face Trainer and trl's SFTTrainer; and the output layer alone."""

import tempfile
from pathlib import Path

from lib.bench import head, texts
from lib.bench.models import PYTHIA
from lib.bench.options import Options
from lib.bench.rounds import Order
from lib.bench.texts import LIKE_OURS, TRAINER, Goal, Subject, best

SUBJECT = Subject(
    recipe="meta_review",
    rows="meta_review/longest_review.train.jsonl",
    tokenizer="gpt-neox-20b",
    shape=PYTHIA,
)
OURS, FOUR = "ours, 1 row a pass", "ours, 4 rows a pass"  # as the Trainer at its fastest; as the recipe comes
GOALS = [Goal(OURS, TRAINER, faster=1.8, memory=0.5), Goal(FOUR, LIKE_OURS, memory=0.5)]


def main(asked: Options) -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as folder:
        order = texts.begin(asked, SUBJECT, Path(folder))
        head.main(asked.num_rounds, asked.threads, order["precision"])
        texts.check_losses(order)
        arms: dict[str, Order] = {
            OURS: {"arm": "ours", "flags": [*order["flags"], "--min-micro-batches", "16"]},
            FOUR: {"arm": "ours"},
            TRAINER: best("Trainer", 1),
        }
        texts.compare(order, arms, asked, GOALS)
        texts.padding(order)
