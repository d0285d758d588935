"""Index, health, metrics and the API's description."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from slipstream.base.errors import QueueFullError
from slipstream.engine.stats import EngineStats
from slipstream.server.openapi import ENDPOINTS, describe_api
from tests.support.fake_generation import MODEL, FakeGeneration, FakeManager

if TYPE_CHECKING:
    from starlette.testclient import TestClient

CHAT = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def samples_of(client: TestClient) -> dict[str, float]:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_models_are_listed_in_openai_form(client: TestClient) -> None:
    entry = {"id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "slipstream"}
    assert client.get("/v1/models").json() == {"object": "list", "data": [entry]}
    assert client.get("/v1/models/").json() == {"object": "list", "data": [entry]}
    assert client.get(f"/v1/models/{MODEL}").json() == entry


def test_health_tells_state_and_models(client: TestClient) -> None:
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["requests_in_flight"] == 0
    assert health["models"] == [
        {
            "id": MODEL,
            "state": "loaded",
            "progress": 1.0,
            "pid": 4711,
            "num_loads": 1,
            "num_deaths": 0,
            "last_error": None,
        }
    ]


def test_metrics_count_requests_tokens_and_times(
    client: TestClient, generation: FakeGeneration
) -> None:
    client.post(CHAT, json=HELLO)
    client.post(CHAT, json={**HELLO, "stream": True})
    generation.script = lambda spec: [QueueFullError("full")]
    client.post(CHAT, json=HELLO)
    client.get("/wp-login.php")
    samples = samples_of(client)
    model = f"('model', '{MODEL}')"
    total = "slipstream_http_requests_total"
    assert samples[f"{total}[('route', '{CHAT}'), ('status', '200')]"] == 2
    assert samples[f"{total}[('route', '{CHAT}'), ('status', '429')]"] == 1
    assert samples[f"{total}[('route', 'other'), ('status', '404')]"] == 1
    assert samples[f"slipstream_time_to_first_token_seconds_count[{model}]"] == 2
    assert samples[f"slipstream_inter_token_seconds_count[{model}]"] == 6
    assert samples[f"slipstream_tokens_total[('kind', 'prompt'), {model}]"] == 14
    assert samples[f"slipstream_tokens_total[('kind', 'cached_prompt'), {model}]"] == 8
    assert samples[f"slipstream_tokens_total[('kind', 'output'), {model}]"] == 8
    assert samples[f"slipstream_choices_total[('finish_reason', 'stop'), {model}]"] == 2
    assert samples[f"slipstream_model_loaded[{model}]"] == 1
    assert samples["slipstream_requests_in_flight[]"] == 0
    assert samples["process_resident_memory_bytes[]"] > 0


def test_metrics_show_every_figure_of_an_engine(client: TestClient, manager: FakeManager) -> None:
    fields = [name for name in EngineStats.__struct_fields__ if name != "step_cost_curve"]
    values = {name: float(i) for i, name in enumerate(fields)}
    manager.engine_stats = {MODEL: EngineStats(**values, step_cost_curve=[])}
    samples = samples_of(client)
    for name, value in values.items():
        full_name = f"slipstream_engine_{name.removeprefix('num_')}[('model', '{MODEL}')]"
        assert samples[full_name] == value
    told = client.get("/metrics").text
    assert "# HELP slipstream_engine_running Requests that take part in steps" in told


def test_index_names_every_endpoint(client: TestClient) -> None:
    endpoints = client.get("/").json()["endpoints"]
    assert endpoints.keys() == {endpoint.path for endpoint in ENDPOINTS}
    assert all(endpoints.values())


def test_openapi_describes_every_endpoint_and_resolves_every_reference(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    assert api["openapi"].startswith("3.1")
    assert api["paths"].keys() == {endpoint.public_path for endpoint in ENDPOINTS}
    assert "/v1/models/{model}" in api["paths"]
    references = set(re.findall(r"#/components/schemas/(\w+)", str(api)))
    assert references
    assert references <= api["components"]["schemas"].keys()
    chat = api["components"]["schemas"]["ChatRequest"]
    assert chat["required"] == ["messages"]


def test_every_request_field_is_described(client: TestClient) -> None:
    for endpoint in ENDPOINTS:
        if endpoint.takes is None:
            continue
        pages = "\n".join(cls.__doc__ or "" for cls in endpoint.takes.__mro__)
        silent = {"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
        for name in endpoint.takes.model_fields.keys() - silent:
            assert f"{name}:" in pages, name


def test_every_route_and_field_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    for endpoint in ENDPOINTS:
        assert f"`{endpoint.public_path}`" in text
        for name in endpoint.takes.model_fields if endpoint.takes else ():
            assert f"`{name}`" in text, name


def test_docs_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    response = client.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "/openapi.json" in response.text
    assert not re.search(r"(src|href)=.?https?:", response.text)


def test_document_is_the_same_for_every_app() -> None:
    assert describe_api() == describe_api()
