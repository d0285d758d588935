"""The masks of a step: which tokens each constrained sequence may say next, worked out while the batch is computed."""

from __future__ import annotations

import ctypes
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from slipstream.base.errors import GrammarError
from slipstream.engine.grammar import num_mask_words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from slipstream.engine.grammar import Matcher
    from slipstream.engine.runner import ScheduledSequence, StepResult

_log = logging.getLogger(__name__)


class StepMasks:
    """Follows the constrained sequences of a runner and makes their masks, a step at a time.

    ::

        engine thread   begin ---- native step: decode ---- wait ---- sample ---- accept
                          |                                  ^
        mask thread       '--> masks of the next tokens -----'

    All methods are for the engine thread.

    Args:
        num_vocab: Of the model.
        max_rows: Most masks in one step.

    Attributes:
        array: uint32 (max_rows, words): a bit for each token, the lowest of the first word first.
        rows: After `begin`, the first mask of each scheduled sequence, -1 for none.
    """

    def __init__(self, num_vocab: int, max_rows: int) -> None:
        num_words = num_mask_words(num_vocab)
        self._words = (ctypes.c_uint32 * (max_rows * num_words))()
        self.array = memoryview(self._words).cast("B").cast("I", (max_rows, num_words))
        self.rows: list[int] = []
        self._num_mask_bytes = num_words * 4
        self._matchers: dict[int, Matcher] = {}
        self._work: list[tuple[Matcher, int, Sequence[int]]] = []
        self._pending: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slipstream-masks")

    def __bool__(self) -> bool:
        return bool(self._matchers)

    def open(self, seq_id: int, matcher: Matcher | None) -> None:
        """Constrain what `seq_id` says from now on, or with None, nothing."""
        self._matchers.pop(seq_id, None)
        if matcher is not None:
            self._matchers[seq_id] = matcher

    def say(self, seq_id: int, token_ids: Sequence[int]) -> None:
        """Follow tokens of `seq_id` that were not sampled.

        Raises:
            GrammarError: they are not allowed.
        """
        matcher = self._matchers.get(seq_id)
        if matcher is not None:
            matcher.accept(token_ids)

    def begin(self, scheduled: Sequence[ScheduledSequence]) -> None:
        """Start on the masks of a step."""
        self.rows, self._work, next_row = [], [], 0
        for sequence in scheduled:
            matcher = self._matchers.get(sequence.seq_id) if sequence.sample else None
            if matcher is None:
                self.rows.append(-1)
                continue
            first_draft = len(sequence.token_ids) - sequence.num_drafts
            self.rows.append(next_row)
            self._work.append((matcher, next_row, sequence.token_ids[first_draft:]))
            next_row += 1 + sequence.num_drafts
        self._pending = self._thread.submit(self._write) if self._work else None

    def wait(self) -> None:
        """Return when the masks are written. Never raises: an output without a mask finds no token to say."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def accept(self, scheduled: Sequence[ScheduledSequence], result: StepResult) -> None:
        """Follow what was sampled; a sequence that cannot be followed gets its error into the result."""
        first = 0
        sampled = [sequence for sequence in scheduled if sequence.sample]
        for index, (sequence, num_sampled) in enumerate(zip(sampled, result.counts, strict=True)):
            matcher = self._matchers.get(sequence.seq_id)
            if matcher is not None:
                try:
                    matcher.accept(result.token_ids[first : first + num_sampled])
                except GrammarError as error:
                    result.errors[index] = error
            first += num_sampled

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _write(self) -> None:
        first, num_bytes = ctypes.addressof(self._words), self._num_mask_bytes
        for matcher, row, drafts in self._work:
            address = first + row * num_bytes
            try:
                matcher.write_masks(address, num_bytes, drafts)
                continue
            except GrammarError:  # which `accept` reports
                pass
            except (
                Exception
            ):  # the edge of one sequence: the others of the step must not wait for ever
                _log.exception("no mask for a sequence")
            ctypes.memset(address, 0, (1 + len(drafts)) * num_bytes)
