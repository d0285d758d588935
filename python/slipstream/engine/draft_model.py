"""Tells whether one model can draft for another, and why not where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from slipstream.base.errors import DraftModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Below this share of the smaller vocabulary, most guesses would be lost for want of a token.
_LEAST_SHARED = 0.25
_NUM_SHOWN = 3


class NativeModel(Protocol):
    """What is asked of a loaded model; `_core.Model` is one."""

    @property
    def path(self) -> str:
        """Its file."""

    @property
    def is_recurrent(self) -> bool:
        """Whether it keeps a running state."""

    @property
    def is_hybrid(self) -> bool:
        """Whether some of its layers do."""

    @property
    def has_encoder(self) -> bool:
        """Whether it has an encoder."""

    def metadata(self) -> Mapping[str, str]:
        """Return the scalars of its file as text."""


class ComparedVocabularies(Protocol):
    """How two vocabularies agree; `_core.VocabMap` is one."""

    @property
    def n_target(self) -> int:
        """Tokens of the target."""

    @property
    def n_draft(self) -> int:
        """Tokens of the draft model."""

    @property
    def n_shared(self) -> int:
        """Draft tokens with an equal in the target."""

    @property
    def differences(self) -> Sequence[tuple[int, bytes, bytes]]:
        """The first ids that are spelled differently."""


def check_memories(target: NativeModel, draft: NativeModel) -> None:
    """Check that both models go on token by token, and that rejected drafts can leave their memories.

    Raises:
        DraftModelError: an encoder, or a running state as recurrent and hybrid models keep, which cannot go back.
    """
    for model, role in ((target, "be drafted for"), (draft, "draft")):
        reason = ""
        metadata = model.metadata()
        if model.has_encoder or (
            metadata.get(f"{metadata.get('general.architecture')}.attention.causal") == "false"
        ):
            reason = "it is no decoder"
        elif model.is_recurrent or model.is_hybrid:
            reason = "it keeps a running state that rejected drafts cannot leave"
        if reason:
            message = f"{model.path} cannot {role}: {reason}"
            raise DraftModelError(message, path=draft.path)


def check_vocabularies(
    vocab_map: ComparedVocabularies, target: NativeModel, draft: NativeModel
) -> None:
    """Check that the draft model can say enough of what the target can.

    Raises:
        DraftModelError: too few tokens are spelled alike; the message has the counts and the first differences.
    """
    smaller = min(vocab_map.n_target, vocab_map.n_draft)
    if vocab_map.n_shared >= _LEAST_SHARED * smaller:
        return
    shown = "; ".join(
        f"id {token} is {ours!r} there and {theirs!r} here"
        for token, ours, theirs in vocab_map.differences[:_NUM_SHOWN]
    )
    message = (
        f"{draft.path} cannot draft for {target.path}: only {vocab_map.n_shared} of its {vocab_map.n_draft} tokens "
        f"are among the target's {vocab_map.n_target} ({shown}); use a smaller model of the same family"
    )
    raise DraftModelError(message, path=draft.path)
