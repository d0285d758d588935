"""The engine with everything around it that one model needs, in this process: prompts in, events out."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from slipstream.base.errors import (
    ClosedError,
    InvalidRequestError,
    ModelUnloadedError,
    QueueFullError,
)
from slipstream.base.limits import MAX_SEED
from slipstream.base.load_config import with_layers
from slipstream.base.output_rules import NO_LEAD, Lead
from slipstream.base.queries import QueryFailed
from slipstream.base.types import FinishReason, ModelInstanceInfo, OutputDelta, RequestFailed, Usage
from slipstream.engine.core import EngineCore
from slipstream.engine.request import Request, check_fits, failure, max_sequence_tokens
from slipstream.engine.runner import ModelRunner
from slipstream.engine.thinking import ThinkingTracker
from slipstream.models.gguf import check_model_file
from slipstream.runtime.host_parts import load_projector, store_maker
from slipstream.runtime.images import has_images
from slipstream.runtime.output_thread import OutputThread, SplitOutput, deliver
from slipstream.runtime.prompts import ChosenFormat, Prompt, PromptBuilder, Tokenizer, choose_format
from slipstream.runtime.text_queries import TextQueries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from slipstream.base.load_config import LoadConfig
    from slipstream.base.queries import Query, QueryAnswer
    from slipstream.base.types import Event, GenerationSpec, OutputFormat
    from slipstream.engine.grammar import Matcher
    from slipstream.engine.pictures import PictureReader
    from slipstream.engine.stats import EngineStats
    from slipstream.models.gguf_types import GgufHeader
    from slipstream.runtime.host_parts import StoreMaker

    Reply = Callable[[QueryAnswer | QueryFailed], None]

_log = logging.getLogger(__name__)
_PROMPT_JOIN_S = 1.0
_PromptQueue = queue.SimpleQueue["_Record | _Question | None"]


class HostedRunner(ModelRunner, Tokenizer, Protocol):
    """A runner that also knows its model's text, such as LlamaRunner."""

    pictures: PictureReader | None

    def matcher(self, output_format: OutputFormat, lead: Lead | None = None) -> Matcher:
        """Return what keeps an output to a form, with what may come before it. Any thread."""


@dataclass(slots=True, eq=False)
class _Record:
    """A request between `submit` and its terminal event."""

    spec: GenerationSpec
    sink: Callable[[list[Event]], None]
    arrival_s: float = field(default_factory=time.monotonic)
    echo: str = ""  # text to put in front of the first delta
    output: SplitOutput | None = None  # splits its text; None where all of it is content
    is_submitted: bool = False  # the core knows it
    is_aborted: bool = False


@dataclass(slots=True, eq=False, frozen=True)
class _Question:
    """A question about text that waits for the prompt thread."""

    query: Query
    reply: Reply


class EngineHost:
    """One loaded model that answers GenerationSpecs.

    ::

        any thread      submit --> _records[id], _prompts --.
        prompt threads  render, tokenize <------------------'--> core.submit
        engine thread   core --> _route: events by sink --> sink(events)
                                    '--> output thread: text, reasoning, tool calls --> sink(events)

    Requests with images have a prompt thread of their own, as an image takes as long as a long prompt.

    Every submitted request gets exactly one terminal event. Whoever takes its record out of `_records` reports it.

    Args:
        runner: Of the model; belongs to the host from here.
        chosen: Prompt format for chats.
        info: What `info` returns.
        step_costs: (tokens, seconds) of steps measured beforehand.
        keep_costs: Keeps those of this load; see EngineCore.
        make_store: Makes the second tiers of the prefix cache; see EngineCore.
        seed: Of requests that name none.
    """

    def __init__(
        self,
        runner: HostedRunner,
        chosen: ChosenFormat,
        info: ModelInstanceInfo,
        step_costs: Sequence[tuple[int, float]] = (),
        keep_costs: Callable[[list[tuple[int, float]]], None] | None = None,
        make_store: StoreMaker | None = None,
        seed: int | None = None,
    ) -> None:
        self._info = info
        self._seed = seed
        self._runner = runner
        limit = max_sequence_tokens(runner.info)
        self._builder = PromptBuilder(runner, chosen, limit, runner.pictures)
        self._texts = TextQueries(runner, self._builder, info.num_vocab)
        self._core = EngineCore(
            runner,
            max_waiting=info.max_waiting,
            sink=self._route,
            max_num_running=info.parallel,
            step_costs=step_costs,
            keep_costs=keep_costs,
            step_target_s=info.step_target_ms / 1000,
            make_store=make_store,
        )
        self._lock = threading.Lock()
        self._records: dict[str, _Record] = {}
        self._outputs = OutputThread()
        self._prompts = _PromptQueue()
        self._picture_prompts = _PromptQueue() if runner.pictures else self._prompts
        self._is_closed = False
        self._prompt_threads = [
            threading.Thread(
                target=self._run_prompts, args=(prompts,), name="slipstream-prompt", daemon=True
            )
            for prompts in {self._prompts, self._picture_prompts}
        ]
        self._core.start()
        for thread in self._prompt_threads:
            thread.start()

    @classmethod
    def load(
        cls,
        path: str,
        config: LoadConfig,
        progress: Callable[[float], bool | None] | None = None,
        header: GgufHeader | None = None,
    ) -> Self:
        """Check a file and load it. Blocks for as long as that takes.

        Args:
            path: A .gguf file.
            config: How to load it.
            progress: Called with 0 … 1; returning False cancels.
            header: Of the file, if it has been checked already.

        Raises:
            ModelLoadError: the file is no usable model, or the load was cancelled.
            ContextCreateError: the machine or the model refuses the context.
            TemplateError: the prompt format of the config is unusable.
        """
        from slipstream.engine.llama_runner import LlamaRunner  # loads the native core

        begin_s = time.monotonic()
        header = header or check_model_file(path)
        if config.draft_model is not None:
            check_model_file(config.draft_model)
        config = with_layers(config, header.block_count)
        runner = LlamaRunner.load(path, config, progress)
        try:
            load_projector(runner, path, config)
            chosen = choose_format(runner, config)
            costs = runner.step_costs()
            info = ModelInstanceInfo(
                path=path,
                architecture=header.architecture,
                name=header.name,
                size_bytes=Path(path).stat().st_size,
                context_length=runner.info.num_kv_cells,
                max_sequence_length=runner.info.max_sequence_length,
                trained_context_length=header.context_length,
                parallel=config.parallel,
                max_waiting=config.max_waiting,
                step_target_ms=config.step_target_ms,
                num_vocab=runner.info.num_vocab,
                vision=runner.pictures is not None,
                template_source=chosen.source,
                load_s=time.monotonic() - begin_s,
                pid=os.getpid(),
            )
            keep = runner.keep_step_costs
            return cls(runner, chosen, info, costs, keep, store_maker(runner, config), config.seed)
        except BaseException:
            runner.close()
            raise

    @property
    def info(self) -> ModelInstanceInfo:
        """What is loaded."""
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's vocabulary; safe from any thread until `close`."""
        return self._runner

    def prompt(self, spec: GenerationSpec) -> Prompt:
        """Return what the prompt of a request comes to: token ids and stop strings. Any thread.

        Raises:
            InvalidRequestError: as `PromptBuilder.build`.
        """
        return self._builder.build(spec)

    def submit(self, spec: GenerationSpec, sink: Callable[[list[Event]], None]) -> None:
        """Start a request. Any thread, never blocks, never raises: what is wrong comes as RequestFailed.

        Args:
            spec: The request.
            sink: Gets its events, batched per step with those of the other requests of the same sink. Called on
                the engine thread or the prompt thread, or before this returns if the request is refused at once.
                It must be quick and must not call back into the host.
        """
        record = _Record(spec, sink)
        request_id = spec.request_id
        most = self._info.parallel + self._info.max_waiting
        error: Exception | None = None
        with self._lock:
            if self._is_closed:
                error = ModelUnloadedError("the model is being unloaded; send the request again")
            elif request_id in self._records:
                message = f"request id {request_id!r} is under way; choose another one"
                error = InvalidRequestError(message, param="request_id")
            elif len(self._records) >= most:
                message = (
                    f"{len(self._records)} requests run or wait and no more than {self._info.max_waiting} "
                    "may wait; try again later"
                )
                error = QueueFullError(message)
            else:
                self._records[request_id] = record
                prompts = self._picture_prompts if has_images(spec.messages) else self._prompts
                prompts.put(record)
        if error is not None:
            deliver(sink, [failure(request_id, error)])

    def ask(self, query: Query, reply: Reply) -> None:
        """Have a question about text answered, on the prompt thread. Any thread; after `close` nobody replies."""
        self._prompts.put(_Question(query, reply))

    def abort(self, request_id: str) -> None:
        """End a request early; it still gets its terminal event. Unknown ids are ignored. Any thread."""
        with self._lock:
            record = self._records.get(request_id)
            if record is None:
                return
            record.is_aborted = True
            is_submitted = record.is_submitted
        if is_submitted:
            self._core.abort(request_id)

    def lend(self, use: Callable[[ModelRunner], None]) -> None:
        """Have the engine thread call `use` with the runner, its memory empty. As EngineCore.lend; any other thread."""
        self._core.lend(use)

    def stats(self) -> EngineStats:
        """Return the engine's figures. Any thread."""
        return self._core.stats()

    def close(self, timeout_s: float = 5.0) -> None:
        """Fail what runs and free the model. Idempotent, any thread but the host's own.

        Args:
            timeout_s: How long to wait for a native call that does not heed the interrupt.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        for prompts in (self._prompts, self._picture_prompts):
            prompts.put(None)
        for thread in self._prompt_threads:
            thread.join(min(_PROMPT_JOIN_S, timeout_s))
        self._core.close(timeout_s)
        self._outputs.close(timeout_s)
        error = ModelUnloadedError("the model was unloaded while the request was under way")
        for request_id in list(self._records):
            self._finish(failure(request_id, error))

    def _run_prompts(self, prompts: _PromptQueue) -> None:
        while (record := prompts.get()) is not None:
            if self._is_closed:
                return  # close() reports the end of what is left
            if isinstance(record, _Question):
                self._reply(record)
                continue
            request_id = record.spec.request_id
            if record.is_aborted:
                end = OutputDelta(request_id, finish_reason=FinishReason.ABORT, usage=Usage())
                self._finish(end)
                continue
            try:
                self._start(record)
            except Exception as error:  # the edge of one request
                if not isinstance(error, InvalidRequestError | QueueFullError | ClosedError):
                    _log.exception("request %s cannot be started", request_id)
                self._finish(failure(request_id, error))

    def _reply(self, question: _Question) -> None:
        try:
            answer: QueryAnswer | QueryFailed = self._texts.answer(question.query)
        except Exception as error:  # the edge of one question
            if not isinstance(error, InvalidRequestError):
                _log.exception("a question cannot be answered")
            failed = failure("", error)
            answer = QueryFailed(failed.error, failed.message, failed.param)
        question.reply(answer)

    def _start(self, record: _Record) -> None:
        """Make the prompt and hand the request to the core."""
        spec = record.spec
        prompt = self._builder.build(spec)
        pictures = prompt.pictures
        if pictures and not record.is_aborted:
            check_fits(prompt.token_ids, self._runner.info)  # before the work
            assert self._runner.pictures is not None
            pictures = self._runner.pictures.encode(pictures)
        if self._is_closed:
            message = "the model was unloaded before the request began"
            raise ModelUnloadedError(message)
        record.echo = prompt.text
        if prompt.parser is not None:
            record.output = SplitOutput(prompt.parser, record.sink)
        sampling, form = spec.sampling, spec.output_format
        if form is not None and form.kind == "gbnf":  # llama.cpp's own kind of grammar
            sampling, form = msgspec.structs.replace(sampling, grammar=form.value), None
        matcher = None if form is None else self._matcher(form, prompt)
        if sampling.grammar is not None and prompt.calls is not None:
            message = "a GBNF grammar and tools exclude each other; give one of them"
            raise InvalidRequestError(message, param="grammar")
        thinking = None
        if prompt.thinking is not None:
            reasoning = spec.reasoning
            budget = 0 if reasoning.effort == "off" else reasoning.budget
            thinking = ThinkingTracker(prompt.thinking, budget, prompt.end_thinking)
        if sampling.seed is None and self._seed is not None:
            seed = (self._seed + spec.choice) & MAX_SEED
            sampling = msgspec.structs.replace(sampling, seed=seed)
        missing = tuple(stop for stop in prompt.stop if stop not in sampling.stop)
        if missing:
            sampling = msgspec.structs.replace(sampling, stop=sampling.stop + missing)
        self._core.submit(
            Request(
                spec.request_id,
                prompt.token_ids,
                sampling,
                arrival_s=record.arrival_s,
                speculation_options=spec.speculation,
                matcher=matcher,
                # Tokens behind a picture cannot move: they would have to be computed with it again.
                context_overflow="error" if pictures else spec.context_overflow,
                pictures=pictures,
                calls=prompt.calls,
                thinking=thinking,
                preserved=prompt.preserved,
            )
        )
        with self._lock:
            record.is_submitted = True
            is_aborted = record.is_aborted
        if is_aborted:  # it came while the prompt was made
            self._core.abort(spec.request_id)

    def _matcher(self, form: OutputFormat, prompt: Prompt) -> Matcher | None:
        """Return what keeps the content of an answer to a form, and leaves reasoning and calls free."""
        calls, lead = prompt.calls, prompt.lead
        if calls is not None and not calls.triggers:
            return None  # the answer is a call, without content
        if lead is None:
            param = form.name or "output_format"
            message = (
                f"this model's template begins calls and content in ways that cannot be told apart, so {param} and "
                "tools exclude each other; give one of them"
            )
            raise InvalidRequestError(message, param=param)
        return self._runner.matcher(form, None if lead == NO_LEAD else lead)

    def _finish(self, event: Event) -> None:
        """Report a terminal event that does not come from the core."""
        record = self._records.pop(event.request_id, None)
        if record is not None:
            deliver(record.sink, [event])

    def _route(self, events: list[Event]) -> None:
        """Hand the events of one step to the sinks of their requests, one call each. The core's sink."""
        batches: dict[Callable[[list[Event]], None], list[Event]] = {}
        records = self._records
        for event in events:
            if isinstance(event, RequestFailed) or event.finish_reason is not None:
                record = records.pop(event.request_id, None)
            else:
                record = records.get(event.request_id)
            if record is None:
                continue  # reported already
            if record.echo and isinstance(event, OutputDelta):
                event.text = record.echo + event.text
                record.echo = ""
            if record.output is not None:
                self._outputs.put(record.output, event)
            else:
                batches.setdefault(record.sink, []).append(event)
        for sink, batch in batches.items():
            deliver(sink, batch)
