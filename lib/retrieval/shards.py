"""The files of an index's shards: `shard-00000.npy` (vectors), `.jsonl` (passages), `.offsets.npy` (where
each begins), `.json` (the shard's record, written last)."""

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from lib.base.console import speak
from lib.base.exits import CheckError
from lib.base.files import read_json, sha256_of

ENDS = {"vectors": ".npy", "texts": ".jsonl", "offsets": ".offsets.npy", "record": ".json"}
COMPRESSED = "index.faiss"  # where vectors are compressed
CHECKED = ("vectors", "texts", "offsets")  # the record holds their sha256


def shard_file(folder: Path, shard: int, kind: str) -> Path:
    return folder / f"shard-{shard:05d}{ENDS[kind]}"


class Shards:
    """Those of a finished index. `records` stand in its index.json; every shard but the last holds `size`
    passages."""

    def __init__(self, folder: Path, size: int, records: list[dict[str, Any]]) -> None:
        self.folder, self.size, self.records = folder, size, records
        self._checked: set[Path] = set()

    def __len__(self) -> int:
        return len(self.records)

    def file(self, shard: int, kind: str) -> Path:
        """Checked before it is first read. Raises CheckError when it is not what the build wrote."""
        file = shard_file(self.folder, shard, kind)
        if file not in self._checked:
            check(file, self.records[shard]["sha256"][kind])
            self._checked.add(file)
        return file

    def vectors(self, shard: int) -> np.ndarray:
        """(passages, dimension) float16, mapped from the disk."""
        vectors: np.ndarray = np.load(self.file(shard, "vectors"), mmap_mode="r")
        return vectors


def check(file: Path, sha256: str) -> None:
    """Raises CheckError when `file` is missing or holds something else."""
    if not file.is_file() or sha256_of(file) != sha256:
        raise CheckError(
            f"{file} is {'damaged: its sha256 is not what index.json says' if file.exists() else 'missing'}; "
            "the scripts/index.py command that built it mends it"
        )


def whole(folder: Path) -> list[dict[str, Any]]:
    """The records of the shards that are built."""
    records: list[dict[str, Any]] = []
    for number in count():
        file = shard_file(folder, number, "record")
        if not file.is_file():
            break
        records.append(read_json(file))
    return records


def drop_damaged(folder: Path) -> None:
    """Forget what is not as the build wrote it, and the shards after it: they are built again."""
    records = whole(folder)
    for number, record in enumerate(records):
        try:
            for kind in CHECKED:
                check(shard_file(folder, number, kind), record["sha256"][kind])
        except CheckError as error:
            speak(f"WARNING: {str(error).partition(';')[0]}; built again from there")
            (folder / "index.json").unlink(missing_ok=True)
            for later in range(number, len(records)):
                shard_file(folder, later, "record").unlink()
            return
    try:
        if (compressed := read_json(folder / "index.json")["compressed"]) is not None:
            check(folder / COMPRESSED, compressed)
    except (ValueError, KeyError, TypeError, CheckError):  # not finished, or not any more
        (folder / "index.json").unlink(missing_ok=True)
