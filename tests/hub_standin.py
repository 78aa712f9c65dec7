"""A stand-in of the Hub on this machine: repositories with commits, gates, tokens, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_good"
READER = "hf_reader"  # a token that no gate lets in


@dataclass
class Fault:
    """What befalls the next `times` requests whose path has `path`: an answer of `status`, or none at all."""

    path: str
    status: int = 0
    times: int = 10**9
    headers: dict[str, str] = field(default_factory=dict)


class Hub(ThreadingHTTPServer):
    """Repositories by kind and name: the commit of each revision, and the folder of each commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.faults: list[Fault] = []
        self.gated: set[str] = set()
        self.revisions: dict[str, dict[str, str]] = {}
        self.folders: dict[str, Path] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, name: str, folder: Path, *, revision: str = "main") -> str:
        """A commit of `models/owner/name` or `datasets/owner/name`, to which the revision moves."""
        commit = hashlib.sha1(f"{name} {folder}".encode()).hexdigest()
        self.revisions.setdefault(name, {})[revision] = commit
        self.folders[commit] = folder
        return commit


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_HEAD(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(json.loads(body) if body[:1] == b"{" else parse_qs(body.decode()))

    def _answer(self, body: dict[str, Any]) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.asked.append(path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        fault = next((fault for fault in hub.faults if fault.path in path and fault.times), None)
        if fault is not None:
            fault.times -= 1
            if fault.status:
                return self._refuse(fault.status, "", "not now", fault.headers)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        if token not in ("", TOKEN, READER):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return self._send(200, {"type": "user", "name": "owner"})
        asked = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/(\w[\w-]*)/([^/]+)(/.+)?)?", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if asked:
            name, what, revision = asked[1], asked[2] or "revision", asked[3] or "main"
        elif file:
            name, what, revision = (file[1] or "models/") + file[2], "file", file[3]
        else:
            return self._refuse(404, "", path)
        known = hub.revisions.get(name)
        if known is None:
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if name in hub.gated and token != TOKEN:
            return self._refuse(403 if token else 401, "GatedRepo", f"Access to {name} is restricted")
        commit = known.get(revision, revision if revision in hub.folders else "")
        if not commit:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = {path.name: path for path in sorted(hub.folders[commit].iterdir())}
        if what == "revision":
            siblings = [{"rfilename": name} for name in files]
            return self._send(200, {"id": name.partition("/")[2], "sha": commit, "siblings": siblings, "tags": []})
        if asked and asked[4]:
            return self._refuse(404, "EntryNotFound", "there are no folders")
        if what in ("tree", "paths-info"):
            wanted = files.keys() if what == "tree" else files.keys() & {*body["paths"]}
            return self._send(200, [_entry(files[name]) for name in sorted(wanted)])
        if file is None or file[4] not in files:
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        content = files[file[4]].read_bytes()
        tag = hashlib.sha1(content).hexdigest()
        return self._send(200, content, {"X-Repo-Commit": commit, "ETag": f'"{tag}"'})

    def _refuse(self, code: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(code, {"error": message}, {"X-Error-Code": kind, "X-Error-Message": message, **(headers or {})})

    def _send(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"type": "file", "path": path.name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextmanager
def standing_in(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in in place of the Hub, with an empty cache and nobody logged in."""
    import datasets
    from huggingface_hub import close_session, constants

    close_session()
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for module, name, value in [
            (constants, "ENDPOINT", server.address),
            (constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"),
            (constants, "HF_HUB_OFFLINE", False),
            (constants, "HF_HUB_CACHE", str(cache / "hub")),
            (datasets.config, "HF_ENDPOINT", server.address),
            (datasets.config, "HF_HUB_OFFLINE", False),
            (datasets.config, "HF_DATASETS_CACHE", cache / "datasets"),
        ]:
            patch.setattr(module, name, value)
        patch.setattr("dongu.hub.WAITS_SECONDS", (0.0, 0.0, 0.0))
        patch.delenv("HF_TOKEN", raising=False)
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            close_session()  # the next one asks anew whether it may speak at all
