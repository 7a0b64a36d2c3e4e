"""Which run goes on when the same command is typed again, and whether it still may."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lib.base.console import speak
from lib.base.exits import DONE, CheckError
from lib.base.files import read_json
from lib.config import Config
from lib.config_keys import flatten
from lib.config_tree import experiment
from lib.corpus import sources
from lib.runs.folder import RunFolder, parent
from lib.runs.record import base_fingerprint, code_fingerprint
from lib.task import Task
from lib.training import checkpoint

PUT_BACK = "put it back, or start over with --resume never"


@dataclass(frozen=True)
class Decision:
    """The run to go on with (None: a new one) and why, in words."""

    folder: RunFolder | None
    reason: str


def decide(config: Config) -> Decision:
    """What `--resume` means here. Raises ValueError when the run asked for is not there or is another
    experiment."""
    wanted = config.tracking.resume
    if wanted == "never":
        return Decision(None, "new run: --resume never")
    if wanted != "auto":
        return _asked_for(config, wanted)
    above = parent(config)
    folders = (
        sorted((path for path in above.iterdir() if path.is_dir()), reverse=True) if above.is_dir() else []
    )
    for path in folders:
        folder = RunFolder(path)
        if _unfinished(folder) and _same_run(folder, config):
            step = checkpoint.newest_step(folder.checkpoints)
            why = f"the newest unfinished run of this experiment (newest checkpoint: step {step})"
            return Decision(folder, f"resuming {path}: {why}")
    done = finished(config)
    before = f" ({done.path} finished, with the same code)" if done else ""
    return Decision(None, f"new run: no unfinished run of this experiment under {above}{before}")


def _asked_for(config: Config, wanted: str) -> Decision:
    folder = _named(parent(config), wanted)
    if folder.status().get("exit_code") == DONE:
        raise ValueError(f"--resume {wanted}: {folder.path} is finished; start a new run with --resume never")
    differing = _differences(experiment(folder.config()), experiment(config))
    if differing and not _moved(folder, config):
        raise CheckError(
            f"--resume {wanted}: {folder.path} is another experiment ({'; '.join(differing)}); give it the "
            "same flags, or start over with --resume never"
        )
    return Decision(folder, f"resuming {folder.path}: asked for by --resume {wanted}")


def finished(config: Config) -> RunFolder | None:
    """The newest finished run of this experiment by this code; None when there is none."""
    above, code = parent(config), code_fingerprint(config.recipe)
    for path in sorted(above.iterdir(), reverse=True) if above.is_dir() else []:
        folder = RunFolder(path)
        if folder.status().get("phase") != "done" or not _same_run(folder, config):
            continue
        if folder.record().get("fingerprints", {}).get("code") == code:
            return folder
    return None


def _named(above: Path, wanted: str) -> RunFolder:
    """The run with this path (it has a slash), this name, or the only name that begins so."""
    path = Path(wanted)
    if "/" not in wanted:
        names = sorted(path.parent.name for path in above.glob("*/config.json"))
        fits = [wanted] if wanted in names else [name for name in names if wanted and name.startswith(wanted)]
        if len(fits) != 1:
            raise ValueError(
                f"--resume {wanted!r}: {'more than one' if fits else 'no such'} run under {above}; there is: "
                + (", ".join((fits or names)[-5:]) or "none")
            )
        path = above / fits[0]
    if not (path / "config.json").is_file():
        raise ValueError(f"--resume {wanted}: {path} is no run folder (it has no config.json)")
    return RunFolder(path)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = flatten(old), flatten(new)
    keys = sorted(before.keys() | after.keys())
    return [
        f"{key} was {before.get(key)}, is {after.get(key)}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _unfinished(folder: RunFolder) -> bool:
    finished = folder.status().get("exit_code") == DONE
    return not finished and checkpoint.newest_step(folder.checkpoints) is not None


def _same_run(folder: RunFolder, config: Config) -> bool:
    try:
        saved = folder.config()
    except ValueError:
        return False
    if saved.tracking.name != config.tracking.name:
        return False
    return experiment(saved) == experiment(config) or _moved(folder, config)


def _moved(folder: RunFolder, config: Config) -> bool:
    """Is it the same experiment on the same bytes, which stand at another place now?"""
    data = replace(folder.config().data, data=config.data.data)
    if experiment(replace(folder.config(), data=data)) != experiment(config):
        return False
    then, now = folder.record().get("files"), sources.sums(config.data.data)
    if not then or now is None:
        return False
    # one file may be called anything; of several the name says which split they are
    return then == now or len(then) == len(now) == 1 and set(then.values()) == set(now.values())


def settle_at(folder: RunFolder, data: str) -> None:
    """Let a run know where its rows are now. Raises ValueError when these are others."""
    config = folder.config()
    moved = replace(config, data=replace(config.data, data=str(Path(data).absolute())))
    if not _moved(folder, moved):
        raise ValueError(f"{data} does not hold the bytes of {config.data.data} that {folder.path} read")
    folder.write_config(moved)


def check_fingerprints(old: dict[str, str], new: dict[str, str], advice: str = PUT_BACK) -> None:
    """Raises CheckError, naming what changed since the run began."""
    for key in old.keys() & new.keys():
        if old[key] != new[key]:
            raise CheckError(
                f"the fingerprint of {key} changed since this run began ({old[key][:12]} then, "
                f"{new[key][:12]} now), so its numbers would mean something else; {advice}"
            )


def check_same_rows(runs: Sequence[RunFolder]) -> None:
    """Raises CheckError when runs whose scores are put side by side read other rows."""
    old, new = (run.record()["fingerprints"] for run in (runs[0], runs[-1]))
    advice = f"put the rows back and remove {runs[-1].path}, or start over with --resume never"
    check_fingerprints({key: old[key] for key in ("data", "split")}, new, advice)


def check_base(
    folder: RunFolder,
    model: nn.Module,
    task: Task,
    advice: str = PUT_BACK,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Raises CheckError when what no checkpoint keeps (a frozen base, its tokenizer) is not what the run
    began with. `weights`: as for base_fingerprint."""
    now = base_fingerprint(model, task, weights)
    if not now:
        return
    record = folder.record()
    device, then = next(model.parameters()).device.type, record["environment"]["device"]
    if device != then and not all(parameter.is_floating_point() for parameter in model.parameters()):
        # a GPU and a CPU do not quantize to the same bits
        speak(f"the base was quantized on {then}, now on {device}: its weights are not compared")
        now = {}
    before = {"base": record["base"] or ""} | record["fingerprints"]
    check_fingerprints(before, now | task.fingerprints(), advice)


def as_trained(folder: RunFolder, best: Path) -> Config:
    """The configuration of a run, with what it left open as the run settled it: the model's commit, the
    precision, the token budget of its scores (of its checkpoint `best` where there are none yet). Raises
    ValueError when run.json does not say."""
    before, scores = folder.record(), folder.path / "scores.json"
    if not {"environment", "fingerprints"} <= before.keys():
        raise ValueError(f"{folder.path}/run.json is missing or says too little; bring it back from a copy")
    budget = (read_json(scores) if scores.is_file() else {}).get("token_budget")
    budget = budget or checkpoint.read_state(best)["token_budget"]
    optim = {"precision": before["environment"]["precision"], "token_budget": budget}
    config = settled(folder.config(), before.get("model_commit"), **optim)
    kept = before.get("base_precision", "fp32")  # of runs from before there was a choice
    return replace(config, adapter=replace(config.adapter, base_precision=kept))  # type: ignore[arg-type]


def settled(config: Config, model_commit: str | None, **optim: Any) -> Config:
    """The same configuration with what a run settled: the hub model's commit, if there is one, and fields of
    `optim`."""
    model = replace(config.model, model_revision=model_commit or config.model.model_revision)
    return replace(config, optim=replace(config.optim, **optim), model=model)
