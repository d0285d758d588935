"""The table of routes, with the pydantic models they take and give, and the OpenAPI document made of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from slipstream.server import (
    anthropic_routes,
    embedding_routes,
    lmstudio_v0,
    lmstudio_v1_chat,
    lmstudio_v1_downloads,
    lmstudio_v1_models,
    log_routes,
    openai_routes,
    responses_routes,
    system_routes,
    text_routes,
)
from slipstream.server.anthropic_answers import MessageAnswer, TokenCount
from slipstream.server.anthropic_schemas import CountTokensRequest, MessagesRequest
from slipstream.server.context import VERSION
from slipstream.server.embedding_schemas import (
    EmbeddingsAnswer,
    EmbeddingsRequest,
    RerankAnswer,
    RerankRequest,
)
from slipstream.server.lmstudio_v1_chat_schemas import NativeChatAnswer, NativeChatRequest
from slipstream.server.lmstudio_v1_downloads import DownloadAnswer, DownloadRequest
from slipstream.server.lmstudio_v1_models_schemas import (
    EstimateAnswer,
    EstimateRequest,
    LoadAnswer,
    LoadRequest,
    NativeModelList,
    UnloadAnswer,
    UnloadRequest,
)
from slipstream.server.openai_answers import (
    ChatCompletion,
    Completion,
    ErrorAnswer,
    ModelEntry,
    ModelList,
)
from slipstream.server.openai_schemas import ChatRequest, CompletionRequest
from slipstream.server.responses_answers import DeletedResponse, ResponseAnswer
from slipstream.server.responses_schemas import ResponsesRequest
from slipstream.server.text_schemas import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import BaseModel
    from starlette.requests import Request
    from starlette.responses import Response

    from slipstream.runtime.tokens import Permission

_REF = "#/components/schemas/{model}"
_ERROR = "#/components/schemas/ErrorAnswer"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route.

    Attributes:
        method: GET, POST or DELETE.
        path: In Starlette's form.
        handler: Answers it; the first line of its docstring is its summary.
        takes: Model of the request body.
        gives: Model of the answer; None for text.
        streams: Whether `stream: true` makes it answer with server-sent events.
        permission: What a token must have where tokens are required; None lets everybody in.
        is_private: A token is required even where the others need none.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    takes: type[BaseModel] | None = None
    gives: type[BaseModel] | None = None
    streams: bool = False
    permission: Permission | None = "inference"
    is_private: bool = False

    @property
    def summary(self) -> str:
        """First line of the handler's docstring."""
        return (self.handler.__doc__ or "").partition("\n")[0]

    @property
    def public_path(self) -> str:
        """The path without Starlette's converters."""
        return re.sub(r":\w+}", "}", self.path)


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/chat/completions",
        openai_routes.chat_completions,
        ChatRequest,
        ChatCompletion,
        True,
    ),
    Endpoint(
        "POST", "/v1/completions", openai_routes.completions, CompletionRequest, Completion, True
    ),
    Endpoint(
        "POST",
        "/v1/responses",
        responses_routes.create_response,
        ResponsesRequest,
        ResponseAnswer,
        True,
    ),
    Endpoint(
        "GET", "/v1/responses/{response_id}", responses_routes.get_response, gives=ResponseAnswer
    ),
    Endpoint(
        "DELETE",
        "/v1/responses/{response_id}",
        responses_routes.delete_response,
        gives=DeletedResponse,
    ),
    Endpoint(
        "POST",
        "/v1/messages",
        anthropic_routes.create_message,
        MessagesRequest,
        MessageAnswer,
        True,
    ),
    Endpoint(
        "POST",
        "/v1/messages/count_tokens",
        anthropic_routes.count_message_tokens,
        CountTokensRequest,
        TokenCount,
    ),
    Endpoint(
        "POST",
        "/v1/embeddings",
        embedding_routes.embeddings,
        EmbeddingsRequest,
        EmbeddingsAnswer,
    ),
    Endpoint("POST", "/v1/rerank", embedding_routes.rerank, RerankRequest, RerankAnswer),
    Endpoint("POST", "/tokenize", text_routes.tokenize, TokenizeRequest, TokenizeAnswer),
    Endpoint("POST", "/detokenize", text_routes.detokenize, DetokenizeRequest, DetokenizeAnswer),
    Endpoint(
        "POST",
        "/api/v1/chat",
        lmstudio_v1_chat.native_chat,
        NativeChatRequest,
        NativeChatAnswer,
        True,
    ),
    Endpoint("GET", "/api/v1/models", lmstudio_v1_models.list_native_models, gives=NativeModelList),
    Endpoint(
        "POST",
        "/api/v1/models/load",
        lmstudio_v1_models.load_model,
        LoadRequest,
        LoadAnswer,
        True,
        permission="models",
    ),
    Endpoint(
        "POST",
        "/api/v1/models/estimate",
        lmstudio_v1_models.estimate_model,
        EstimateRequest,
        EstimateAnswer,
        permission="models",
    ),
    Endpoint(
        "POST",
        "/api/v1/models/unload",
        lmstudio_v1_models.unload_model,
        UnloadRequest,
        UnloadAnswer,
        permission="models",
    ),
    Endpoint(
        "POST",
        "/api/v1/models/download",
        lmstudio_v1_downloads.download_model,
        DownloadRequest,
        DownloadAnswer,
        permission="models",
    ),
    Endpoint(
        "GET",
        "/api/v1/models/download/status/{job_id}",
        lmstudio_v1_downloads.download_status,
        gives=DownloadAnswer,
        permission="models",
    ),
    Endpoint(
        "POST",
        "/api/v1/models/download/pause/{job_id}",
        lmstudio_v1_downloads.pause_download,
        gives=DownloadAnswer,
        permission="models",
    ),
    Endpoint(
        "POST",
        "/api/v1/models/download/resume/{job_id}",
        lmstudio_v1_downloads.resume_download,
        gives=DownloadAnswer,
        permission="models",
    ),
    Endpoint(
        "POST",
        "/api/v1/models/download/cancel/{job_id}",
        lmstudio_v1_downloads.cancel_download,
        gives=DownloadAnswer,
        permission="models",
    ),
    Endpoint("GET", "/api/v0/models", lmstudio_v0.list_v0_models, gives=lmstudio_v0.V0ModelList),
    Endpoint(
        "GET", "/api/v0/models/{model:path}", lmstudio_v0.get_v0_model, gives=lmstudio_v0.V0Model
    ),
    Endpoint(
        "POST",
        "/api/v0/chat/completions",
        lmstudio_v0.v0_chat_completions,
        ChatRequest,
        ChatCompletion,
        True,
    ),
    Endpoint(
        "POST",
        "/api/v0/completions",
        lmstudio_v0.v0_completions,
        CompletionRequest,
        Completion,
        True,
    ),
    Endpoint(
        "POST",
        "/api/v0/embeddings",
        lmstudio_v0.v0_embeddings,
        EmbeddingsRequest,
        EmbeddingsAnswer,
    ),
    Endpoint("GET", "/api/v1/log", log_routes.stream_log, permission="logs", is_private=True),
    Endpoint("GET", "/v1/models", openai_routes.list_models, gives=ModelList),
    Endpoint("GET", "/v1/models/{model:path}", openai_routes.get_model, gives=ModelEntry),
    Endpoint("GET", "/health", system_routes.health, gives=system_routes.Health, permission=None),
    Endpoint("GET", "/metrics", system_routes.metrics, permission="metrics"),
    Endpoint("GET", "/openapi.json", system_routes.openapi, permission=None),
    Endpoint("GET", "/docs", system_routes.docs, permission=None),
    Endpoint("GET", "/", system_routes.index, gives=system_routes.Index, permission=None),
)


def describe_api(endpoints: tuple[Endpoint, ...] = ENDPOINTS) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of `endpoints`."""
    takes = [(endpoint.takes, "validation") for endpoint in endpoints if endpoint.takes]
    gives = [(endpoint.gives, "serialization") for endpoint in endpoints if endpoint.gives]
    names, schemas = models_json_schema(
        [*takes, *gives, (ErrorAnswer, "serialization")],  # type: ignore[list-item]  # literals widen to str
        ref_template=_REF,
    )
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, names)
        paths.setdefault(endpoint.public_path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Slipstream",
            "version": VERSION,
            "description": "A local model server with an OpenAI-compatible API.",
        },
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(endpoint: Endpoint, names: dict[Any, dict[str, str]]) -> dict[str, Any]:
    content: dict[str, Any] = {"text/plain": {}}
    if endpoint.gives:
        content = {"application/json": {"schema": names[endpoint.gives, "serialization"]}}
    if endpoint.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": endpoint.summary,
        "responses": {
            "200": {"description": "OK", "content": content},
            "default": {
                "description": "An error",
                "content": {"application/json": {"schema": {"$ref": _ERROR}}},
            },
        },
    }
    parameters = re.findall(r"{(\w+)}", endpoint.public_path)
    if parameters:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in parameters
        ]
    if endpoint.takes:
        schema = names[endpoint.takes, "validation"]
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation
