"""Without a network everything but downloads works, and nothing tries to reach out.

Every process of the tests gets a sitecustomize that ends the connection and writes down where it wanted to go, be it
an address or a name to look up; engine processes are children and inherit it.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request

import pytest

from tests.support.processes import PYTHON, run_slipstream, start_server

pytestmark = pytest.mark.e2e
GUARD = """
import ipaddress, os, socket

def _note(target):
    with open(os.environ["REACHED_OUT"], "a") as file:
        file.write(f"{target}\\n")

def _is_near(host):
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in ("localhost", "", None)
    return address.is_loopback or address.is_unspecified

class GuardedSocket(socket.socket):
    def _check(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_near(address[0]):
            _note(address)
            raise OSError(101, "Network is unreachable")

    def connect(self, address):
        self._check(address)
        return super().connect(address)

    def connect_ex(self, address):
        self._check(address)
        return super().connect_ex(address)

    def sendto(self, data, *rest):
        self._check(rest[-1])
        return super().sendto(data, *rest)

socket.socket = GuardedSocket
_getaddrinfo = socket.getaddrinfo

def getaddrinfo(host, *rest, **options):
    name = host.decode() if isinstance(host, bytes) else host
    if name is not None and not _is_near(name):
        _note(name)
        raise socket.gaierror(-3, "Temporary failure in name resolution")
    return _getaddrinfo(host, *rest, **options)

socket.getaddrinfo = getaddrinfo
"""


@pytest.fixture
def offline(tmp_path):
    """An environment without a network; the file of what tried to reach out."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    reached = tmp_path / "reached-out"
    reached.touch()
    path = os.pathsep.join(filter(None, (str(tmp_path / "guard"), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "REACHED_OUT": str(reached)}, reached


def test_the_guard_sees_what_reaches_out(offline):
    env, reached = offline
    code = (
        "import socket\n"
        "for call in (lambda: socket.create_connection(('192.0.2.1', 80), 1), "
        "lambda: socket.getaddrinfo('hub.example', 443)):\n"
        "    try:\n        call()\n    except OSError:\n        pass\n"
    )
    subprocess.run([PYTHON, "-c", code], env={**os.environ, **env}, check=True, timeout=60)
    assert reached.read_text(encoding="utf-8").splitlines() == ["192.0.2.1", "hub.example"]


def test_chat_serving_and_commands_need_no_network(offline, demo_model):
    env, reached = offline
    server = start_server(str(demo_model), env=env)
    try:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages"):
            fields = {"input": "Hi", "max_output_tokens": 4} if "responses" in path else body
            request = urllib.request.Request(
                server.url + path,
                json.dumps({"model": "", **fields}).encode(),
                {"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                assert json.load(response)
        server.get("/v1/models")
        server.get("/docs")
        server.get("/metrics")
        assert json.loads(run_slipstream("ps", "--json", **env).stdout)
    finally:
        server.close()
    answer = run_slipstream("chat", demo_model, "-p", "Hi", "--max-tokens", 4, **env).stdout
    assert answer.strip()
    run_slipstream("ls", **env)
    run_slipstream("server", "status", **env)
    run_slipstream("version", "--verbose", **env)
    assert reached.read_text(encoding="utf-8") == ""


def test_downloads_say_that_there_is_no_network(offline):
    env, reached = offline
    done = run_slipstream("get", "some/model", "--yes", status=1, **env)
    assert done.stderr.splitlines()[-1].startswith("slipstream: ")
    assert "Traceback" not in done.stderr
    assert reached.read_text(encoding="utf-8") != ""
