"""An index's folder: what is in it, and whether it may still be used.

Its shards (lib.retrieval.shards); `index.faiss` where the vectors are compressed; `build.json` from the
beginning; `index.json` when all is there.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lib.base.exits import CheckError
from lib.base.files import read_json, sha256_of
from lib.retrieval import nearest
from lib.retrieval.embed import Embedder
from lib.retrieval.nearest import Nearest
from lib.retrieval.passages import PassageStore
from lib.retrieval.shards import COMPRESSED, Shards, check

FORMAT = 1
AGAIN = "build it again into another folder: python scripts/index.py {passages} NEW_FOLDER --model {model}"


def source_of(identity: dict[str, Any]) -> str:
    """What was typed for PASSAGES: a path or a hub id."""
    return str(identity.get("path") or identity["hub"])


def same_passages(kept: dict[str, Any], path: Path) -> bool:
    """Does the file still hold what it held? Its bytes are read only when size or time differ."""
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (kept["size"], kept["mtime_ns"]):
        return True
    return stat.st_size == kept["size"] and sha256_of(path) == kept["sha256"]


@dataclass(frozen=True)
class Index:
    """A finished index."""

    path: Path
    record: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """sha256 of all that decides what is found."""
        return str(self.record["fingerprint"])

    @property
    def store(self) -> PassageStore:
        return PassageStore(self._shards)

    @cached_property
    def _shards(self) -> Shards:
        return Shards(self.path, self.record["shard_size"], self.record["shards"])

    def embedder(self) -> Embedder:
        """The model that made the vectors. Raises CheckError when it is not the same any more."""
        record = self.record
        embedder = Embedder(record["model"], record["precision_asked"], record["revision"])
        if embedder.fingerprint() != record["model_fingerprint"]:
            again = AGAIN.format(passages=source_of(record["passages"]), model=record["model"])
            raise CheckError(
                f"the embedding model {record['model']} is not the one {self.path} was built with "
                f"({record['model_fingerprint'][:12]} then, {embedder.fingerprint()[:12]} now): queries and "
                f"passages would not fit each other. Put the old weights back, or {again}"
            )
        return embedder

    def nearest(self) -> Nearest:
        """Raises CheckError when a file of vectors is missing or damaged."""
        if self.record["kind"] == "exact":
            vectors = map(self._shards.vectors, range(len(self._shards)))
            return nearest.open_exact(vectors, self.record["dimension"])
        check(self.path / COMPRESSED, self.record["compressed"])
        return nearest.open_compressed(self.path, self._shards)


def open_index(path: str) -> Index:
    """A finished index whose passages are what they were. Raises ValueError when there is none, CheckError
    when its passages changed."""
    folder = Path(path)
    if not (folder / "index.json").is_file():
        begun = (folder / "build.json").is_file()
        raise ValueError(
            f"--index {path} is "
            + ("not finished; run the scripts/index.py command that began it again" if begun else "no index")
            + ("" if begun else " (no index.json in it); make one: python scripts/index.py PASSAGES FOLDER")
        )
    index = Index(folder, read_json(folder / "index.json"))
    if not isinstance(index.record, dict) or index.record.get("format") != FORMAT:
        raise ValueError(
            f"{folder / 'index.json'} is not of format {FORMAT}, which this version reads; build the index "
            "again: python scripts/index.py PASSAGES NEW_FOLDER"
        )
    passages = index.record["passages"]
    if "path" in passages and Path(passages["path"]).is_file():
        file = Path(passages["path"])
        if not same_passages(passages, file):
            raise CheckError(
                f"{file} changed since {path} was built of it; put the old file back, or "
                + AGAIN.format(passages=file, model=index.record["model"])
            )
    return index
