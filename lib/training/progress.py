"""How far a run has come, beside its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Other values that stand in a checkpoint's state, and lists that were kept there once and nobody read.
BESIDE, OBSOLETE = ("token_budget",), ("evaluations", "skipped")


@dataclass
class Progress:
    """What a checkpoint keeps beside tensors. No random state: every draw is keyed by (seed, step,
    micro-batch)."""

    step: int = 0
    best_step: int | None = None
    best_score: float | None = None
    evaluation_due: bool = False
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    """Training time so far, stops left out."""

    @staticmethod
    def of_state(state: Mapping[str, Any]) -> "Progress":
        """From a checkpoint of today or of before."""
        return Progress(**{key: value for key, value in state.items() if key not in BESIDE + OBSOLETE})
