"""One run, one folder: what is in it, who holds it, and how it stands."""

import difflib
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack, cast

from lib import recipe as recipes
from lib.base.contents import Record, Status
from lib.base.files import Lock, read_json, read_mapping, write_csv, write_json, write_lines
from lib.config import Config
from lib.config_tree import from_dict, to_dict

FORMAT = "%Y%m%d_%H%M%S"


@dataclass
class Folder:
    """What one process works in at a time."""

    path: Path
    _lock: Lock | None = field(default=None, repr=False)

    def status(self) -> Status:
        """Empty when there is none, or when a power loss cut it short: the checkpoints say more."""
        try:
            status = cast(Status, read_mapping(self.path / "status.json"))
        except ValueError:
            status = {}
        return status

    def write_status(self, **values: Unpack[Status]) -> None:
        now: Status = {"pid": os.getpid(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_json(self.path / "status.json", self.status() | values | now)

    def lock(self) -> None:
        """Hold the folder until `unlock` or the end of this process. Raises ValueError when a live process
        holds it."""
        file = self.path / "lock"
        try:
            self._lock = Lock(file)
        except BlockingIOError:
            pid = file.read_text().strip() or "unknown"
            raise ValueError(
                f"{self.path} is held by a live process (pid {pid}); wait for it, stop it with kill {pid}, "
                "or start another beside it with --resume never"
            ) from None
        file.write_text(str(os.getpid()))

    def held(self) -> bool:
        """Does a live process hold it?"""
        file = self.path / "lock"
        try:
            if file.exists():
                Lock(file, shared=True).release()
        except BlockingIOError:
            return True
        except OSError:  # somebody else's folder, a disk that can only be read: nobody here works in it
            return False
        return False

    def remove(self) -> None:
        """Leave nothing of a run that never began."""
        shutil.rmtree(self.path, ignore_errors=True)

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


@dataclass
class RunFolder(Folder):
    """`runs/<recipe>/<YYYYmmdd_HHMMSS>[-name]/`"""

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rejected(self) -> Path:
        """Malformed rows, with reasons."""
        return self.path / "rejected.jsonl"

    @property
    def lint(self) -> Path:
        """What the rows looked like before training."""
        return self.path / "lint.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def predictions(self, split: str) -> Path:
        return self.path / "predictions" / f"{split}.jsonl"

    def write_predictions(self, split: str, predictions: list[Any]) -> None:
        self.predictions(split).parent.mkdir(exist_ok=True)
        write_lines(self.predictions(split), predictions)

    def write_submission(self, split: str, rows: list[dict[str, Any]]) -> None:
        """A competition's file of predictions, beside them."""
        write_csv(self.predictions(split).with_suffix(".submission.csv"), rows)

    def config(self) -> Config:
        """Raises ValueError when this is no run folder."""
        if not (self.path / "config.json").is_file():
            raise ValueError(f"{self.path} is no run folder (it has no config.json)")
        tree = read_json(self.path / "config.json")
        if not isinstance(tree, dict) or "recipe" not in tree:  # a model's own, say
            raise ValueError(f"{self.path} is no run folder: its config.json is not that of a run")
        return from_dict(tree, type(recipes.load(tree["recipe"]).config.task))

    def write_config(self, config: Config) -> None:
        write_json(self.path / "config.json", to_dict(config))

    def record(self) -> Record:
        """run.json; empty when there is none yet. Raises ValueError when it is damaged."""
        path = self.path / "run.json"
        return cast(Record, read_mapping(path) if path.exists() else {})

    def write_record(self, **values: Unpack[Record]) -> None:
        write_json(self.path / "run.json", self.record() | values)


def find(word: str, runs_dir: str) -> Path:
    """The folder of a run. Raises ValueError with the nearest names when that is no run, or several."""
    if (Path(word) / "config.json").is_file():
        return Path(word)
    known = sorted(file.parent for file in Path(runs_dir).glob("*/*/config.json"))
    names = {path: names_of(path) for path in known}
    fits = [p for p in known if word in names[p]] or [p for p in known if p.name.startswith(word)]
    fits = [path for path in fits if RunFolder(path).checkpoints.is_dir()] or fits  # one that was refused
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise ValueError(f"{word} is {len(fits)} runs; give the path of one: {', '.join(map(str, fits))}")
    near = difflib.get_close_matches(word, {name for path in known for name in names[path]}, cutoff=0.5)
    near = near or [path.name for path in known[-3:]] or [f"none (--runs-dir {runs_dir} holds no run)"]
    raise ValueError(f"{word} is neither a run folder nor a run's timestamp or name; near: {', '.join(near)}")


def names_of(path: Path) -> list[str]:
    """What may be typed for a run folder, if it stands for no other."""
    return [path.name, f"{path.parent.name}/{path.name}", *path.name.split("-", 1)]


def parent(config: Config) -> Path:
    return Path(config.tracking.runs_dir) / config.recipe


def new_folder(above: Path, suffix: str = "") -> Path:
    """An empty folder named by the time."""
    above.mkdir(parents=True, exist_ok=True)
    while True:
        path = above / (time.strftime(FORMAT) + suffix)
        try:
            path.mkdir()
            return path
        except FileExistsError:
            if not path.is_dir():
                raise
            time.sleep(0.1)  # another one began in the same second


def create(config: Config) -> RunFolder:
    """A new folder named by the time, locked. Raises ValueError when it cannot be made."""
    above = parent(config)
    suffix = f"-{config.tracking.name}" if config.tracking.name else ""
    try:
        path = new_folder(above, suffix)
    except (NotADirectoryError, FileExistsError) as error:
        raise ValueError(
            f"--runs-dir {config.tracking.runs_dir}: {error.filename} is a file, not a folder"
        ) from error
    except OSError as error:
        raise ValueError(
            f"no run folder can be made in {above}: {error.strerror}; choose another place with --runs-dir"
        ) from error
    folder = RunFolder(path)
    folder.lock()
    return folder
