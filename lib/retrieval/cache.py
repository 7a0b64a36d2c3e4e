"""What was found for a query is kept beside the runs as soon as it is found: a stop loses one group of
queries at most, and no later run with the same index asks again."""

import hashlib
import json
from pathlib import Path

from lib.base.files import Lock
from lib.base.source_code import fingerprint
from lib.retrieval.folder import Index
from lib.retrieval.search import Found


class Cache:
    """query -> Found, for one index, one way to search and one version of the code that searches."""

    def __init__(self, folder: Path, index: Index, num_passages: int, max_length: int) -> None:
        self.num_passages, self.max_length = num_passages, max_length
        code = fingerprint(["lib.retrieval.search"])
        decides = json.dumps([index.fingerprint, num_passages, max_length, code])
        self.file = folder / f"{hashlib.sha256(decides.encode()).hexdigest()[:16]}.jsonl"
        self.contexts: dict[str, Found] = {}
        for line in self.file.read_bytes().split(b"\n") if self.file.is_file() else ():
            try:
                values = json.loads(line)
                self.contexts[values["id"]] = Found.of_line(values)
            except (ValueError, KeyError, TypeError):  # a kill cut it short: it will be found again
                continue

    def __contains__(self, query: str) -> bool:
        return _key(query) in self.contexts

    def __getitem__(self, query: str) -> Found:
        return self.contexts[_key(query)]

    def add(self, queries: list[str], contexts: list[Found]) -> None:
        """Keep it on the disk, too. It begins on a line of its own, whatever a kill left behind."""
        keys = [_key(query) for query in queries]
        self.contexts |= dict(zip(keys, contexts, strict=True))
        lines = [json.dumps(self.contexts[key].as_line(key)) for key in keys]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # another run may ask the same index
        with Lock(self.file, wait=True), self.file.open("ab") as file:
            file.write(("\n" + "\n".join(lines) + "\n").encode())


def _key(query: str) -> str:
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest()
