"""How a model is loaded."""

from __future__ import annotations

from platform import machine

import msgspec

from slipstream.base.errors import InvalidRequestError
from slipstream.base.limits import (
    MAX_BATCH_SIZE,
    MAX_CONTEXT_LENGTH,
    MAX_PARALLEL,
    MAX_SEED,
    MAX_THREADS,
    SPECULATION_MODES,
    VERIFY_MODES,
)
from slipstream.base.ranges import check_ranges

DEFAULT_CONTEXT_LENGTH = 8192
_CACHED_SEQS, _MAX_SHARED_SEQS = 16, 64
_RANGES = {
    "context_length": (0, MAX_CONTEXT_LENGTH),
    "parallel": (1, MAX_PARALLEL),
    "max_waiting": (0, 2**20),
    "threads": (0, MAX_THREADS),
    "step_target_ms": (0, 3_600_000),
    "batch_size": (1, MAX_BATCH_SIZE),
    "prompt_cache_mib": (0, 2**30),
    "prompt_cache_disk_mib": (1, 2**30),
    "gpu_layers": (-1, 2**31 - 1),
    "num_experts": (0, 2**16),
}


class LoadConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is loaded.

    Attributes:
        context_length: Tokens the KV cache holds, shared by all requests; 0 takes the model's own length,
            bounded by `DEFAULT_CONTEXT_LENGTH`.
        parallel: Most requests that run at the same time; further ones wait.
        max_waiting: Most requests that wait; further ones get QueueFullError.
        threads: CPU threads of the engine; 0 takes the physical cores.
        adapt_threads: Fewer threads share steps of few tokens while other programs take the cores away, if that is
            measured to be quicker; on the CPU only.
        batch_size: Most tokens in one step.
        gpu_layers: Layers on the GPU; -1 means all.
        gpu_ratio: Instead of `gpu_layers`, the share of the layers on the GPU, 0 to 1. Of a draft model as many.
        offload_kv_cache: The KV cache lies where its layers do; False keeps it in host memory.
        num_experts: Experts a token is sent to, for a mixture of experts; 0 takes the model's.
        seed: Of requests that name none; None draws one for each. Further choices of one prompt count up from it.
        flash_attention: None lets llama.cpp decide.
        kv_type: Element type of the KV cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0.
        mmap: Map the file into memory rather than read it.
        huge_pages: Copy the mapped weights into huge pages in the background, where twice their size is free, arranged
            for the CPU kernels: they are read more quickly and with less work. Linux only.
        keep_in_memory: Lock the weights in memory, so that their pages are not dropped (`ulimit -l` must allow it).
        rope_freq_base: Base of the rotary positions; 0 takes the model's.
        rope_freq_scale: Their scale, 1/n for a context n times as long as trained; 0 takes the model's.
        repack: Let ggml re-arrange weights for this CPU: a copy of them, which `huge_pages` does not copy once more. On
            x86 Slipstream's own kernels are quicker. None does so on other CPUs, where one request runs at a time.
        chat_template: Jinja text that replaces the model's own template.
        step_target_ms: While some requests stream, prompts of others are computed in pieces so that a step takes about
            this long and the streams keep flowing, up to four times as long where pieces of 128 tokens need that; 0
            computes prompts in the largest pieces.
        speculation: Where drafts come from, which are verified in the batch as far as that pays by measured step
            costs: `ngram` from a request's own text, `draft` from the draft model, `auto` from both, `off` none.
        projector: File that turns images into what the model computes (mmproj); None takes the one that lies beside
            the model, "" none.
        draft_model: A smaller model of the same vocabulary that guesses ahead; None for none.
        verify: `exact` gives token for token what there would be without drafts; `distribution` draws drafts at random
            and judges them by rejection sampling (arXiv 2211.17192): more are accepted at a temperature, the tokens
            are others for the same seed, and distributed alike. Without a draft model it is `exact`.
        share_ngrams: Draft from what earlier requests were answered, too. Response times then tell a little about what
            other requests said.
        prompt_cache_mib: Host memory for prefixes that lost their place in the KV cache, and for requests that had to
            give it up; 0 switches that off.
        prompt_cache: Folder that keeps cached prefixes across restarts; None for none. It holds what prompts said.
        prompt_cache_disk_mib: Most the folder takes for this model.
        role_affixes: Manual prompt format that replaces templates: role to (prefix, suffix).

    Raises:
        InvalidRequestError: a number is out of its range; `param` names it. Whether the machine can hold the context
            is found out by loading.
    """

    context_length: int = 0
    parallel: int = 8
    max_waiting: int = 512
    threads: int = 0
    adapt_threads: bool = True
    batch_size: int = 512
    gpu_layers: int = -1
    gpu_ratio: float | None = None
    offload_kv_cache: bool = True
    num_experts: int = 0
    seed: int | None = None
    flash_attention: bool | None = None
    kv_type: str = "f16"
    mmap: bool = True
    huge_pages: bool = True
    keep_in_memory: bool = False
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    repack: bool | None = None
    chat_template: str | None = None
    role_affixes: dict[str, tuple[str, str]] | None = None
    step_target_ms: int = 200
    speculation: str = "auto"
    projector: str | None = None
    draft_model: str | None = None
    verify: str = "exact"
    share_ngrams: bool = False
    prompt_cache_mib: int = 512
    prompt_cache: str | None = None
    prompt_cache_disk_mib: int = 4096

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        check_ranges(self, {"seed": (0, MAX_SEED)}, optional=("seed",))
        check_ranges(self, {"gpu_ratio": (0, 1)}, (int, float), optional=("gpu_ratio",))
        check_ranges(self, {"rope_freq_base": (0, 1e9), "rope_freq_scale": (0, 1e3)}, (int, float))
        _check_choice("speculation", self.speculation, SPECULATION_MODES)
        if self.prompt_cache is not None and not self.prompt_cache_mib:
            message = (
                "prompt_cache needs prompt_cache_mib above 0: prefixes pass through host memory"
            )
            raise InvalidRequestError(message, param="prompt_cache")
        _check_choice("verify", self.verify, VERIFY_MODES)
        if self.speculation == "draft" and self.draft_model is None:
            message = "speculation is 'draft', which needs draft_model"
            raise InvalidRequestError(message, param="speculation")

    @property
    def idle_settings(self) -> list[str]:
        """Settings that change nothing beside the others, each with the reason; a load warns of them.

        They are no errors: each may be meant for another model, or be overruled for this one by `speculation`.
        """
        reasons = []
        has_drafts = self.has_draft_model
        if self.draft_model is not None and not has_drafts:
            reasons.append(f"draft_model is not loaded: speculation is {self.speculation!r}")
        if self.verify == "distribution" and not has_drafts:
            reasons.append("verify is 'exact' in effect: only a draft model's tokens are drawn")
        if self.share_ngrams and self.speculation not in ("auto", "ngram"):
            reasons.append(f"share_ngrams does nothing: speculation is {self.speculation!r}")
        return reasons

    @property
    def has_draft_model(self) -> bool:
        """Whether `draft_model` is loaded."""
        return self.draft_model is not None and self.speculation in ("auto", "draft")

    @property
    def num_seqs(self) -> int:
        """Sequences of a KV cache that can share cells; those beyond `parallel` are for cached prefixes."""
        return max(self.parallel, min(self.parallel + _CACHED_SEQS, _MAX_SHARED_SEQS))

    @property
    def is_repacked(self) -> bool:
        """What `repack` comes to."""
        if self.repack is None:
            return self.parallel == 1 and machine().lower() not in ("x86_64", "amd64")
        return self.repack

    @property
    def uses_huge_pages(self) -> bool:
        """What `huge_pages` comes to: only mapped weights are copied; a copy of locked ones would not be locked."""
        return self.huge_pages and self.mmap and not self.keep_in_memory


def with_layers(config: LoadConfig, num_layers: int) -> LoadConfig:
    """Return the config with `gpu_layers` for a model of so many layers, where it says a `gpu_ratio`."""
    if config.gpu_ratio is None:
        return config
    layers = -1 if config.gpu_ratio == 1 else round(config.gpu_ratio * num_layers)
    return msgspec.structs.replace(config, gpu_layers=layers, gpu_ratio=None)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        message = f"{name} is {value!r}; it must be {', '.join(choices)}"
        raise InvalidRequestError(message, param=name)
