"""A Hugging Face hub on this machine: files of a folder as the hub serves them, and all the ways in which it
refuses. Real HTTP, no mocks."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c" * 40
LATE_S = 8640.0
GATED = {"X-Error-Code": "GatedRepo"}
JSON = {"Content-Type": "application/json"}
# What the hub does with a repository of that name, and with its files.
REFUSALS: dict[str, tuple[int, dict[str, str]]] = {
    "gated": (401, GATED),
    "forbidden": (403, GATED),
    "private": (401, {"X-Error-Code": "RepoNotFound"}),
    "none": (404, {"X-Error-Code": "RepoNotFound"}),
    "broken": (500, {}),
}
ACCOUNTS = {"Bearer good": "somebody", "Basic YXBpOmdvb2Q=": "somebody"}  # the latter is api:good


class Handler(BaseHTTPRequestHandler):
    """Addresses under /late have a clock that is more than two hours behind; /hang never answers;
    org/gated-files is seen by everybody, but its files are not."""

    protocol_version = "HTTP/1.1"
    root: Path
    over: threading.Event
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self.path.partition("?")[0].strip("/").split("/")
        self.late = parts[0] == "late"
        if parts[0] == "hang":
            self.over.wait()
            self.close_connection = True
            return
        parts = parts[1:] if self.late else parts
        if parts[-1] in ("whoami-v2", "graphql"):
            self._who(self.headers.get("Authorization"))
        elif parts[0] == "api":
            self._about(parts[1], "/".join(parts[2:4]), parts[4:5])
        else:
            kind = "datasets" if parts[0] == "datasets" else "models"
            self._file(kind, parts[1:] if kind == "datasets" else parts)

    do_HEAD = do_POST = do_GET

    def _who(self, authorization: str | None) -> None:
        name = ACCOUNTS.get(authorization or "")
        if name is None:
            return self._send(401)
        self._send(200, {"name": name, "data": {"viewer": {"username": name}}})

    def _about(self, kind: str, name: str, what: list[str]) -> None:
        refusal = name.removeprefix("org/")
        if refusal in REFUSALS:
            return self._send(REFUSALS[refusal][0], headers=REFUSALS[refusal][1])
        folder = self.root / kind / name
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        if not files:
            return self._send(404, headers=REFUSALS["none"][1])
        if what == ["revision"]:
            siblings = [{"rfilename": file.name} for file in files]
            return self._send(200, {"id": name, "sha": COMMIT, "siblings": siblings})
        entries = [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _digest(file)}
            for file in files
        ]
        self._send(200 if what == ["tree"] else 404, entries)

    def _file(self, kind: str, parts: list[str]) -> None:
        file = self.root / kind / parts[0] / parts[1] / "/".join(parts[4:])
        if parts[1] == "gated-files":
            return self._send(403, headers=GATED)
        if not file.is_file():
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            return self._send(404, headers=headers)
        self._send(200, file.read_bytes(), {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": COMMIT})

    def _send(self, code: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in ((JSON if raw is not body else {}) | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() - LATE_S if self.late else None)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def hub_server(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was asked; it serves root/models/org/name and root/datasets/org/name."""
    over, asked = threading.Event(), list[str]()
    handler = type("Handler", (Handler,), {"root": root, "over": over, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    over.set()
    server.shutdown()
    server.server_close()
