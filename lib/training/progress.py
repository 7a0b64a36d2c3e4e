"""How far a run has come, beside its tensors."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """What a checkpoint keeps beside tensors. No random state: every draw is keyed by (seed, step,
    micro-batch)."""

    step: int = 0
    best_step: int | None = None
    best_score: float | None = None
    evaluation_due: bool = False
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    skipped_in_a_row: int = 0
    skipped: int = 0
    seconds: float = 0.0
    """Training time so far, stops left out."""
