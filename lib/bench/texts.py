"""What the benchmarks of recipes that write texts share: where their rows are, the arms, what is to be
reached, and that all arms have the same losses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lib.bench import verdicts
from lib.bench.clock import RATES
from lib.bench.models import decoder
from lib.bench.options import Options
from lib.bench.rounds import ROOT, Order, arm, faster, heading, peak, race, table
from lib.process import precision

REAL = ROOT.parent / "shared" / "data"  # beside the checkout, on some machines
WARM_UP = 1  # steps; they take a minute
MAKERS = ("Trainer", "SFTTrainer")
TRAINER, LIKE_OURS = "Trainer, 1 row a pass", "Trainer, 4 rows a pass"  # its fastest, for german_rag; as ours
MOST_DIFFERENT = 1e-3  # between two arms' losses of a row, for each token; float32 gives 1e-6, bf16 1e-2
MOST_COMPUTED = 1.05  # tokens, for each real one


@dataclass(frozen=True)
class Subject:
    """A recipe, and what it is measured with."""

    recipe: str
    rows: str
    """A file below REAL."""
    tokenizer: str
    """A folder below REAL / tokenizers."""
    shape: dict[str, Any]
    """Of the model."""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Goal:
    """What an arm should reach beside another: so many times its rows/s, at most this share of its memory."""

    ours: str
    rival: str
    faster: float | None = None
    memory: float | None = None


def best(maker: str, rows_a_pass: int) -> Order:
    """A trainer with its batch of 16 in passes of so many rows, rows of like length together."""
    return {"arm": "text trainer", "maker": maker, "best": True, "accumulate": 16 // rows_a_pass}


def begin(asked: Options, subject: Subject, folder: Path) -> Order:
    """Say what is measured on what; the order that all arms share."""
    units = precision.resolve("auto", _device(), subject.shape["model_type"])
    heading(asked.threads, units)
    data, tokenizer = asked.data, asked.tokenizer
    rows, words = REAL / subject.rows, REAL / "tokenizers" / subject.tokenizer
    if data is None and not rows.exists():
        print(f"{rows} is not there: the recipe's sample instead")
    if tokenizer is None and not words.exists():
        print(f"{words} is not there: a toy's tokenizer instead, whose ids are bytes")
    data = data or (str(rows) if rows.exists() else "sample")
    tokenizer = tokenizer or (str(words) if words.exists() else None)
    model = decoder(subject.shape, tokenizer, folder)
    flags = ["--data", data, "--model", model, "--batch", "16", "--max-length", "1024", *subject.flags]
    if tokenizer is None:
        flags += ["--max-cut", "1"]
    sizes = {key: value for key, value in subject.shape.items() if key != "max_position_embeddings"}
    print(f"{data}; {sizes}; batch 16, --max-length 1024", flush=True)
    order: Order = {"recipe": subject.recipe, "flags": flags, "threads": asked.threads, "precision": units}
    return order | {"rows": asked.num_rows, "validation_rows": 16, "warm_up": WARM_UP, "seed": 0}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_losses(order: Order) -> None:
    """Print how much the arms differ in what they say of a row. Raises RuntimeError when that is no
    rounding."""
    checked = arm(order | {"arm": "losses", "makers": MAKERS, "precision": "fp32"})
    differences = checked["differences"]
    largest = max(differences.values())
    print(
        f"largest difference to our loss of a row alone, for each token, {checked['rows']} rows, fp32: "
        f"{largest:.1e} ({', '.join(f'{name} {value:.1e}' for name, value in differences.items())})",
        flush=True,
    )
    if not largest <= MOST_DIFFERENT:
        raise RuntimeError(f"the arms do not train on the same losses: {differences}")


def once(slow: bool) -> dict[str, Order]:
    """Arms that no goal asks to be faster than, or that memory alone is compared with: they run one time."""
    arms = {LIKE_OURS: best("Trainer", 4), "SFTTrainer, 1 row a pass": best("SFTTrainer", 1)}
    return arms | ({"Trainer, 16 rows a pass": best("Trainer", 16)} if slow else {})


def compare(order: Order, arms: dict[str, Order], asked: Options, goals: list[Goal]) -> None:
    """Rounds of the arms, the table, and what was to be reached."""
    by_arm = race(order, arms, asked.num_rounds, once(asked.slow))
    table(by_arm, f"{order['rows'] or 'the'} rows")
    for goal in goals:
        pair = f"{goal.ours} against {goal.rival}"
        if goal.faster is not None:
            times = [faster(by_arm, goal.ours, goal.rival, rate) for rate in RATES]
            cpu = f"{times[1]:.2f} by processor seconds"
            verdicts.at_least(f"{pair}, times the rows/s ({cpu})", times[0], goal.faster)
        if goal.memory is not None:
            share = peak(by_arm, goal.ours) / peak(by_arm, goal.rival)
            verdicts.at_most(f"{pair}, share of the peak memory", share, goal.memory)


def padding(order: Order) -> None:
    """Print tokens computed for each real one, over an epoch of all rows."""
    measured = arm(order | {"arm": "padding", "rows": None})
    what = f"computed tokens for each real one, an epoch of {measured['rows']} rows"
    verdicts.at_most(what, 1 / measured["real_share"], MOST_COMPUTED)
