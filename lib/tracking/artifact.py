"""A run's best checkpoint in Weights & Biases: logged by the run's follower, fetched by an evaluation.

The optimizer's state is left out: it is twice the size of the weights, and nobody scores with it.
"""

import json
import re
from pathlib import Path
from typing import Any

LEFT_OUT = ("optimizer.safetensors",)
MANIFEST = "manifest.json"


class FetchError(Exception):
    """The artifact cannot be had; the reason in words."""


def project_of(recipe: str) -> str:
    return f"train-{recipe}"


def name_of(run: str) -> str:
    """An artifact's name has letters, digits and -_. only."""
    return re.sub(r"[^\w.-]", "-", run, flags=re.ASCII)


def log_best(run: Any, folder: Path) -> None:
    """Hand the best checkpoint of a run that is done to `run` (wandb's), as files that stay where they
    are."""
    import wandb

    scores = folder / "scores.json"
    if not scores.is_file():
        return
    best = folder / "checkpoints" / json.loads(scores.read_text())["checkpoint"]
    artifact = wandb.Artifact(name_of(folder.name), "model", metadata={"checkpoint": best.name})
    for name in [*json.loads((best / MANIFEST).read_text())["body"]["files"], MANIFEST]:
        if name not in LEFT_OUT:
            artifact.add_file(str(best / name), name, skip_cache=True, policy="immutable")
    run.log_artifact(artifact, aliases=["best", best.name])


def fetch(folder: Path, recipe: str) -> Path:
    """Download the artifact into the run folder; the checkpoint, not yet verified. Raises FetchError."""
    import wandb

    name = f"{project_of(recipe)}/{name_of(folder.name)}:best"
    try:
        artifact = wandb.Api().artifact(name, type="model")
        step = str(artifact.metadata.get("checkpoint"))
        if not re.fullmatch(r"step-\d{6,}", step):  # it becomes a path
            raise FetchError(f"{name} says that it is checkpoint {step!r}")
        return Path(artifact.download(root=folder / "artifact" / step))
    except (wandb.Error, OSError, ValueError) as error:
        raise FetchError(f"{name}: {type(error).__name__}: {error}") from error
