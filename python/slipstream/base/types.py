"""The plain values that cross rooms and processes. Structs of msgspec: cheap to make, and frames as they are."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import msgspec

from slipstream.base.errors import InvalidRequestError
from slipstream.base.limits import (
    MAX_BATCH_SIZE,
    MAX_CONTEXT_LENGTH,
    MAX_PARALLEL,
    MAX_THREADS,
    SPECULATION_MODES,
)


class FinishReason(StrEnum):
    """Why a request ended. `abort` never reaches an API client."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORT = "abort"


# name -> (lowest, highest) allowed, both included
_FLOAT_RANGES = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "dry_multiplier": (0.0, 100.0),
    "dry_base": (1.0, 100.0),
    "repeat_penalty": (0.01, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "mirostat_tau": (0.0, 100.0),
    "mirostat_eta": (0.0, 100.0),
    "top_n_sigma": (-1.0, 100.0),
}
_INT_RANGES = {
    "max_tokens": (0, 2**31 - 1),
    "top_k": (0, 2**31 - 1),
    "repeat_last_n": (-1, 2**20),
    "dry_allowed_length": (0, 2**20),
    "dry_penalty_last_n": (-1, 2**20),
    "mirostat": (0, 2),
    "seed": (0, 2**64 - 1),
    "logprobs": (0, 20),
}
_LOAD_RANGES = {
    "context_length": (0, MAX_CONTEXT_LENGTH),
    "parallel": (1, MAX_PARALLEL),
    "max_waiting": (0, 2**20),
    "threads": (0, MAX_THREADS),
    "step_target_ms": (0, 3_600_000),
    "batch_size": (1, MAX_BATCH_SIZE),
    "gpu_layers": (-1, 2**31 - 1),
}
MAX_STOP_STRINGS = 64
MAX_STOP_STRING_CHARS = 1024
MAX_LOGIT_BIAS = 4096
MAX_GRAMMAR_CHARS = 1 << 20


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How tokens are chosen and when a request ends. Defaults are llama.cpp's.

    Attributes:
        max_tokens: Most tokens to generate; None means until the context is full.
        temperature: 0 picks the most likely token, whatever the filters say.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens with this much probability; 1 keeps all.
        min_p: Keep tokens with at least this share of the most likely one's probability; 0 keeps all.
        typical_p: Locally typical sampling (arXiv 2202.00666); 1 is off.
        top_n_sigma: Keep logits within n standard deviations of the highest (arXiv 2411.07641); -1 is off.
        xtc_probability: Chance of dropping all but the least likely token above `xtc_threshold`.
        xtc_threshold: See `xtc_probability`.
        dry_multiplier: Strength of the DRY repetition penalty; 0 is off.
        dry_base: Its growth per repeated token.
        dry_allowed_length: Repetitions up to this length are free.
        dry_penalty_last_n: Tokens it looks back; -1 is the whole context.
        dry_sequence_breakers: Strings that end a repetition.
        repeat_penalty: Divides the logits of recent tokens; 1 is off.
        presence_penalty: Subtracted once from the logits of recent tokens.
        frequency_penalty: Subtracted per occurrence.
        repeat_last_n: Tokens the three penalties look back; -1 is the whole context, 0 switches them off.
        mirostat: 0 off, 1 or 2 for the versions of arXiv 2007.14966; replaces the filters.
        mirostat_tau: Its target surprise in bits.
        mirostat_eta: Its learning rate.
        logit_bias: Token id to what is added to its logit.
        seed: Of this request's random numbers; None draws one.
        grammar: GBNF text every output must match.
        stop: Strings that end the output; they are not part of it.
        stop_token_ids: Token ids that end the output.
        ignore_eos: Go on after an end-of-generation token.
        logprobs: Log-probabilities of this many top tokens with each token; None for none at all.

    Raises:
        InvalidRequestError: a value is out of its range; `param` names it.
    """

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    grammar: str | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _FLOAT_RANGES.items():
            value = getattr(self, name)
            if (
                not isinstance(value, (int, float)) or not low <= value <= high
            ):  # NaN compares false
                _out_of_range(name, value, low, high)
        for name, (low_int, high_int) in _INT_RANGES.items():
            value = getattr(self, name)
            if value is None and name in ("max_tokens", "seed", "logprobs"):
                continue
            if not isinstance(value, int) or not low_int <= value <= high_int:
                _out_of_range(name, value, low_int, high_int)
        if len(self.stop) > MAX_STOP_STRINGS:
            _out_of_range("stop", f"{len(self.stop)} strings", 0, MAX_STOP_STRINGS)
        for stop in self.stop:
            if not isinstance(stop, str) or not 1 <= len(stop) <= MAX_STOP_STRING_CHARS:
                _out_of_range("stop", "a string of another length", 1, MAX_STOP_STRING_CHARS)
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            _out_of_range("logit_bias", f"{len(self.logit_bias)} entries", 0, MAX_LOGIT_BIAS)
        for bias in self.logit_bias.values():
            if math.isnan(bias) or bias == math.inf:
                _out_of_range("logit_bias", bias, -math.inf, 3.4e38)
        if self.grammar is not None and len(self.grammar) > MAX_GRAMMAR_CHARS:
            _out_of_range("grammar", f"{len(self.grammar)} characters", 0, MAX_GRAMMAR_CHARS)


def _out_of_range(name: str, value: object, low: float, high: float) -> None:
    message = f"{name} is {value!r}; it must be between {low} and {high}"
    raise InvalidRequestError(message, param=name)


class LoadConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is loaded.

    Attributes:
        context_length: Tokens the KV cache holds, shared by all requests; 0 takes the model's own length,
            bounded by `DEFAULT_CONTEXT_LENGTH`.
        parallel: Most requests that run at the same time; further ones wait.
        max_waiting: Most requests that wait; further ones get QueueFullError.
        threads: CPU threads of the engine; 0 takes the physical cores.
        batch_size: Most tokens in one step.
        gpu_layers: Layers on the GPU; -1 means all.
        flash_attention: None lets llama.cpp decide.
        kv_type: Element type of the KV cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0.
        mmap: Map the file into memory rather than read it.
        repack: Let ggml re-arrange weights for this CPU (a copy, faster single-token decode of some types).
        chat_template: Jinja text that replaces the model's own template.
        step_target_ms: While some requests stream, prompts of others are computed in pieces so that a step takes about
            this long and the streams keep flowing; 0 computes prompts in the largest pieces.
        speculation: `ngram` drafts tokens from a request's own text and verifies them in the batch, where that pays by
            measured step costs; `off` never does. The output is the same either way.
        role_affixes: Manual prompt format that replaces templates: role to (prefix, suffix).

    Raises:
        InvalidRequestError: a number is out of its range; `param` names it. Whether the machine can hold the context
            is found out by loading.
    """

    context_length: int = 0
    parallel: int = 8
    max_waiting: int = 512
    threads: int = 0
    batch_size: int = 512
    gpu_layers: int = -1
    flash_attention: bool | None = None
    kv_type: str = "f16"
    mmap: bool = True
    repack: bool = True
    chat_template: str | None = None
    role_affixes: dict[str, tuple[str, str]] | None = None
    step_target_ms: int = 200
    speculation: str = "ngram"

    def __post_init__(self) -> None:
        for name, (low, high) in _LOAD_RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                _out_of_range(name, value, low, high)
        if self.speculation not in SPECULATION_MODES:
            message = (
                f"speculation is {self.speculation!r}; it must be {' or '.join(SPECULATION_MODES)}"
            )
            raise InvalidRequestError(message, param="speculation")


DEFAULT_CONTEXT_LENGTH = 8192


class GenerationSpec(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One unit of work as the runtime understands it: a prompt in one of three forms, and how to sample.

    Attributes:
        request_id: Unique among running requests.
        messages: Chat messages in OpenAI's shape, rendered by the model's template.
        prompt: Text, tokenized as it is.
        prompt_token_ids: Token ids, used as they are.
        sampling: See SamplingParams.
        tools: OpenAI tool definitions for the template.
        template_options: Extra variables for the template, e.g. {"enable_thinking": False}.
        add_generation_prompt: End the rendered prompt with the start of an assistant turn.
        echo_prompt: Send the prompt's text back before the output (OpenAI completions `echo`).
    """

    request_id: str
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    prompt_token_ids: list[int] | None = None
    sampling: SamplingParams = SamplingParams()
    tools: list[dict[str, Any]] | None = None
    template_options: dict[str, Any] = {}
    add_generation_prompt: bool = True
    echo_prompt: bool = False


class TokenLogprob(msgspec.Struct, array_like=True):
    """A generated token with its log-probability under the raw distribution, and the most likely alternatives.

    Attributes:
        token_id: Of the token.
        piece: Its bytes; may be a part of a UTF-8 character.
        logprob: Natural logarithm of its probability, before temperature and filters.
        top: (token_id, piece, logprob) of the most likely tokens, best first.
    """

    token_id: int
    piece: bytes
    logprob: float
    top: list[tuple[int, bytes, float]] = []


class Usage(msgspec.Struct, array_like=True):
    """Token counts and times of one request.

    Attributes:
        num_prompt_tokens: Tokens of the prompt.
        num_cached_tokens: Of those, how many were already in the KV cache.
        num_output_tokens: Tokens generated, the one that ended the output included.
        queue_s: Seconds from submission to the first step.
        prefill_s: Seconds from the first step to the first token.
        decode_s: Seconds from the first token to the last.
        num_drafted_tokens: Proposed by speculation; the next three add up to it.
        num_accepted_tokens: Of those, were what the model said.
        num_rejected_tokens: Were not.
        num_ignored_tokens: Came behind a rejected one.
    """

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    num_rejected_tokens: int = 0
    num_ignored_tokens: int = 0


class OutputDelta(msgspec.Struct, tag="delta", omit_defaults=True):
    """Newly generated text of one request. The last one of a request carries `finish_reason` and `usage`.

    Attributes:
        request_id: Of the GenerationSpec.
        text: Whole characters; what could be the start of a stop string is held back.
        token_ids: The tokens this text came from, and those held back that had no text yet.
        logprobs: One per token id where asked for.
        finish_reason: None until the last delta.
        stop_string: The stop string that ended the output, where one did.
        usage: On the last delta.
    """

    request_id: str
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_string: str | None = None
    usage: Usage | None = None


class RequestFailed(msgspec.Struct, tag="failed", omit_defaults=True):
    """The other way a request can end.

    Attributes:
        request_id: Of the GenerationSpec.
        error: Class name in `base.errors`.
        message: For the user.
        param: The request field at fault.
    """

    request_id: str
    error: str
    message: str
    param: str | None = None


Event = OutputDelta | RequestFailed


class ModelInstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded model is and can hold.

    Attributes:
        path: The file it came from.
        architecture: As the file says, e.g. llama or qwen2.
        name: The file's own name for the model, "" where it gives none.
        size_bytes: Of the file.
        context_length: Tokens the KV cache holds, shared by all requests.
        max_sequence_length: Most tokens of one request, prompt and output together.
        trained_context_length: What the model was trained for, 0 where unknown.
        parallel: Most requests that run at the same time.
        max_waiting: Most further requests that wait.
        step_target_ms: See LoadConfig.
        num_vocab: Token ids are 0 … num_vocab - 1.
        template_source: Where the prompt format comes from: model, config, affixes or fallback (ChatML).
        load_s: Seconds the load took.
        pid: Of the process that holds it.
    """

    path: str
    architecture: str = ""
    name: str = ""
    size_bytes: int = 0
    context_length: int = 0
    max_sequence_length: int = 0
    trained_context_length: int = 0
    parallel: int = 0
    max_waiting: int = 0
    step_target_ms: int = 0
    num_vocab: int = 0
    template_source: str = "model"
    load_s: float = 0.0
    pid: int = 0
