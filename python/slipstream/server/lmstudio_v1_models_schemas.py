"""The bodies of /api/v1/models and below: what the routes take, which is checked strictly, and what they give."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from slipstream.server.openai_answers import Answer
from slipstream.server.schema_base import Schema, Ttl

Name = Annotated[str, Field(min_length=1, max_length=1024)]


class StrictSchema(Schema):
    """A body in which a field that is not named is an error."""

    model_config = ConfigDict(extra="forbid")


class LoadSettings(StrictSchema):
    """How a model is loaded, as far as a client may say; what is not given comes from the defaults.

    Attributes:
        model: Key of a model, or identifier of an instance to load another of.
        context_length: Tokens the KV cache holds.
        eval_batch_size: Most tokens in one step.
        flash_attention: Null lets llama.cpp decide.
        num_experts: Experts a token is sent to, for a mixture of experts; 0 for the model's.
        offload_kv_cache_to_gpu: The KV cache lies where its layers do; false keeps it in host memory.
        parallel: Requests at the same time.
        gpu_layers: Layers on the GPU, -1 for all.
        gpu_ratio: Instead of that, the share of the layers on the GPU, 0 to 1.
        kv_type: Element type of the KV cache.
        threads: CPU threads, 0 for the physical cores.
        adapt_threads: Fewer while other programs take the cores away and fewer are quicker.
        mmap: Map the file rather than read it.
        huge_pages: Copy the mapped weights into huge pages in the background.
        keep_in_memory: Lock the weights in memory.
        rope_freq_base: Base of the rotary positions, 0 for the model's.
        rope_freq_scale: Their scale, 0 for the model's.
        draft_model: Key of a smaller model that guesses ahead.
        seed: Of requests that name none; -1 draws one for each.
    """

    model: Name
    context_length: int | None = None
    eval_batch_size: int | None = None
    flash_attention: bool | None = None
    num_experts: int | None = None
    offload_kv_cache_to_gpu: bool | None = None
    parallel: int | None = None
    gpu_layers: int | None = None
    gpu_ratio: float | None = None
    kv_type: str | None = None
    threads: int | None = None
    adapt_threads: bool | None = None
    mmap: bool | None = None
    huge_pages: bool | None = None
    keep_in_memory: bool | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    draft_model: Name | None = None
    seed: int | None = None


class LoadRequest(LoadSettings):
    """Body of POST /api/v1/models/load.

    Attributes:
        echo_load_config: Tell how it was loaded.
        identifier: What requests call the instance.
        ttl: Seconds it may be idle before it is unloaded; for ever if not given.
        force: Load it whatever the guardrails say.
        stream: Send events of the load.
    """

    echo_load_config: bool | None = None
    identifier: str | None = None
    ttl: Ttl | None = None
    force: bool | None = None
    stream: bool | None = None


class EstimateRequest(LoadSettings):
    """Body of POST /api/v1/models/estimate."""


class UnloadRequest(StrictSchema):
    """Body of POST /api/v1/models/unload.

    Attributes:
        instance_id: Of the instance.
    """

    instance_id: Name


class InstanceConfig(Answer):
    """How an instance was loaded; an embedding model has a context length only."""

    context_length: int
    eval_batch_size: int | None = None
    parallel: int | None = None
    flash_attention: bool | None = None
    num_experts: int | None = None
    offload_kv_cache_to_gpu: bool | None = None


class LoadedInstance(Answer):
    """An instance; the fields after `config` are our own. `ttl` is there for one that goes when it is idle so long."""

    id: str
    config: InstanceConfig
    status: Literal["loading", "idle", "generating"]
    progress: float
    num_requests: int
    ttl: float | None
    memory_bytes: int


class Quantization(Answer):
    """Of a model's file."""

    name: str | None
    bits_per_weight: float | None


class ThinkingOptions(Answer):
    """How much a model can be told to think."""

    allowed_options: list[str]
    default: str


class ModelCapabilities(Answer):
    """What a model of text can do."""

    vision: bool
    trained_for_tool_use: bool
    reasoning: ThinkingOptions | None = None


class NativeModel(Answer):
    """A model on this machine; what an embedding model has no use for is left out."""

    type: Literal["llm", "embedding"]
    publisher: str
    key: str
    display_name: str
    architecture: str | None = None
    quantization: Quantization
    size_bytes: int
    params_string: str | None
    loaded_instances: list[LoadedInstance]
    max_context_length: int
    format: Literal["gguf"] = "gguf"
    capabilities: ModelCapabilities | None = None
    description: str | None = None
    variants: list[str] | None = None
    selected_variant: str | None = None


class NativeModelList(Answer):
    """Answer of GET /api/v1/models."""

    models: list[NativeModel]


class LoadAnswer(Answer):
    """Answer of POST /api/v1/models/load."""

    type: Literal["llm", "embedding"]
    instance_id: str
    load_time_seconds: float
    status: Literal["loaded"] = "loaded"
    load_config: InstanceConfig | None = None


class EstimateAnswer(Answer):
    """Answer of POST /api/v1/models/estimate; `refusal` is there if guardrails would refuse the load, and says why."""

    model: str
    context_length: int
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    process_bytes: int
    projector_bytes: int
    repacked_bytes: int
    total_bytes: int
    gpu_bytes: int
    refusal: str | None


class UnloadAnswer(Answer):
    """Answer of POST /api/v1/models/unload."""

    instance_id: str


def load_config(body: LoadSettings) -> dict[str, Any]:
    """Return the fields of LoadConfig a body names."""
    names = {"eval_batch_size": "batch_size", "offload_kv_cache_to_gpu": "offload_kv_cache"}
    given = {
        name: getattr(body, name) for name in sorted(LoadSettings.model_fields.keys() - {"model"})
    }
    config = {names.get(name, name): value for name, value in given.items() if value is not None}
    if config.get("seed") == -1:
        config["seed"] = None
    return config
