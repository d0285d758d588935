"""Images of every route reach the engine in one form; what is none is refused with the name of its field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from slipstream.server.images import MAX_IMAGE_BYTES, MAX_IMAGES
from tests.support.fake_generation import MODEL

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from tests.support.fake_generation import FakeGeneration

URL = "data:image/png;base64,iVBORw0KGgo="
CONTENT = [
    {"type": "text", "text": "What is"},
    {"type": "image_url", "image_url": {"url": URL}},
    {"type": "text", "text": "this?"},
]
ANTHROPIC = {"type": "base64", "media_type": "image/png", "data": URL.partition(",")[2]}


def body(route: str, url: str = URL, num_images: int = 1) -> dict[str, Any]:
    """A request of the route with the images between two texts."""
    if route == "/v1/chat/completions":
        image = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
        content = [CONTENT[0], *[image] * num_images, CONTENT[2]]
        return {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    if route == "/v1/responses":
        texts = [{"type": "input_text", "text": text} for text in ("What is", "this?")]
        images = [{"type": "input_image", "image_url": url, "detail": "auto"}] * num_images
        content = [texts[0], *images, texts[1]]
        return {"model": MODEL, "input": [{"role": "user", "content": content}]}
    if route == "/v1/messages":
        source = ANTHROPIC if url == URL else {"type": "url", "url": url}
        images = [{"type": "image", "source": source}] * num_images
        content = [CONTENT[0], *images, CONTENT[2]]
        messages = [{"role": "user", "content": content}]
        return {"model": MODEL, "max_tokens": 5, "messages": messages}
    texts = [{"type": "text", "content": text} for text in ("What is", "this?")]
    images = [{"type": "image", "data_url": url}] * num_images
    return {"model": MODEL, "input": [texts[0], *images, texts[1]]}


ROUTES = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/v1/chat")


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_sends_the_same_message(
    client: TestClient, generation: FakeGeneration, route: str
) -> None:
    assert client.post(route, json=body(route)).status_code == 200
    assert generation.specs[-1].messages == [{"role": "user", "content": CONTENT}]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "file:///etc/passwd",
        "data:text/plain;base64,AAAA",
        "data:image/png,raw",
        "",
    ],
)
def test_other_urls_are_refused_and_not_fetched(client: TestClient, route: str, url: str) -> None:
    answer = client.post(route, json=body(route, url))
    assert answer.status_code == 400
    assert "base64" in answer.json()["error"]["message"]


@pytest.mark.parametrize("route", ROUTES)
def test_too_many_images_are_refused(client: TestClient, route: str) -> None:
    assert client.post(route, json=body(route, num_images=MAX_IMAGES)).status_code == 200
    answer = client.post(route, json=body(route, num_images=MAX_IMAGES + 1))
    assert answer.status_code == 400
    assert str(MAX_IMAGES) in answer.json()["error"]["message"]


def test_too_large_an_image_is_refused(client: TestClient) -> None:
    url = "data:image/png;base64," + "A" * (MAX_IMAGE_BYTES * 4 // 3 + 8)
    answer = client.post(ROUTES[0], json=body(ROUTES[0], url))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0].content[1].image_url.url"


@pytest.mark.parametrize("route", ["/v1/responses", "/api/v1/chat"])
def test_a_remembered_image_comes_back_in_the_next_turn(
    client: TestClient, generation: FakeGeneration, route: str
) -> None:
    first = client.post(route, json=body(route)).json()
    previous = first.get("response_id") or first["id"]
    following = {"model": MODEL, "input": "And now?", "previous_response_id": previous}
    assert client.post(route, json=following).status_code == 200
    assert generation.specs[-1].messages[0]["content"] == CONTENT


def test_the_output_of_a_tool_is_text(client: TestClient) -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "c",
        "content": [{"type": "image", "source": ANTHROPIC}],
    }
    messages = [{"role": "user", "content": [result]}]
    answer = client.post(
        "/v1/messages", json={"model": MODEL, "max_tokens": 5, "messages": messages}
    )
    assert answer.status_code == 400
    assert "images can be read in messages only" in answer.json()["error"]["message"]
