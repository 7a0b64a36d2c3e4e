"""Passages -> an index's folder, shard by shard: a build that was killed goes on with the same command.

Never more than one shard of texts and vectors is held. Vectors are kept as float16: its rounding (2**-11)
moves a cosine by about 1e-7, bf16 arithmetic moved it by 1e-4 before; float32 would take twice the disk.
"""

import dataclasses
import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.base.console import Meter, speak
from lib.base.exits import CheckError, StoppedError
from lib.base.files import Lock, read_json, replacing, sha256_of, write_json, write_lines
from lib.base.heap import keep_few_kernels
from lib.contradictions import refuse_threads
from lib.corpus import splits
from lib.corpus.readers import Rejected
from lib.corpus.splits import digest
from lib.process.signals import StopFlag
from lib.retrieval import nearest
from lib.retrieval.embed import Embedder
from lib.retrieval.folder import FORMAT, same_passages
from lib.retrieval.passages import HubPassages, Passage, PassageFile
from lib.retrieval.shards import CHECKED, COMPRESSED, drop_damaged, shard_file, whole

CHECK_EVERY = 10_000  # items read between two looks at signals
MOST_LISTED = 10_000  # broken lines kept to be shown


@dataclass(frozen=True)
class Settings:
    """What decides an index, beside its passages. Raises ValueError for what makes no sense."""

    model: str
    kind: str
    precision: str
    shard_size: int

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f"--shard-size is {self.shard_size}; it must be above 0")
        if self.model != "minilm" and Path(self.model).exists():
            object.__setattr__(self, "model", str(Path(self.model).resolve()))


class Builder:
    """One build, begun or gone on with."""

    def __init__(
        self,
        source: PassageFile | HubPassages,
        out: Path,
        settings: Settings,
        max_rejected: float = 0.01,
        threads: int | None = None,
    ) -> None:
        if not 0 <= max_rejected < 1:
            raise ValueError(f"--max-rejected is {max_rejected}; it must be at least 0 and below 1")
        refuse_threads(threads)
        torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
        self.source, self.out, self.settings = source, out, settings
        self.max_rejected, self.stop = max_rejected, StopFlag()
        self.total: int | None = None  # passages of a file; a stream's are known at its end
        self.num_rejected = 0

    def make_index(self) -> dict[str, Any]:
        """What index.json holds. Raises ValueError (bad input, another index in `out`), CheckError (passages
        or weights changed), StoppedError."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"{error.filename} is a file; name a folder for the index") from error
        with self._lock():
            begun = self._begun()
            if begun is not None:
                drop_damaged(self.out)
            if (self.out / "index.json").is_file():
                speak(f"{self.out} is built already")
                return read_json(self.out / "index.json")
            if isinstance(self.source, PassageFile):
                self._survey()
            keep_few_kernels()
            embedder = Embedder(self.settings.model, self.settings.precision, (begun or {}).get("revision"))
            begun = self._begin(begun, embedder)
            self._embed(embedder)
            return self._conclude(begun, embedder)

    def _lock(self) -> Lock:
        try:
            return Lock(self.out / ".lock")
        except BlockingIOError:
            raise ValueError(
                f"another process builds into {self.out}; wait for it or name another folder"
            ) from None

    def _begun(self) -> dict[str, Any] | None:
        """What an earlier build into this folder was asked for; None when there was none."""
        file = self.out / "build.json"
        if not file.is_file():
            strange = sorted(path.name for path in self.out.iterdir() if path.name[0] != ".")
            strange = [name for name in strange if name != "rejected.jsonl"]
            if strange:
                raise ValueError(f"{self.out} holds {strange[0]} but no index; name a new or an empty folder")
            return None
        before: dict[str, Any] = read_json(file)
        now = {"format": FORMAT, **dataclasses.asdict(self.settings), **_named(self.source)}
        kept = {key: before["settings"].get(key) for key in now}
        differing = [f"{key} was {kept[key]}, is {now[key]}" for key in now if kept[key] != now[key]]
        if differing:
            raise ValueError(
                f"{self.out} holds another index ({'; '.join(differing)}); name another folder, or "
                "give the same settings"
            )
        passages = before["passages"]
        if isinstance(self.source, PassageFile):
            changed = not same_passages(passages, self.source.path)
        else:
            changed = passages["commit"] != self.source.commit
        if changed:
            raise CheckError(
                f"{self.source.name} changed since {self.out} was begun; put it back"
                + (f" (--revision {passages['commit']})" if "commit" in passages else "")
                + f", or begin again: rm -r {self.out}, and the same command"
            )
        for path in self.out.glob(".*.*"):  # what a killed build was writing
            path.unlink()
        return before

    def _survey(self) -> None:
        """Read the whole file once, before hours of embedding: count its passages, refuse a broken one."""
        rejected: list[Rejected] = []
        self.total, number, ids = 0, 0, array("q")
        for number, item in enumerate(self.source.items(0), 1):
            if not isinstance(item, Rejected):
                self.total += 1
                ids.append(hash(item.id))  # 8 bytes each: millions of texts would not fit
            elif len(rejected) < MOST_LISTED:  # not a whole dump of broken lines in memory
                rejected.append(item)
            if number % CHECK_EVERY == 0:
                self._raise_if_stopped()
        self._refuse_rejected(rejected, number - self.total, number)
        doubled = self.total - len(np.unique(np.frombuffer(ids, np.int64)))
        if doubled:
            speak(f"WARNING: {doubled} passages have the id of another: hit@k cannot tell them apart")

    def _refuse_rejected(self, rejected: list[Rejected], num_rejected: int, num_read: int) -> None:
        if rejected:
            write_lines(self.out / "rejected.jsonl", map(dataclasses.asdict, rejected))
        splits.refuse_rejected(rejected, (num_rejected, num_read), self.max_rejected)
        if num_read == num_rejected:
            raise ValueError(f"{self.source.name} holds no passages")

    def _begin(self, begun: dict[str, Any] | None, embedder: Embedder) -> dict[str, Any]:
        weights = embedder.fingerprint()
        if begun is None:
            settings = {"format": FORMAT, **dataclasses.asdict(self.settings), **_named(self.source)}
            begun = {"settings": settings, "passages": self.source.identity(), "revision": embedder.revision}
            begun["model_fingerprint"] = weights
            write_json(self.out / "build.json", begun)
        elif begun["model_fingerprint"] != weights:
            raise CheckError(
                f"the weights of {embedder.name} changed since {self.out} was begun ("
                f"{begun['model_fingerprint'][:12]} then, {weights[:12]} now); put them back, or begin "
                f"again: rm -r {self.out}, and the same command"
            )
        return begun

    def _embed(self, embedder: Embedder) -> None:
        """The shards that are lacking."""
        shards = whole(self.out)
        done = sum(shard["count"] for shard in shards)
        rejected = [Rejected(*values) for shard in shards for values in shard["rejected"]]
        begin, self.num_rejected = shards[-1]["num_read"] if shards else 0, len(rejected)
        if done:
            speak(f"going on after {done} passages in {len(shards)} shards")
        with Meter(self.total, "passages", done) as meter:
            for number, (passages, broken, num_read) in enumerate(self._pieces(begin), len(shards)):
                if passages:
                    self._write_shard(number, passages, broken, num_read, embedder)
                rejected += broken
                self.num_rejected = len(rejected)
                if self.total is None:  # a stream: nobody has looked at all of it
                    self._refuse_rejected(rejected, len(rejected), num_read)
                meter.step(meter.done + len(passages))
                passages.clear()  # before the next shard is read
        if not meter.done:
            raise ValueError(f"{self.source.name} holds no passages")

    def _pieces(self, begin: int) -> Iterator[tuple[list[Passage], list[Rejected], int]]:
        """(passages, broken lines, items read so far) of each shard."""
        passages: list[Passage] = []
        broken: list[Rejected] = []
        number, items = begin, self.source.items(begin)
        for number, item in enumerate(items, begin + 1):
            if isinstance(item, Rejected):
                broken.append(item)
            else:
                passages.append(item)
            if len(passages) == self.settings.shard_size:
                yield passages, broken, number
                passages, broken = [], []
        if passages or broken:
            yield passages, broken, number

    def _write_shard(
        self, number: int, passages: list[Passage], broken: list[Rejected], num_read: int, embedder: Embedder
    ) -> None:
        embedded = embedder.embed([passage.whole for passage in passages], "passage", self._raise_if_stopped)
        lines = [json.dumps(dataclasses.asdict(passage)).encode() + b"\n" for passage in passages]
        files = {kind: shard_file(self.out, number, kind) for kind in CHECKED}
        with replacing(files["texts"]) as file:
            file.writelines(lines)
        with replacing(files["offsets"]) as file:
            np.save(file, np.cumsum([0, *map(len, lines)])[:-1])
        with replacing(files["vectors"]) as file:
            np.save(file, embedded.vectors.astype(np.float16))
        record: dict[str, Any] = {"count": len(passages), "num_cut": embedded.num_cut, "num_read": num_read}
        record["rejected"] = [dataclasses.astuple(line) for line in broken]
        record["sha256"] = {name: sha256_of(path) for name, path in files.items()}
        write_json(shard_file(self.out, number, "record"), record)  # last: now the shard is whole

    def _conclude(self, begun: dict[str, Any], embedder: Embedder) -> dict[str, Any]:
        shards = whole(self.out)
        total = sum(shard["count"] for shard in shards)
        kind = self.settings.kind
        if kind == "auto":
            kind = "exact" if total <= nearest.MOST_EXACT else "ivfpq"
        if kind == "ivfpq":
            if total < nearest.LEAST_COMPRESSED:
                raise ValueError(
                    f"--kind ivfpq learns its codes from the passages and needs {nearest.LEAST_COMPRESSED}; "
                    f"{self.source.name} has {total}; use --kind exact in another folder"
                )
            speak(f"compressing {total} vectors")
            nearest.compress(self.out, [shard["count"] for shard in shards], self._raise_if_stopped)
        record: dict[str, Any] = {
            "format": FORMAT,
            "model": embedder.name,
            "revision": embedder.revision,
            "model_fingerprint": begun["model_fingerprint"],
            "dimension": embedder.dimension,
            "max_length": embedder.max_length,
            "precision_asked": self.settings.precision,
            "kind": kind,
            "num_passages": total,
            "num_cut": sum(shard["num_cut"] for shard in shards),
            "num_rejected": self.num_rejected,
            "shard_size": self.settings.shard_size,
            "passages": begun["passages"],
            "shards": [{key: shard[key] for key in ("count", "sha256")} for shard in shards],
            "compressed": sha256_of(self.out / COMPRESSED) if kind == "ivfpq" else None,
        }
        decides = {
            key: record[key] for key in ("format", "model_fingerprint", "kind", "shards", "compressed")
        }
        record["fingerprint"] = digest(decides)
        write_json(self.out / "index.json", record)
        return record

    def _raise_if_stopped(self) -> None:
        if self.stop.requested:
            raise StoppedError(f"{self.stop.reason}; the shards so far are kept, the same command goes on")


def _named(source: PassageFile | HubPassages) -> dict[str, Any]:
    """Which passages were asked for, whatever they hold."""
    if isinstance(source, PassageFile):
        return {"passages": source.name}
    return {"passages": source.name, "config": source.configuration, "split": source.split}
