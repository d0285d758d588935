"""A hub for tests on loopback: search, file lists, and files with ranges, ETags, redirects and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """What the server has and does. `requests` are (method, path, headers) of all that came."""

    def __init__(self, server):
        self.server = server
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests = []
        self.faults: list[tuple[str, int]] = []  # taken by the next file answers: (kind, number)
        self.announced: dict[
            str, bytes
        ] = {}  # file name -> content the hub promises instead of what it sends
        self.refused: dict[str, tuple[int, str]] = {}  # repository -> (status, X-Error-Code)
        self.stalled = threading.Event()  # an answer hangs
        self.release = threading.Event()  # lets hanging answers go
        self.ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def add(self, repo, **files):
        """Add files by stem: add("user/repo", **{"m-Q4_0": b"..."})."""
        self.files.setdefault(repo, {}).update({f"{n}.gguf": raw for n, raw in files.items()})

    def file_requests(self):
        return [entry for entry in self.requests if entry[1].startswith("/bytes/")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *_args):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, dict(self.headers)))
        parts = path.strip("/").split("/")
        if path == "/api/models":
            found = [
                {
                    "id": repo,
                    "downloads": 7,
                    "likes": 3,
                    "lastModified": "2026-01-02T00:00:00.000Z",
                    "gated": False,
                }
                for repo in self.hub.files
            ]
            self._json(found)
        elif path.startswith("/api/models/") and "tree" in parts:
            self._tree("/".join(parts[2:4]))
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), "/".join(parts[4:]))
        elif parts[0] == "bytes":
            self._bytes("/".join(parts[1:3]), "/".join(parts[3:]))
        else:
            self._json({"error": "not here"}, 404)

    def _json(self, value, status=200, **headers):
        raw = json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _tree(self, repo):
        if repo in self.hub.refused:
            status, code = self.hub.refused[repo]
            self._json({"error": code}, status, X_Error_Code=code, X_Error_Message=code)
        elif repo not in self.hub.files:
            self._json({"error": "no"}, 404, X_Error_Code="RepoNotFound")
        else:
            self._json([self._entry(n, raw) for n, raw in self.hub.files[repo].items()])

    def _entry(self, name, raw):
        raw = self.hub.announced.get(name, raw)
        lfs = {"oid": hashlib.sha256(raw).hexdigest(), "size": len(raw), "pointerSize": 130}
        return {"type": "file", "path": name, "size": len(raw), "oid": "0" * 40, "lfs": lfs}

    def _resolve(self, repo, name):
        raw = self.hub.announced.get(name, self.hub.files[repo][name])
        self.send_response(302)
        self.send_header("Location", f"/bytes/{repo}/{name}")
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(raw).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(raw)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _bytes(self, repo, name):
        raw = self.hub.files.get(repo, {}).get(name)
        if raw is None:
            self._json({"error": "gone"}, 404)
            return
        kind, number = self.hub.faults.pop(0) if self.hub.faults else ("", 0)
        if kind == "status":
            self._json({"error": "fault"}, number)
            return
        etag = f'"{hashlib.md5(raw).hexdigest()}"'
        start = 0
        asked = self.headers.get("Range")
        if asked and self.hub.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(raw) - 1}/{len(raw)}")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(raw) - start))
        self.end_headers()
        body = raw[start:]
        if kind in ("cut", "stall"):
            self.wfile.write(body[:number])
            self.wfile.flush()
            if kind == "stall":
                self.hub.stalled.set()
                self.hub.release.wait(60)
            self.close_connection = True
            return
        self.wfile.write(body)


@contextmanager
def hub_server():
    """Run a hub until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_args: None  # clients leave in the middle here
    hub = server.hub = Hub(server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
