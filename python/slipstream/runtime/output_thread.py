"""Splits outputs into content, reasoning and tool calls, on a thread of its own. Knows no engine."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

from slipstream.base.types import FinishReason, OutputDelta, RequestFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.base.types import Event, TokenLogprob
    from slipstream.chat.output_parser import OutputParser

    Sink = Callable[[list[Event]], None]

_log = logging.getLogger(__name__)


class SplitOutput:
    """One output on its way to its sink. One thread at a time.

    Args:
        parser: Of its form.
        sink: Gets its events.
    """

    def __init__(self, parser: OutputParser, sink: Sink) -> None:
        self.sink = sink
        self._parser = parser
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text is held back

    def split(self, events: Sequence[Event]) -> list[Event]:
        """Make one delta of those that have gathered; a failure after them stays as it is."""
        deltas = [event for event in events if isinstance(event, OutputDelta)]
        rest: list[Event] = [event for event in events if isinstance(event, RequestFailed)]
        return [self._joined(deltas), *rest] if deltas else rest

    def _joined(self, deltas: list[OutputDelta]) -> OutputDelta:
        joined, last = deltas[0], deltas[-1]
        is_last = last.finish_reason is not None
        parsed = self._parser.feed("".join(delta.text for delta in deltas), is_last=is_last)
        for delta in deltas[1:]:
            joined.token_ids += delta.token_ids
            joined.usage = delta.usage or joined.usage
        for delta in deltas:
            self._logprobs += delta.logprobs or ()
        joined.text, joined.reasoning, joined.tool_calls = parsed
        joined.logprobs = self._take_logprobs(joined, is_last)
        joined.finish_reason, joined.stop_string = last.finish_reason, last.stop_string
        if last.finish_reason is FinishReason.STOP and self._parser.has_calls:
            joined.finish_reason, joined.stop_string = FinishReason.TOOL_CALLS, None
        return joined

    def _take_logprobs(self, delta: OutputDelta, is_last: bool) -> list[TokenLogprob] | None:
        """Return those of content; reasoning, calls and the marks between them have none."""
        is_content = bool(delta.text) or (is_last and not self._parser.has_calls)
        if not (is_content or delta.reasoning or delta.tool_calls):
            return None
        logprobs, self._logprobs = self._logprobs, []
        return logprobs if is_content and logprobs else None


class OutputThread:
    """Runs outputs through their parsers. While it is busy, pieces of an output gather and are parsed as one."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[SplitOutput, Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="slipstream-output", daemon=True)
        self._thread.start()

    def put(self, output: SplitOutput, event: Event) -> None:
        """Queue an event of an output. Any thread; the order of one output's events is kept."""
        self._queue.put((output, event))

    def close(self, timeout_s: float) -> None:
        """Deliver what is queued and end the thread. Idempotent."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        is_open = True
        while is_open:
            item = self._queue.get()
            gathered: dict[SplitOutput, list[Event]] = {}
            while item is not None:
                output, event = item
                gathered.setdefault(output, []).append(event)
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            is_open = item is not None
            batches: dict[Sink, list[Event]] = {}
            for output, events in gathered.items():
                batches.setdefault(output.sink, []).extend(self._split(output, events))
            for sink, batch in batches.items():
                deliver(sink, batch)

    def _split(self, output: SplitOutput, events: list[Event]) -> list[Event]:
        try:
            return output.split(events)
        except Exception:  # the edge of one output: the others must not wait for ever
            _log.exception("an output cannot be split; it is told as it is")
            return events


def deliver(sink: Sink, events: list[Event]) -> None:
    """Hand events to a sink, whose fault must not cost other requests theirs."""
    try:
        sink(events)
    except Exception:  # the edge of a caller
        _log.exception("a sink failed; %d of its events are lost", len(events))
