"""GET /api/v1/models, and loading, unloading and estimating: LM Studio's native routes about models."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

from slipstream.runtime.load_options import LoadOptions
from slipstream.runtime.model_manager import ModelState
from slipstream.server.body import parse_body
from slipstream.server.context import context_of
from slipstream.server.lmstudio_errors import describe_native
from slipstream.server.lmstudio_v1_models_schemas import (
    EstimateAnswer,
    EstimateRequest,
    InstanceConfig,
    LoadAnswer,
    LoadedInstance,
    LoadRequest,
    ModelCapabilities,
    NativeModel,
    NativeModelList,
    Quantization,
    ThinkingOptions,
    UnloadAnswer,
    UnloadRequest,
    load_config,
)
from slipstream.server.openai_answers import without_nulls
from slipstream.server.sse import SseResponse, named_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.responses import Response

    from slipstream.models.model_info import ModelInfo
    from slipstream.runtime.model_manager import ModelManager, ModelStatus

THINKING = ThinkingOptions(allowed_options=["off", "on"], default="on")
LEVELS = ThinkingOptions(allowed_options=["off", "on", "low", "medium", "high"], default="medium")


async def list_native_models(request: Request) -> Response:
    """List the models on this machine with their loaded instances."""
    manager = context_of(request).manager
    models = await manager.models()
    by_path: dict[str, list[ModelStatus]] = {}
    for status in manager.list():
        if status.state is not ModelState.NOT_LOADED:
            by_path.setdefault(status.path, []).append(status)
    jit_ttl_s = manager.settings.ttl_s
    listed = [_model(model, by_path, jit_ttl_s) for model in models]
    return without_nulls(NativeModelList(models=listed))


async def load_model(request: Request) -> Response:
    """Load another instance of a model; it stays until it is unloaded."""
    context = context_of(request)
    body = parse_body(await request.body(), LoadRequest)
    call = _Load(context.manager, body)
    if body.stream:
        keep_alive_s = context.settings.keep_alive_s
        return SseResponse(call.events(), context.in_flight, keep_alive_s, call.end)
    return without_nulls(await context.in_flight.run(call.collect(), request.receive))


async def estimate_model(request: Request) -> Response:
    """Tell what memory a load would take, and whether guardrails would refuse it."""
    context = context_of(request)
    body = parse_body(await request.body(), EstimateRequest)
    key, memory, refusal = await context.manager.by_hand.estimate(
        body.model, LoadOptions(config=load_config(body))
    )
    return without_nulls(
        EstimateAnswer(
            model=key,
            context_length=memory.context_length,
            weights_bytes=memory.weights_bytes,
            kv_cache_bytes=memory.kv_bytes,
            compute_bytes=memory.compute_bytes,
            process_bytes=memory.process_bytes,
            projector_bytes=memory.projector_bytes,
            repacked_bytes=memory.repacked_bytes,
            total_bytes=memory.total_bytes,
            gpu_bytes=memory.gpu_bytes,
            refusal=refusal,
        )
    )


async def unload_model(request: Request) -> Response:
    """Unload one instance, or cancel its load."""
    body = parse_body(await request.body(), UnloadRequest)
    identifier = await context_of(request).manager.unload(body.instance_id)
    return without_nulls(UnloadAnswer(instance_id=identifier))


class _Load:
    """One load on its way."""

    def __init__(self, manager: ModelManager, body: LoadRequest) -> None:
        self._manager = manager
        self._body = body
        self._identifier = ""

    async def collect(self) -> LoadAnswer:
        async with aclosing(self.events()) as events:
            async for _event in events:
                pass
        return self._answer

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the events of the load; closing this early cancels it."""
        body = self._body
        begin_s = time.monotonic()
        options = LoadOptions(config=load_config(body), ttl_s=body.ttl)
        load = self._manager.by_hand.load(
            body.model, options, identifier=body.identifier, force=bool(body.force)
        )
        async with aclosing(load) as progress:
            async for identifier, fraction in progress:
                if not self._identifier:
                    self._identifier = identifier
                    yield self._event("model_load.start")
                yield self._event("model_load.progress", progress=fraction)
        load_s = time.monotonic() - begin_s
        status = self._manager.status(self._identifier)
        model = await self._manager.describe(self._identifier)
        echo = instance_config(status, model) if body.echo_load_config else None
        self._answer = LoadAnswer(
            type=model.type,
            instance_id=self._identifier,
            load_time_seconds=load_s,
            load_config=echo,
        )
        yield self._event("model_load.end", load_time_seconds=load_s)

    def end(self, error: BaseException | None) -> bytes:
        """Return the last event: the answer, or what went wrong."""
        if error is not None:
            return named_event("error", {"type": "error", "error": describe_native(error)})
        answer = self._answer.model_dump(exclude_none=True)
        return named_event("load.end", {"type": "load.end", "result": answer})

    def _event(self, name: str, **fields: float) -> bytes:
        return named_event(name, {"type": name, "model_instance_id": self._identifier, **fields})


def instance_config(status: ModelStatus, model: ModelInfo) -> InstanceConfig:
    """Return how an instance was loaded, or is being loaded."""
    config, info = status.config, status.info
    context_length = info.context_length if info is not None else config.context_length
    if model.type == "embedding":
        return InstanceConfig(context_length=context_length)
    return InstanceConfig(
        context_length=context_length,
        eval_batch_size=config.batch_size,
        parallel=config.parallel,
        flash_attention=config.flash_attention,
        num_experts=config.num_experts or model.num_experts or None,
        offload_kv_cache_to_gpu=config.offload_kv_cache,
    )


def _model(
    model: ModelInfo, by_path: dict[str, list[ModelStatus]], jit_ttl_s: float | None
) -> NativeModel:
    paths = [variant.path for variant in model.variants] or [model.path]
    loaded = [_instance(one, model, jit_ttl_s) for path in paths for one in by_path.get(path, ())]
    is_llm, has_variants = model.type == "llm", len(model.variants) > 1
    able = model.capabilities
    reasoning = LEVELS if able.reasoning_levels else THINKING
    return NativeModel(
        type=model.type,
        publisher=model.publisher,
        key=model.key,
        display_name=model.display_name,
        architecture=model.architecture or None if is_llm else None,
        quantization=Quantization(
            name=model.quantization or None, bits_per_weight=model.bits_per_weight
        ),
        size_bytes=model.size_bytes,
        params_string=model.params_string or None,
        loaded_instances=loaded,
        max_context_length=model.context_length,
        capabilities=ModelCapabilities(
            vision=able.vision,
            trained_for_tool_use=able.tool_use,
            reasoning=reasoning if able.reasoning else None,
        )
        if is_llm
        else None,
        variants=[variant.key for variant in model.variants] if has_variants else None,
        selected_variant=model.selected_variant if has_variants else None,
    )


def _instance(status: ModelStatus, model: ModelInfo, jit_ttl_s: float | None) -> LoadedInstance:
    state: Literal["loading", "idle", "generating"]
    state = "generating" if status.num_requests else "idle"
    if status.state is ModelState.LOADING:
        state = "loading"
    return LoadedInstance(
        id=status.key,
        config=instance_config(status, model),
        status=state,
        progress=status.progress,
        num_requests=status.num_requests,
        ttl=jit_ttl_s if status.ttl_s is None and status.is_jit else status.ttl_s,
        memory_bytes=status.memory_bytes,
    )
