"""/api/v0/…: LM Studio's earlier native API: OpenAI's routes plus figures, and models with their state."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, Literal

from slipstream.base.types import FinishReason
from slipstream.runtime.model_manager import ModelState
from slipstream.server import embedding_routes, openai_routes
from slipstream.server.context import VERSION, context_of
from slipstream.server.draft_stats import draft_stats, status_of
from slipstream.server.openai_answers import Answer, without_nulls
from slipstream.server.openai_routes import Surface

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from slipstream.models.model_info import ModelInfo
    from slipstream.runtime.model_manager import ModelStatus
    from slipstream.server.context import ServerContext
    from slipstream.server.openai_routes import Ending

_RUNTIME = f"slipstream-llama.cpp-{platform.system()}-{platform.machine()}".lower()


class V0Model(Answer):
    """A model on this machine; `loaded_context_length` is there while it is loaded."""

    id: str
    object: Literal["model"] = "model"
    type: Literal["llm", "vlm", "embeddings"]
    publisher: str
    arch: str
    compatibility_type: Literal["gguf"] = "gguf"
    quantization: str
    state: Literal["loaded", "loading", "not-loaded"]
    max_context_length: int
    loaded_context_length: int | None = None
    capabilities: list[str]


class V0ModelList(Answer):
    """Answer of GET /api/v0/models."""

    object: Literal["list"] = "list"
    data: list[V0Model]


async def list_v0_models(request: Request) -> Response:
    """List the models on this machine with their state."""
    manager = context_of(request).manager
    models, statuses = await manager.models(), manager.list()
    return without_nulls(V0ModelList(data=[_model(model, statuses) for model in models]))


async def get_v0_model(request: Request) -> Response:
    """Describe one model."""
    manager = context_of(request).manager
    name = request.path_params["model"]
    model = await manager.describe(name)
    return without_nulls(_model(model, manager.list()))


async def v0_chat_completions(request: Request) -> Response:
    """Answer a conversation as /v1/chat/completions does, with stats, model_info and runtime."""
    return await openai_routes.answer_chat(request, SURFACE)


async def v0_completions(request: Request) -> Response:
    """Continue prompts as /v1/completions does, with stats, model_info and runtime."""
    return await openai_routes.answer_completion(request, SURFACE)


async def v0_embeddings(request: Request) -> Response:
    """Give a vector for each text as /v1/embeddings does."""
    return await embedding_routes.embeddings(request)


async def extras(context: ServerContext, key: str, ends: Sequence[Ending]) -> dict[str, Any]:
    """Return what an answer of these routes has beyond OpenAI's.

    Args:
        context: Of the app.
        key: Identifier of the instance that answered.
        ends: How each choice ended.
    """
    status = status_of(context, key)
    info = status.info if status is not None else None
    model = await context.manager.describe(key) if status is not None else None
    return {
        "stats": _stats(ends, status, info.context_length if info is not None else 0),
        "model_info": {
            "arch": model.architecture if model is not None else "",
            "quant": model.quantization if model is not None else "",
            "format": "gguf",
            "context_length": info.context_length if info is not None else 0,
        },
        "runtime": {"name": _RUNTIME, "version": VERSION, "supported_formats": ["gguf"]},
    }


SURFACE = Surface(extras, has_last_chunk=True)


def _stats(
    ends: Sequence[Ending], status: ModelStatus | None, context_length: int
) -> dict[str, Any]:
    """Return times of the slowest choice and counts of all."""
    usages = [end.usage for end in ends]
    decode_s = max((usage.decode_s for usage in usages), default=0.0)
    num_tokens = sum(max(usage.num_output_tokens - 1, 0) for usage in usages)
    stats: dict[str, Any] = {
        "tokens_per_second": num_tokens / decode_s if decode_s > 0 else 0.0,
        "time_to_first_token": max((u.queue_s + u.prefill_s for u in usages), default=0.0),
        "generation_time": decode_s,
        "stop_reason": _stop_reason(ends[0], context_length) if ends else "failed",
    }
    return stats | draft_stats(status, usages)


def _stop_reason(end: Ending, context_length: int) -> str:
    if end.finish_reason is FinishReason.TOOL_CALLS:
        return "toolCalls"
    if end.finish_reason is FinishReason.STOP:
        return "eosFound" if end.stop_string is None else "stopStringFound"
    num_tokens = end.usage.num_prompt_tokens + end.usage.num_output_tokens
    if end.finish_reason is FinishReason.LENGTH:
        is_full = 0 < context_length <= num_tokens
        return "contextLengthReached" if is_full else "maxPredictedTokensReached"
    return "userStopped"


def _model(model: ModelInfo, statuses: Sequence[ModelStatus]) -> V0Model:
    able = model.capabilities
    kind: Literal["llm", "vlm", "embeddings"] = "vlm" if able.vision else "llm"
    paths = {variant.path for variant in model.variants} | {model.path}
    mine = [one for one in statuses if one.path in paths]
    lengths = [one.info.context_length for one in mine if one.info is not None]
    is_loading = any(one.state is ModelState.LOADING for one in mine)
    names = {"tool_use": able.tool_use, "vision": able.vision, "reasoning": able.reasoning}
    return V0Model(
        id=model.key,
        type="embeddings" if model.type == "embedding" else kind,
        publisher=model.publisher,
        arch=model.architecture,
        quantization=model.quantization,
        state="loaded" if lengths else "loading" if is_loading else "not-loaded",
        max_context_length=model.context_length,
        loaded_context_length=lengths[0] if lengths else None,
        capabilities=[name for name, has in names.items() if has],
    )
