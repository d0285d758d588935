"""The in-process API: `LLM` loads a model in this process and answers prompts, one or many, at once or as they come."""

from __future__ import annotations

import asyncio
import queue
import secrets
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

from slipstream.base.errors import InvalidRequestError
from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import GenerationSpec, OutputDelta, RequestFailed
from slipstream.models.catalog import resolve_model
from slipstream.runtime.host import EngineHost
from slipstream.runtime.results import GenerationResult, ResultCollector, error_of

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from slipstream.base.types import Event, OutputFormat, Reasoning
    from slipstream.engine.stats import EngineStats

    Message = Mapping[str, Any]
    Prompt = str | list[int]


class ChatOptions(TypedDict, total=False):
    """What a chat can be asked besides its messages; each as in GenerationSpec.

    Attributes:
        tools: OpenAI's tool definitions.
        tool_choice: auto, none, required, or `name:` and the name of the one tool to call.
        parallel_tool_calls: Whether one answer may hold several calls.
        reasoning: How much the model thinks.
        output_format: What the content must look like.
    """

    tools: list[dict[str, Any]]
    tool_choice: str
    parallel_tool_calls: bool
    reasoning: Reasoning
    output_format: OutputFormat


class LLM:
    """A model in this process, with its own engine thread. Any thread may call; calls at the same time share steps.

    ::

        with LLM("demo") as llm:
            print(llm.chat([{"role": "user", "content": "Hello"}]).text)
            for delta in llm.generate("Once upon a time", stream=True):
                print(delta.text, end="")

    Args:
        model: A path to a .gguf file, `demo`, or a key below the models folder.
        config: How to load it; None takes the defaults.
        progress: Called with 0 to 1 while it loads; returning False cancels.
        **options: Fields of LoadConfig, instead of `config`.

    Raises:
        ModelNotFoundError: no such model.
        ModelLoadError: the file is no usable model.
        ContextCreateError: the machine or the model refuses the context.
        TypeError: unknown options, or options beside a config.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        config: LoadConfig | None = None,
        *,
        progress: Callable[[float], bool | None] | None = None,
        **options: Any,
    ) -> None:
        if config is not None and options:
            message = f"give either config or {', '.join(options)}, not both"
            raise TypeError(message)
        self._host = EngineHost.load(
            str(resolve_model(str(model))), config or LoadConfig(**options), progress
        )

    # --- chat ---------------------------------------------------------------------------------------------------

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        template_options: Mapping[str, Any] | None = None,
        **options: Unpack[ChatOptions],
    ) -> GenerationResult: ...
    @overload
    def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        stream: Literal[True],
        template_options: Mapping[str, Any] | None = None,
        **options: Unpack[ChatOptions],
    ) -> Generator[OutputDelta]: ...
    def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        stream: bool = False,
        template_options: Mapping[str, Any] | None = None,
        **options: Unpack[ChatOptions],
    ) -> GenerationResult | Generator[OutputDelta]:
        """Answer a conversation.

        Args:
            messages: In OpenAI's shape: role and content.
            sampling: How to choose tokens and when to stop; None takes the defaults.
            stream: Yield deltas as they come; closing the iterator aborts the request.
            template_options: Further variables for the chat template, e.g. {"custom": 1}.
            **options: Tools and reasoning; see ChatOptions.

        Returns:
            The whole answer, its reasoning and tool calls apart from its text; or an iterator of deltas, the last
            of which has `finish_reason` and `usage`.

        Raises:
            InvalidRequestError: the messages or the parameters cannot be used.
            DecodeError: the engine failed in the middle.
        """
        spec = _chat_spec(messages, sampling, template_options, options)
        return self._stream(spec) if stream else self.run([spec])[0]

    async def achat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        template_options: Mapping[str, Any] | None = None,
        **options: Unpack[ChatOptions],
    ) -> GenerationResult:
        """Answer a conversation on the event loop; see `chat`. Cancelling the task aborts the request."""
        return await self._acollect(_chat_spec(messages, sampling, template_options, options))

    def astream_chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        template_options: Mapping[str, Any] | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncGenerator[OutputDelta]:
        """Yield the deltas of an answer on the event loop; see `chat`. Closing the iterator aborts the request."""
        return self._astream(_chat_spec(messages, sampling, template_options, options))

    # --- plain prompts ------------------------------------------------------------------------------------------

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        prompts: Prompt,
        sampling: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
    ) -> GenerationResult: ...
    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        stream: Literal[False] = False,
    ) -> list[GenerationResult]: ...
    @overload
    def generate(
        self,
        prompts: Prompt,
        sampling: SamplingParams | None = None,
        *,
        stream: Literal[True],
    ) -> Generator[OutputDelta]: ...
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        stream: bool = False,
    ) -> GenerationResult | list[GenerationResult] | Generator[OutputDelta]:
        """Continue one prompt or many, without a chat template. Many run batched.

        Args:
            prompts: Text or token ids, or a list of texts or of token id lists.
            sampling: For all prompts, or one for each.
            stream: Yield deltas as they come; one prompt only. Closing the iterator aborts the request.

        Returns:
            One answer for one prompt, a list of answers in the order of the prompts for a list, or an iterator.

        Raises:
            InvalidRequestError: a prompt or a parameter cannot be used; other prompts of the list are aborted.
            DecodeError: the engine failed in the middle.
        """
        if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int)):
            if isinstance(sampling, (list, tuple)):
                message = "one prompt takes one SamplingParams, not a list"
                raise InvalidRequestError(message, param="sampling")
            spec = _prompt_spec(prompts, sampling)  # type: ignore[arg-type]  # narrowed by the test above
            return self._stream(spec) if stream else self.run([spec])[0]
        if stream:
            message = "only a single prompt can be streamed; use one call per prompt"
            raise InvalidRequestError(message, param="stream")
        each = sampling if isinstance(sampling, (list, tuple)) else [sampling] * len(prompts)
        if len(each) != len(prompts):
            message = (
                f"{len(each)} SamplingParams for {len(prompts)} prompts; give one, or one for each"
            )
            raise InvalidRequestError(message, param="sampling")
        specs = [_prompt_spec(p, s) for p, s in zip(prompts, each, strict=True)]  # type: ignore[arg-type]
        return self.run(specs)

    async def agenerate(
        self, prompt: Prompt, sampling: SamplingParams | None = None
    ) -> GenerationResult:
        """Continue one prompt on the event loop; see `generate`. Cancelling the task aborts the request."""
        return await self._acollect(_prompt_spec(prompt, sampling))

    def astream_generate(
        self, prompt: Prompt, sampling: SamplingParams | None = None
    ) -> AsyncGenerator[OutputDelta]:
        """Yield the deltas of a continuation on the event loop. Closing the iterator aborts the request."""
        return self._astream(_prompt_spec(prompt, sampling))

    def run(self, specs: Sequence[GenerationSpec]) -> list[GenerationResult]:
        """Answer requests that say everything a GenerationSpec can, batched.

        Args:
            specs: With distinct request ids.

        Returns:
            The answers in the order of the specs.

        Raises:
            SlipstreamError: the first request that fails; the others are aborted.
        """
        events: queue.SimpleQueue[list[Event]] = queue.SimpleQueue()
        collectors = {spec.request_id: ResultCollector() for spec in specs}
        results: dict[str, GenerationResult] = {}
        try:
            for spec in specs:
                self._host.submit(spec, events.put)
            while len(results) < len(specs):
                for event in events.get():
                    if isinstance(event, RequestFailed):
                        raise error_of(event)
                    if result := collectors[event.request_id].add(event):
                        results[event.request_id] = result
        finally:
            for request_id in collectors.keys() - results.keys():
                self._host.abort(request_id)
        return [results[spec.request_id] for spec in specs]

    # --- the model ----------------------------------------------------------------------------------------------

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Turn text into token ids; see `Model.tokenize`."""
        return self._host.tokenizer.tokenize(
            text, add_special=add_special, parse_special=parse_special
        )

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Turn token ids into text; bytes that are no UTF-8 become U+FFFD."""
        return self._host.tokenizer.detokenize(token_ids).decode("utf-8", "replace")

    def stats(self) -> EngineStats:
        """Return the engine's counters and times. Any thread."""
        return self._host.stats()

    def close(self) -> None:
        """Abort what runs and free the model. Idempotent."""
        self._host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- plumbing -----------------------------------------------------------------------------------------------

    def _stream(self, spec: GenerationSpec) -> Generator[OutputDelta]:
        events: queue.SimpleQueue[list[Event]] = queue.SimpleQueue()
        self._host.submit(spec, events.put)
        return self._deltas(spec.request_id, events)

    def _deltas(
        self, request_id: str, events: queue.SimpleQueue[list[Event]]
    ) -> Generator[OutputDelta]:
        finished = False
        try:
            while not finished:
                for event in events.get():
                    finished = isinstance(event, RequestFailed) or event.finish_reason is not None
                    if isinstance(event, RequestFailed):
                        raise error_of(event)
                    yield event
        finally:
            if not finished:
                self._host.abort(request_id)

    async def _acollect(self, spec: GenerationSpec) -> GenerationResult:
        collector = ResultCollector()
        async for delta in self._astream(spec):
            if result := collector.add(delta):
                return result
        message = "the stream ended without a finish reason"
        raise AssertionError(message)

    async def _astream(self, spec: GenerationSpec) -> AsyncGenerator[OutputDelta]:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[list[Event]] = asyncio.Queue()

        def sink(batch: list[Event]) -> None:
            loop.call_soon_threadsafe(events.put_nowait, batch)

        self._host.submit(spec, sink)
        finished = False
        try:
            while not finished:
                for event in await events.get():
                    finished = isinstance(event, RequestFailed) or event.finish_reason is not None
                    if isinstance(event, RequestFailed):
                        raise error_of(event)
                    yield event
        finally:
            if not finished:
                self._host.abort(spec.request_id)


def _chat_spec(
    messages: Sequence[Message],
    sampling: SamplingParams | None,
    template_options: Mapping[str, Any] | None,
    options: ChatOptions,
) -> GenerationSpec:
    return GenerationSpec(
        request_id=secrets.token_hex(8),
        messages=[dict(message) for message in messages],
        sampling=sampling or SamplingParams(),
        template_options=dict(template_options or {}),
        parse_output=True,
        **options,
    )


def _prompt_spec(prompt: Prompt, sampling: SamplingParams | None) -> GenerationSpec:
    request_id = secrets.token_hex(8)
    sampling = sampling or SamplingParams()
    if isinstance(prompt, str):
        return GenerationSpec(request_id=request_id, prompt=prompt, sampling=sampling)
    return GenerationSpec(request_id=request_id, prompt_token_ids=list(prompt), sampling=sampling)
