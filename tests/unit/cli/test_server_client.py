import httpx2
import pytest

from slipstream.base.errors import ServerError
from slipstream.cli.server_client import ServerClient, find_server, need_server
from slipstream.runtime import server_record


def client(answer, token="sk-lm-x"):
    return ServerClient("http://box:1/v1/", token, httpx2.MockTransport(answer))


def test_the_token_goes_along_and_the_url_may_end_in_v1():
    def answer(request):
        assert request.url == "http://box:1/api/v1/instances"
        assert request.headers["authorization"] == "Bearer sk-lm-x"
        return httpx2.Response(200, json={"instances": []})

    with client(answer) as server:
        assert server.get("/api/v1/instances") == {"instances": []}


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (httpx2.Response(404, json={"error": {"message": "no model 'x'"}}), "no model 'x'"),
        (httpx2.Response(401, json={"error": {"message": "a token"}}), "SLIPSTREAM_API_TOKEN"),
        (httpx2.Response(502, text="<html>"), "502 Bad Gateway"),
        (httpx2.Response(500, json=[]), "500 Internal Server Error"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(response, told):
    with client(lambda _request: response) as server:
        with pytest.raises(ServerError, match=told):
            server.post("/x", {})
        with pytest.raises(ServerError, match=told), server.events("GET", "/x"):
            pass


def test_a_server_that_cannot_be_reached_is_told():
    def answer(request):
        raise httpx2.ConnectError("refused", request=request)

    with client(answer) as server:
        with pytest.raises(ServerError, match="http://box:1 does not answer: refused"):
            server.get("/x")
        with pytest.raises(ServerError, match="does not answer"), server.events("GET", "/x"):
            pass


def test_events_without_their_comments():
    text = ': watching\n\ndata: {"a":1}\n\ndata: {"a":2}\n\n'
    with (
        client(lambda _request: httpx2.Response(200, text=text)) as server,
        server.events("GET", "/x", params={"source": "model"}) as events,
    ):
        assert list(events) == ['{"a":1}', '{"a":2}']


def test_the_server_that_runs_is_found_with_its_key():
    assert find_server(None) is None
    with pytest.raises(ServerError, match="slipstream server start"):
        need_server(None)
    hold = server_record.claim("1")
    assert server_record.claim("1") is None
    with pytest.raises(ServerError, match="still starting"):
        find_server(None)
    hold.publish("http://127.0.0.1:1", 1)
    with need_server(None) as server:
        assert server.url == "http://127.0.0.1:1"
    assert hold.record.key not in repr(server_record.find())
    hold.release()
    assert find_server(None) is None


def test_a_url_must_be_one():
    with pytest.raises(ServerError, match="no URL"):
        find_server("box:1234")
