"""A ModelRunner without a model: it keeps a simulated KV cache and refuses every call a real one would refuse.

The next token is computed from what really lies in the sequence's cells, so a wrong prefix, a missing trim or a stale
cell changes the output. The vocabulary is one token per byte, an end-of-generation token, then random byte pieces.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipstream.base.errors import NoKVSlotError
from slipstream.base.types import TokenLogprob
from slipstream.engine.runner import RunnerInfo, ScheduledSequence, StepResult

if TYPE_CHECKING:
    from slipstream.base.errors import SlipstreamError
    from slipstream.base.output_rules import CallGrammar
    from slipstream.base.sampling import SamplingParams
    from slipstream.engine.grammar import Matcher
    from slipstream.engine.pictures import PromptPicture

EOG = 256
_EXTRA_PIECES = ["he", "ll", "o ", "stop", "ST", "OP", "é", "日本", "🙂", "ab", "abab", "\n\n"]
_HALVES = ["日".encode()[:2], "日".encode()[2:], "🙂".encode()[:1], "🙂".encode()[1:], b"\xff"]
VOCAB: list[bytes] = [
    *(bytes([byte]) for byte in range(256)),
    b"",
    *(piece.encode() for piece in _EXTRA_PIECES),
    *_HALVES,
]

NextToken = Callable[[Sequence[int], int], int]


def hashed(cells: Sequence[int], num_prompt_tokens: int) -> int:
    """A token that depends on every cell and on its position; rarely the end."""
    value = 1469598103934665603
    for position, token in enumerate(cells):
        value = ((value ^ (token * 31 + position)) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    value >>= 20
    if value % 53 == 0:
        return EOG
    return 97 + value % 8 if value % 3 else len(VOCAB) - 1 - value % (len(VOCAB) - EOG - 1)


def scripted(*outputs: tuple[Sequence[int], Sequence[int]]) -> NextToken:
    """Answer each (prompt, output) pair's prompt with its output, then with EOG; other prompts with EOG."""
    table = {tuple(prompt): list(output) for prompt, output in outputs}

    def next_token(cells: Sequence[int], num_prompt_tokens: int) -> int:
        output = table.get(tuple(cells[:num_prompt_tokens]), [])
        done = len(cells) - num_prompt_tokens
        assert list(cells[num_prompt_tokens:]) == output[:done], "another sequence's cells"
        return output[done] if done < len(output) else EOG

    return next_token


def text_tokens(text: str) -> list[int]:
    """One token per byte of `text`."""
    return list(text.encode())


@dataclass
class FakeSampler:
    """What a sampler has seen."""

    sampling: SamplingParams
    history: list[int]
    num_prompt_tokens: int
    num_read: int = 0  # by the draft model


@dataclass
class FakeRunner:
    """See the module. Faults: exceptions in `errors` are raised by the next steps, one each."""

    info: RunnerInfo = field(
        default_factory=lambda: RunnerInfo(
            num_kv_cells=256,
            max_num_seqs=4,
            max_batch_tokens=16,
            max_sequence_length=128,
            can_trim=True,
            num_vocab=len(VOCAB),
        )
    )
    next_token: NextToken = hashed
    has_forgotten: Callable[[], bool] = lambda: False  # as a sliding window does
    num_real_cells: int | None = None  # fewer than info says: NoKVSlotError comes as a surprise
    refuse: Callable[[SamplingParams], Exception | None] = lambda sampling: None
    may_roll: bool = False  # a full sequence may lose its older half
    gate: threading.Semaphore | None = None  # a step begins when it is released
    errors: deque[Exception | None] = field(default_factory=deque)
    draft_errors: deque[Exception] = field(
        default_factory=deque
    )  # of the next proposals and drafts
    refuse_row: Callable[[], SlipstreamError | None] = lambda: (
        None
    )  # asked before a token is sampled
    state_errors: deque[Exception] = field(default_factory=deque)  # of the next restored states
    drafted: dict[int, list[int]] = field(
        default_factory=dict
    )  # by the draft model since the last step
    cells: dict[int, list[int]] = field(default_factory=dict)
    # Names of the cells that `cells` lie in; a name may be in several sequences
    cell_ids: dict[int, list[int]] = field(default_factory=dict)
    num_cells_made: int = 0
    samplers: dict[int, FakeSampler] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)  # sequences a failed step has left in ruins
    steps: list[list[ScheduledSequence]] = field(default_factory=list)
    accepted: list[tuple[int, list[int]]] = field(default_factory=list)
    num_opened: int = 0
    num_copies: int = 0
    num_interrupts: int = 0
    in_step: threading.Event = field(default_factory=threading.Event)
    is_closed: bool = False
    thread: threading.Thread | None = None

    def open_sequence(
        self,
        seq_id: int,
        sampling: SamplingParams,
        token_ids: Sequence[int],
        matcher: Matcher | None = None,
        pictures: tuple[PromptPicture, ...] = (),
        calls: CallGrammar | None = None,
    ) -> None:
        self._check(seq_id)
        assert seq_id not in self.samplers, "the old sampler was not closed"
        error = self.refuse(sampling)
        if error is not None:
            raise error
        self.samplers[seq_id] = FakeSampler(sampling, list(token_ids), len(token_ids))
        self.num_opened += 1

    def accept(self, seq_id: int, token_ids: Sequence[int]) -> None:
        self._check(seq_id)
        self.accepted.append((seq_id, list(token_ids)))

    def close_sequence(self, seq_id: int) -> None:
        self._check(seq_id)
        self.samplers.pop(seq_id, None)

    def trim(self, seq_id: int, num_tokens: int) -> bool:
        self._check(seq_id)
        cells = self.cells.get(seq_id, [])
        assert 0 <= num_tokens <= len(cells), (num_tokens, len(cells))
        assert num_tokens == 0 or seq_id not in self.unknown
        if not self.info.can_trim and 0 < num_tokens < len(cells):
            return False
        if 0 < num_tokens < len(cells) and seq_id not in self.samplers and self.has_forgotten():
            return False
        self.cells[seq_id] = cells[:num_tokens]
        self._number_cells(seq_id)
        self.unknown.discard(seq_id)
        return True

    def save_state(self, seq_id: int, token_ids: Sequence[int]) -> bytes:
        self._check(seq_id)
        assert seq_id not in self.unknown
        assert list(token_ids) == self.cells[seq_id]
        return array("i", token_ids).tobytes()

    def load_state(self, seq_id: int, state: bytes) -> None:
        self._check(seq_id)
        assert not self.cells.get(seq_id)
        if self.state_errors:
            raise self.state_errors.popleft()
        tokens = array("i")
        tokens.frombytes(state)
        assert self.used_cells() + len(tokens) <= self.info.num_kv_cells
        self.cells[seq_id] = tokens.tolist()
        self._number_cells(seq_id)

    def copy_prefix(self, source: int, seq_id: int, num_tokens: int) -> bool:
        self._check(source)
        self._check(seq_id)
        assert self.info.can_share
        assert source not in self.unknown
        assert not self.cells.get(seq_id), "only an empty sequence can take a prefix"
        assert 0 < num_tokens <= len(self.cells[source])
        if self.has_forgotten():
            return False
        self.cells[seq_id] = self.cells[source][:num_tokens]
        self.cell_ids[seq_id] = self.cell_ids[source][:num_tokens]
        self.num_copies += 1
        return True

    def step(self, scheduled: Sequence[ScheduledSequence]) -> StepResult:
        self._check()
        self._check_batch(scheduled)
        self.in_step.set()
        if self.gate is not None:
            assert self.gate.acquire(timeout=20), "nobody let this step go on"
        num_tokens = sum(len(sequence.token_ids) for sequence in scheduled)
        error = self.errors.popleft() if self.errors else None
        num_used = self.used_cells()
        if num_used + num_tokens > (self.num_real_cells or self.info.num_kv_cells):
            assert self.num_real_cells is not None, "the accounts promised room"
            error = NoKVSlotError(f"{num_tokens} cells needed")
        if error is not None:
            if not isinstance(error, NoKVSlotError):
                self._ruin(scheduled)
            self.drafted.clear()
            raise error
        self.steps.append(list(scheduled))
        return self._compute(scheduled)

    def settle(self):
        pass

    def interrupt(self) -> None:
        self.num_interrupts += 1

    def close(self) -> None:
        if not self.is_closed and self.thread is not None:
            assert threading.current_thread() is self.thread
        self.is_closed = True

    def used_cells(self) -> int:
        """Cells that at least one sequence holds."""
        return len(set().union(*self.cell_ids.values()))

    def _number_cells(self, seq_id: int) -> None:
        """Give the tokens that were added cells of their own, and take the cells of those that were removed."""
        cell_ids = self.cell_ids.setdefault(seq_id, [])
        del cell_ids[len(self.cells[seq_id]) :]
        while len(cell_ids) < len(self.cells[seq_id]):
            cell_ids.append(self.num_cells_made)
            self.num_cells_made += 1

    def _check(self, seq_id: int = 0) -> None:
        assert not self.is_closed
        self.thread = self.thread or threading.current_thread()
        assert threading.current_thread() is self.thread, "one thread owns the runner"
        assert 0 <= seq_id < self.info.max_num_seqs, seq_id

    def _check_batch(self, scheduled: Sequence[ScheduledSequence]) -> None:
        assert scheduled
        seq_ids = [sequence.seq_id for sequence in scheduled]
        assert sum(sequence.num_drafts for sequence in scheduled) <= self.info.max_drafts
        assert len(set(seq_ids)) == len(seq_ids), "a sequence comes once a step"
        assert sum(len(sequence.token_ids) for sequence in scheduled) <= self.info.max_batch_tokens
        for sequence in scheduled:
            self._check(sequence.seq_id)
            assert sequence.seq_id in self.samplers, "no sampler"
            assert sequence.seq_id not in self.unknown, "not rebuilt after a failed step"
            assert sequence.token_ids
            assert 0 <= sequence.num_drafts < len(sequence.token_ids)
            assert sequence.sample or not sequence.num_drafts
            cells = self.cells.get(sequence.seq_id, [])
            assert sequence.start == len(cells), (sequence.start, len(cells))
            assert len(cells) + len(sequence.token_ids) <= self.info.max_sequence_length
            assert all(0 <= token < self.info.num_vocab for token in sequence.token_ids)

    def _ruin(self, scheduled: Sequence[ScheduledSequence]) -> None:
        for sequence in scheduled:
            self.cells.setdefault(sequence.seq_id, []).append(0)
            self._number_cells(sequence.seq_id)
            self.unknown.add(sequence.seq_id)

    def _compute(self, scheduled: Sequence[ScheduledSequence]) -> StepResult:
        result = StepResult()
        for sequence in scheduled:
            cells = self.cells.setdefault(sequence.seq_id, [])
            cells.extend(sequence.token_ids)
            self._number_cells(sequence.seq_id)
            if sequence.sample:
                self._sample(sequence, cells, result)
                self._number_cells(sequence.seq_id)
        return result

    def _sample(self, sequence: ScheduledSequence, cells: list[int], result: StepResult) -> None:
        """Sample behind the last token that is no draft, and behind each draft that agrees; drop the others."""
        sampler = self.samplers[sequence.seq_id]
        drafts = list(sequence.token_ids)[len(sequence.token_ids) - sequence.num_drafts :]
        self.drafted.pop(sequence.seq_id, None)
        del cells[len(cells) - len(drafts) :]
        wanted = sampler.sampling.logprobs is not None
        result.counts.append(0)
        for draft in [*drafts, None]:
            error = self.refuse_row()
            if error is not None:
                result.errors[len(result.counts) - 1] = error
                if result.counts[-1]:  # sampled, but not computed yet
                    cells.pop()
                break
            if not self.may_roll:
                assert cells == sampler.history, "the cells are not what the sampler has seen"
            token = self.next_token(cells, sampler.num_prompt_tokens)
            sampler.history.append(token)
            result.token_ids.append(token)
            result.pieces.append(VOCAB[token])
            result.is_eog.append(token == EOG)
            result.logprobs.append(TokenLogprob(token, VOCAB[token], -0.5) if wanted else None)
            result.counts[-1] += 1
            if token != draft:
                break
            cells.append(token)
        # What was read of drafts counts as far as it turned out to be the text.
        sampler.num_read = min(sampler.num_read, len(sampler.history) - 1)

    def propose(
        self, seq_ids: Sequence[int], max_tokens: int, drafts: Sequence[Sequence[int]] = ()
    ) -> list[tuple[int, list[int]]]:
        """Draft what really comes next, wrong from a place that depends on the text; nothing for some texts."""
        if self.draft_errors:
            raise self.draft_errors.popleft()
        proposals = []
        for index, seq_id in enumerate(seq_ids):
            sampler = self.samplers[seq_id]
            text = list(sampler.history) + (list(drafts[index]) if drafts else [])
            num_tokens, num_right = sum(text) % (max_tokens + 1), sum(text) // 7 % (max_tokens + 1)
            draft: list[int] = []
            for i in range(num_tokens):
                token = self.next_token(text + draft, sampler.num_prompt_tokens)
                draft.append(token if i < num_right else (token + 1) % self.info.num_vocab)
            proposals.append((5 if draft else 0, draft))
        return proposals

    def draft(self, seq_ids: Sequence[int], max_rows: int) -> tuple[list[tuple[int, float]], int]:
        """Guess one more token: most are right. It reads a sequence's text first, `max_rows` tokens a call."""
        if self.draft_errors:
            raise self.draft_errors.popleft()
        drafts = []
        num_rows = 0
        for seq_id in seq_ids:
            sampler = self.samplers[seq_id]
            text = [*sampler.history, *self.drafted.get(seq_id, ())]
            num_read = min(len(text) - sampler.num_read, max_rows - num_rows)
            sampler.num_read += num_read
            num_rows += num_read
            if sampler.num_read < len(text):
                drafts.append((-1, 0.0))
                continue
            token = self.next_token(text, sampler.num_prompt_tokens)
            is_right = sum(text) % 5 > 0
            token = token if is_right else (token + 1) % self.info.num_vocab
            self.drafted.setdefault(seq_id, []).append(token)
            drafts.append((token, 0.9 if is_right else 0.4))
        return drafts, num_rows

    def draft_lag(self, seq_id: int) -> int:
        sampler = self.samplers[seq_id]
        return max(1, len(sampler.history) - sampler.num_read)
