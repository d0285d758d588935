"""The contract between the scheduler and whatever computes: one call per step, plain values in and out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.errors import SlipstreamError
    from slipstream.base.output_rules import CallGrammar
    from slipstream.base.sampling import SamplingParams
    from slipstream.base.types import TokenLogprob
    from slipstream.engine.grammar import Matcher
    from slipstream.engine.pictures import PromptPicture


@dataclass(slots=True, frozen=True)
class RunnerInfo:
    """What a runner can hold.

    Attributes:
        num_kv_cells: Tokens the KV cache holds over all sequences.
        max_num_seqs: Sequence ids are 0 … max_num_seqs - 1.
        max_batch_tokens: Most tokens in one step.
        max_sequence_length: Most tokens in one sequence.
        can_trim: Whether a part of a sequence can be removed (false for recurrent memory).
        num_vocab: Token ids are 0 … num_vocab - 1.
        can_share: Whether `copy_prefix` works; needs `can_trim`.
        max_drafts: Most draft tokens verified in one step; 0 for a runner that proposes none.
        has_ngrams: Whether `propose` finds anything.
        has_draft_model: Whether `draft` works.
        is_draft_sampled: Drafts of the draft model are drawn at random and judged by rejection sampling. Which of them
            are verified must not depend on what was drawn, or the output is not distributed as the target's.
        draft_cost_ratio: Cost of a step of the draft model against the target's, before any was measured.
    """

    num_kv_cells: int
    max_num_seqs: int
    max_batch_tokens: int
    max_sequence_length: int
    can_trim: bool
    num_vocab: int
    can_share: bool = False
    max_drafts: int = 0
    has_ngrams: bool = True
    has_draft_model: bool = False
    is_draft_sampled: bool = False
    draft_cost_ratio: float = 0.0


@dataclass(slots=True)
class ScheduledSequence:
    """One sequence's share of a step.

    Attributes:
        seq_id: Of the sequence.
        start: Position of the first of `token_ids`; equals the tokens the sequence already has in the KV cache.
        token_ids: To be computed in this step, at least one.
        sample: Sample a token after the last of `token_ids`.
        picture: What `token_ids` stand for, all of it; it is not sampled. At most one in a step.
        num_drafts: The last so many of `token_ids` are drafts, which need `sample`: a token is sampled before each,
            too, as long as it agrees with the draft; drafts behind a disagreement leave the KV cache again.
    """

    seq_id: int
    start: int
    token_ids: Sequence[int]
    sample: bool
    num_drafts: int = 0
    picture: PromptPicture | None = None


@dataclass(slots=True)
class StepResult:
    """What came out of a step: one entry per sampled token, in the order scheduled.

    Attributes:
        token_ids: The sampled tokens.
        pieces: Their bytes, b"" for control tokens.
        is_eog: Whether the token ends a generation by the vocabulary's own word.
        logprobs: Where the request asked for them, else None.
        counts: Tokens of each sequence with `sample`: one, and one more for each accepted draft; fewer where
            `errors` has it.
        num_threads: CPU threads that shared the step; 0 for unknown.
        errors: Index among the sequences with `sample` to why it could not be sampled, e.g. a grammar at a dead end.
            What was sampled before counts; its other drafts have left the KV cache, as where one disagrees.
    """

    token_ids: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    is_eog: list[bool] = field(default_factory=list)
    logprobs: list[TokenLogprob | None] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    num_threads: int = 0
    errors: dict[int, SlipstreamError] = field(default_factory=dict)


class ModelRunner(Protocol):
    """Owns a model's context. Every call comes from the one engine thread, `interrupt` from any."""

    info: RunnerInfo

    def open_sequence(
        self,
        seq_id: int,
        sampling: SamplingParams,
        token_ids: Sequence[int],
        matcher: Matcher | None = None,
        pictures: tuple[PromptPicture, ...] = (),
        calls: CallGrammar | None = None,
    ) -> None:
        """Give `seq_id` a fresh sampler that has seen `token_ids` (the prompt). Does not touch the KV cache.

        With a `matcher`, which this takes along, only what it allows is sampled; `calls` keeps calls to their form.
        `pictures` are those of the prompt.

        Raises:
            InvalidRequestError: the sampling parameters cannot be used with this model (GrammarError among them).
        """

    def accept(self, seq_id: int, token_ids: Sequence[int]) -> None:
        """Tell the sampler of `seq_id` that these tokens came next without being sampled; they are still to compute.

        Raises:
            GrammarError: what the sequence may say does not allow them.
        """

    def close_sequence(self, seq_id: int) -> None:
        """Drop the sampler of `seq_id`. Its KV cells stay."""

    def trim(self, seq_id: int, num_tokens: int) -> bool:
        """Keep the first `num_tokens` tokens of `seq_id` in the KV cache, 0 to clear it.

        Returns:
            False if this memory cannot remove a part, or the cut would be within a picture; nothing has changed
            then. Clearing never fails.
        """

    def copy_prefix(self, source: int, seq_id: int, num_tokens: int) -> bool:
        """Let the empty sequence `seq_id` begin with the first `num_tokens` tokens of `source`.

        The cells belong to both from then on and are free again when neither holds them. Only with `info.can_share`.

        Returns:
            False if this memory no longer holds all that going on from there needs; nothing has changed then.
        """

    def save_state(self, seq_id: int, token_ids: Sequence[int]) -> bytes:
        """Return what memory holds of `seq_id`, all of it, whose tokens are `token_ids`.

        Raises:
            StateError: it cannot be had.
        """

    def load_state(self, seq_id: int, state: bytes) -> None:
        """Fill the empty sequence `seq_id` with what `save_state` has returned, in this process or another.

        Raises:
            StateError: it is of another model, build or kind of context, damaged, or there is no room.
        """

    def step(self, scheduled: Sequence[ScheduledSequence]) -> StepResult:
        """Compute one batch and sample.

        Raises:
            NoKVSlotError: no room; memory is as before the call.
            DecodeAborted: stopped by `interrupt`; sequences of this step must be rebuilt from their tokens.
            ComputeError: the backend failed; likewise.
        """

    def propose(
        self, seq_ids: Sequence[int], max_tokens: int, drafts: Sequence[Sequence[int]] = ()
    ) -> list[tuple[int, list[int]]]:
        """Draft tokens that may come next in each of these sequences, from what its text has said before.

        Args:
            seq_ids: Of the sequences.
            max_tokens: Most drafts of each.
            drafts: For each sequence, tokens that are taken for said; empty for none at all.

        Returns:
            Per sequence the length of the match the draft comes from and up to `max_tokens` tokens; (0, []) for none.
        """

    def draft(self, seq_ids: Sequence[int], max_rows: int) -> tuple[list[tuple[int, float]], int]:
        """Get one more token of the draft model for each sequence, behind those since its last step.

        Args:
            seq_ids: Of the sequences.
            max_rows: Most tokens the draft model computes in this call.

        Returns:
            Per sequence the token and the draft model's confidence, token -1 where there is none: the draft model is
            still reading the sequence's text, which it gets on with, or says what the target has no token for. And
            the tokens it has computed.

        Raises:
            DecodeError: the draft model failed; the target is not concerned.
        """

    def draft_lag(self, seq_id: int) -> int:
        """Return how many tokens of a sequence the draft model computes before its next draft."""

    def settle(self) -> None:
        """Wait for what still goes on in the background after a load: steps are quicker then. For measurements."""

    def interrupt(self) -> None:
        """Stop the running step soon. Any thread."""

    def close(self) -> None:
        """Free the context. Idempotent."""
