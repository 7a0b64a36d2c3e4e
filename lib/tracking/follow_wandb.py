"""Follow a run's metrics.jsonl into Weights & Biases, from a process of its own:
python -m lib.tracking.follow_wandb RUN MODE

It reads what the run writes, hands over the best checkpoint when the run is done, and ends. A slow, absent or
broken wandb changes nothing there.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from lib.base.files import write_json
from lib.tracking import artifact

POLL_S = 2.0
WHERE = "wandb.json"  # in the run folder: where the run is there


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _status(folder: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return status


def _ended(folder: Path) -> bool:
    status = _status(folder)
    return status.get("exit_code") is not None or not _alive(status["pid"])


def main(folder: Path, mode: str) -> None:
    import wandb

    config = json.loads((folder / "config.json").read_text())
    run = wandb.init(
        project=artifact.project_of(config["recipe"]),
        name=folder.name,
        id=folder.name,
        dir=str(folder),
        config=config,
        mode=mode,  # type: ignore[arg-type]
        resume="allow" if mode == "online" else None,
        settings=wandb.Settings(console="off", disable_git=True, save_code=False, x_disable_stats=True),
    )
    write_json(folder / WHERE, {"url": run.url, "folder": str(Path(run.dir).parent)})
    with (folder / "metrics.jsonl").open() as file:
        while True:
            ended = _ended(folder)  # asked before reading, so that nothing written before the end is missed
            while line := file.readline():
                if not line.endswith("\n"):
                    file.seek(file.tell() - len(line.encode()))
                    break
                values = json.loads(line)
                kind, step = values.pop("kind"), values.pop("step", None)
                flat = values.pop("scores", {}) | {
                    key: v for key, v in values.items() if isinstance(v, int | float)
                }
                run.log({f"{kind}/{key}": value for key, value in flat.items()}, step=step)
            if ended:
                break
            time.sleep(POLL_S)
    if _status(folder).get("exit_code") == 0:
        artifact.log_best(run, folder)
    run.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
