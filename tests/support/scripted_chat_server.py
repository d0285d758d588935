"""An OpenAI-compatible server that misbehaves by script, in a thread: stalls, errors, cut streams, no usage."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Script = Callable[["Answer", dict[str, Any]], None]


class Answer:
    """What a script plays on."""

    def __init__(self, handler: BaseHTTPRequestHandler, released: threading.Event) -> None:
        self._handler = handler
        self._released = released

    def status(self, status: int, text: str) -> None:
        """Answer with a status and a body."""
        self._handler.send_response(status)
        self._handler.send_header("Content-Length", str(len(text)))
        self._handler.end_headers()
        self._handler.wfile.write(text.encode())

    def begin(self) -> None:
        """Begin a stream that ends with the connection."""
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.send_header("Connection", "close")
        self._handler.end_headers()
        self._handler.close_connection = True

    def raw(self, text: str) -> None:
        """Send bytes as they are."""
        self._handler.wfile.write(text.encode())
        self._handler.wfile.flush()

    def event(self, value: Any) -> None:
        """Send one event."""
        self.raw(f"data: {json.dumps(value)}\n\n")

    def words(self, num: int, finish: str | None = "length") -> None:
        """Send pieces of text and, unless `finish` is None, the end of the choice."""
        for number in range(num):
            self.event({"choices": [{"index": 0, "delta": {"content": f"w{number} "}}]})
        if finish is not None:
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})

    def stall(self) -> None:
        """Say nothing more until the test is over."""
        self._released.wait()

    def done(self, num_output_tokens: int | None = None) -> None:
        """Send usage, if given, and the end."""
        if num_output_tokens is not None:
            usage = {
                "prompt_tokens": 9,
                "completion_tokens": num_output_tokens,
                "prompt_tokens_details": {"cached_tokens": 4},
            }
            self.event({"choices": [], "usage": usage})
        self.raw("data: [DONE]\n\n")


@contextmanager
def scripted_server(script: Script) -> Iterator[str]:
    """Serve a script; yield the URL.

    Args:
        script: Called for each POST with what to play on and the request's body.
    """
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            Answer(self, released).status(200, json.dumps({"data": [{"id": "scripted"}]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                script(Answer(self, released), body)
            except (BrokenPipeError, ConnectionResetError):  # the client gave up, as it should
                self.close_connection = True

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
