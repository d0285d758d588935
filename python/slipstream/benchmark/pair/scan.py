"""Reads texts of the target with a model, teacher-forced, as prefill: what it would have said at every token."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from slipstream.base.errors import ComputeError
from slipstream.benchmark.pair.distribution import coupled, filtered, overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from slipstream.benchmark.pair.distribution import Distribution
    from slipstream.native import VocabMap

MAX_ROWS = 64  # of logits at a time: 40 MB of a vocabulary of 150,000


class ReadContext(Protocol):
    """The part of native.Context that reads."""

    @property
    def n_batch(self) -> int:
        """Most tokens of one decode."""

    def decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32] | None = None,
        seq_ids: NDArray[np.int32] | None = None,
        outputs: NDArray[np.bool_] | None = None,
    ) -> None:
        """Compute a batch of sequence 0, after what it already holds."""

    def all_logits(self) -> NDArray[np.float32]:
        """Return the logits of the outputs."""

    def memory_clear(self) -> None:
        """Empty the KV cache."""


@dataclass(slots=True)
class Control:
    """The target over its own text, several rows at a time: the shape of a verification, without any draft.

    Attributes:
        gaps: By position, how much the best logit is above the second.
        best: The two best tokens.
        distributions: At a temperature, what the target samples from.
        seconds: Of the decodes.
    """

    gaps: list[float] = field(default_factory=list)
    best: list[tuple[int, int]] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class DraftScan:
    """A draft model over a text of the target.

    Attributes:
        tokens: Its likeliest token at each position, in the target's vocabulary; -1 where the target has no such token.
        confidences: The probability it gives to that.
        chances: At a temperature, how often it drafts the token there, by the same random number.
        overlaps: At a temperature, the sum of min(p, q).
        point: At a temperature, p of its likeliest token: how often an argmax draft would be right.
        num_read: Tokens read, in its own vocabulary.
        seconds: Of reading them.
    """

    tokens: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    point: list[float] = field(default_factory=list)
    num_read: int = 0
    seconds: float = 0.0


def read_target(
    context: ReadContext,
    prompt: Sequence[int],
    output: Sequence[int],
    temperature: float,
    num_rows: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Control:
    """Read a text of the target with the target itself, `num_rows` tokens of the output at a time.

    Raises:
        ComputeError: it gives NaN.
        DecodeError: as Context.decode.
    """
    import numpy as np

    control = Control()
    spans = [[token] for token in output]
    for logits, seconds in _read(context, prompt, spans, num_rows, clock):
        control.seconds += seconds
        for row in logits:
            two = np.argpartition(row, -2)[-2:]
            low, high = sorted(two.tolist(), key=lambda token: (row[token], -token))
            control.gaps.append(float(row[high] - row[low]))
            control.best.append((high, low))
            if temperature > 0:
                control.distributions.append(filtered(row, temperature))
    return control


class DraftReader:
    """Reads with one draft model.

    Args:
        context: Of the draft model.
        vocab_map: From native.compare_vocabularies.
    """

    def __init__(self, context: ReadContext, vocab_map: VocabMap) -> None:
        import numpy as np

        self._context = context
        self._map = vocab_map
        names = [vocab_map.to_target(token) for token in range(vocab_map.n_draft)]
        self._names = np.array(names, dtype=np.int64)
        # Where ids mean the same, nothing has to be moved; else only what the target can say is looked at.
        self._columns = None if vocab_map.is_identical else np.flatnonzero(self._names >= 0)

    def spell(self, tokens: Sequence[int]) -> list[int]:
        """Return target tokens in the draft model's own."""
        return list(self._map.to_draft(list(tokens)))

    def read(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        distributions: Sequence[Distribution],
        temperature: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> DraftScan:
        """Read a text of the target.

        Args:
            prompt: In the target's tokens.
            output: Likewise.
            distributions: Of the target by position; empty at temperature 0.
            temperature: Of both.
            clock: Seconds.

        Raises:
            ComputeError: the model gives NaN.
            DecodeError: as Context.decode.
        """
        leading = self._map.leading_token
        own_prompt = ([leading] if leading >= 0 else []) + self.spell(prompt)
        spans = [self.spell([token]) for token in output]
        scan = DraftScan(num_read=len(own_prompt) + sum(map(len, spans[:-1])))
        for logits, seconds in _read(self._context, own_prompt, spans, MAX_ROWS, clock):
            scan.seconds += seconds
            for row in logits:
                place = len(scan.tokens)
                self._take(scan, row, output[place], distributions[place : place + 1], temperature)
        return scan

    def _take(
        self,
        scan: DraftScan,
        row: NDArray[np.float32],
        token: int,
        distribution: Sequence[Distribution],
        temperature: float,
    ) -> None:
        import numpy as np

        said = row if self._columns is None else row[self._columns]
        best = int(said.argmax())
        total = np.exp(row - row.max(), dtype=np.float32).sum(dtype=np.float64)
        scan.confidences.append(float(np.exp(said[best] - row.max()) / total))
        scan.tokens.append(self._name(best))
        if not distribution:
            return
        ids, chances = filtered(said, temperature)
        q = ([self._name(i) for i in ids], chances)
        p = distribution[0]
        scan.chances.append(coupled(p, q, token))
        scan.overlaps.append(overlap(p, q))
        scan.point.append(dict(zip(*p, strict=True)).get(scan.tokens[-1], 0.0))

    def _name(self, index: int) -> int:
        return int(self._names[index if self._columns is None else self._columns[index]])


def _read(
    context: ReadContext,
    prompt: Sequence[int],
    spans: Sequence[Sequence[int]],
    num_rows: int,
    clock: Callable[[], float],
) -> Iterator[tuple[Any, float]]:
    """Yield (logits, seconds) that together have one row for each span, of the place before it begins."""
    import numpy as np

    tokens = list(prompt)
    wanted = [len(prompt) - 1]
    for span in spans[:-1]:
        tokens += span
        wanted.append(len(tokens) - 1)
    ids = np.array(tokens, dtype=np.int32)
    is_output = np.zeros(len(ids), dtype=np.bool_)
    is_output[wanted] = True
    context.memory_clear()
    begin = 0
    while begin < len(ids):
        # The prompt in pieces as large as they go, then so many rows of the output at a time.
        end = min(begin + context.n_batch, len(ids))
        end = min(end, wanted[0] if begin < wanted[0] else begin + num_rows)
        outputs = is_output[begin:end]
        begin_s = clock()
        context.decode(ids[begin:end], None, None, outputs)
        seconds = clock() - begin_s
        logits = context.all_logits() if outputs.any() else np.zeros((0, 1), dtype=np.float32)
        if np.isnan(logits).any():
            message = f"the model gives NaN instead of logits after {begin} tokens; its file may be damaged"
            raise ComputeError(message)
        yield logits, seconds
        begin = end
