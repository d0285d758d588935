"""The plain values that cross rooms and processes. Structs of msgspec: cheap to make, and frames as they are."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from slipstream.base.errors import InvalidRequestError
from slipstream.base.limits import MAX_DRAFT_TOKENS, SPECULATION_MODES
from slipstream.base.ranges import check_ranges
from slipstream.base.sampling import SamplingParams


class FinishReason(StrEnum):
    """Why a request ended. `abort` never reaches an API client."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORT = "abort"


class OutputFormat(msgspec.Struct, frozen=True, kw_only=True):
    """What the content of an answer must look like.

    Attributes:
        kind: json_schema, json_object, regex, choice, lark or gbnf.
        value: The schema or the choices as JSON text, the pattern or the grammar; "" for json_object.
        name: The request field it comes from, for messages.
    """

    kind: str
    value: str = ""
    name: str = ""


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """How much a reasoning model thinks before it answers. Every route's spelling becomes this one.

    Attributes:
        effort: "" leaves it to the model's template; off, on, low, medium or high otherwise.
        budget: Most tokens of reasoning; None for no limit of its own.
        is_required: Refuse an effort that a model without reasoning cannot make, instead of leaving it out.
    """

    effort: str = ""
    budget: int | None = None
    is_required: bool = False


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and how the next tokens of one request are drafted. The output is the same either way.

    Attributes:
        source: auto takes whatever the model was loaded with; ngram, draft or off less than that.
        num_tokens: Draft so many in every step, as measurements want it; None drafts as many as pay.

    Raises:
        InvalidRequestError: a value there is not.
    """

    source: str = "auto"
    num_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.source not in SPECULATION_MODES:
            message = f"speculation is {self.source!r}; it must be {', '.join(SPECULATION_MODES)}"
            raise InvalidRequestError(message, param="speculation")
        check_ranges(self, {"num_tokens": (0, MAX_DRAFT_TOKENS)}, optional=("num_tokens",))


class GenerationSpec(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One unit of work as the runtime understands it: a prompt in one of three forms, and how to sample.

    Attributes:
        request_id: Unique among running requests.
        messages: Chat messages in OpenAI's shape, rendered by the model's template. Content is text, or where there
            are images a list of parts of type text and image_url, whose URL is a base64 data URL.
        prompt: Text, tokenized as it is.
        prompt_token_ids: Token ids, used as they are.
        sampling: See SamplingParams.
        tools: OpenAI tool definitions for the template.
        template_options: Extra variables for the template, e.g. {"enable_thinking": False}.
        add_generation_prompt: End the rendered prompt with the start of an assistant turn.
        echo_prompt: Send the prompt's text back before the output (OpenAI completions `echo`).
        tool_choice: auto, none, required, or `name:` and the name of the one tool to call.
        parallel_tool_calls: Whether one answer may hold several calls.
        reasoning: See Reasoning.
        output_format: What the content must look like; None for anything.
        parse_output: Split the text of a chat into content, reasoning and tool calls.
        speculation: See Speculation.
        context_overflow: What to do with a chat that does not fit: error, truncate_middle or rolling_window.
        choice: Its place among several answers to one prompt, which the seed of the load config counts up by.
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
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    reasoning: Reasoning = Reasoning()
    output_format: OutputFormat | None = None
    parse_output: bool = False
    speculation: Speculation = Speculation()
    context_overflow: str = "error"
    choice: int = 0


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


class ToolCallDelta(msgspec.Struct, array_like=True):
    """A piece of a tool call.

    Attributes:
        index: Which call of the answer, from 0.
        call_id: On the first piece of a call.
        name: On the first piece of a call.
        arguments: The next characters of the arguments' JSON text.
    """

    index: int
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    """A whole tool call.

    Attributes:
        call_id: Of the call, unique in its answer.
        name: Of the tool.
        arguments: JSON text of an object; may be cut off where the answer ended by length.
    """

    call_id: str
    name: str
    arguments: str


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
        num_reasoning_tokens: Of the output, spent on reasoning.
        draft_positions: By position in a draft: tokens judged there, and how many of them were accepted.
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
    num_reasoning_tokens: int = 0
    draft_positions: list[tuple[int, int]] = []


class OutputDelta(msgspec.Struct, tag="delta", omit_defaults=True):
    """Newly generated text of one request. The last one of a request carries `finish_reason` and `usage`.

    Attributes:
        request_id: Of the GenerationSpec.
        text: Whole characters; what could be the start of a stop string is held back.
        token_ids: The tokens this text came from, and those held back that had no text yet.
        logprobs: One per token id where asked for.
        finish_reason: None until the last delta.
        stop_string: The stop string that ended the output, where one did.
        usage: On the last delta; on the first one what is known of the prompt by then.
        reasoning: Newly generated reasoning, with `parse_output`; `text` is the content then.
        tool_calls: Newly generated pieces of tool calls, with `parse_output`.
    """

    request_id: str
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_string: str | None = None
    usage: Usage | None = None
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = []


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
        vision: Whether it takes images.
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
    vision: bool = False
    template_source: str = "model"
    load_s: float = 0.0
    pid: int = 0
