"""Whether a model can draft for a target, before any weights are loaded: vocabulary, BOS and EOS, memory, cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import DraftModelError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.models.gguf import GgufHeader
    from slipstream.native import Model

_SPECIALS = ("bos", "eos", "eot")
_NUM_SHOWN = 8


def check_pair(target: str, draft: str) -> dict[str, Any]:
    """Compare a pair by headers and vocabularies.

    Args:
        target: Path of the target.
        draft: Path of the draft model.

    Returns:
        Counts of shared and different tokens with the first differences, `warnings`, and the predicted cost ratio c:
        bytes a token of the draft model reads to those the target reads.

    Raises:
        DraftModelError: it cannot draft; the message says why.
        ModelLoadError: a file is no usable model.
    """
    from slipstream.models.gguf import check_model_file
    from slipstream.native import Model, compare_vocabularies

    headers = [check_model_file(target), check_model_file(draft)]
    models = [Model(target, vocab_only=True), Model(draft, vocab_only=True)]
    try:
        vocab_map = compare_vocabularies(*models)
        return {
            "num_target_tokens": vocab_map.n_target,
            "num_draft_tokens": vocab_map.n_draft,
            "num_shared": vocab_map.n_shared,
            "num_different": vocab_map.n_different,
            "differences": [
                {
                    "id": token,
                    "target": ours.decode("utf-8", "replace"),
                    "draft": theirs.decode("utf-8", "replace"),
                }
                for token, ours, theirs in vocab_map.differences[:_NUM_SHOWN]
            ],
            "is_mapped": not vocab_map.is_identical,
            "warnings": warnings_of(headers, models),
            "cost_ratio": read_bytes(headers[1]) / read_bytes(headers[0]),
        }
    finally:
        for model in models:
            model.close()


def read_bytes(header: GgufHeader) -> int:
    """Return the bytes of weights one token reads: all but the embedding table, unless that is the output, too."""
    tensors = header.tensors
    total = sum(tensor.size_bytes for tensor in tensors.values())
    embedding = tensors.get("token_embd.weight")
    if embedding is not None and "output.weight" in tensors:
        total -= embedding.size_bytes
    return max(1, total)


def warnings_of(headers: Sequence[GgufHeader], models: Sequence[Model]) -> list[str]:
    """Return what does not forbid drafting and costs acceptance or context."""
    target, draft = models
    found = []
    ours, theirs = target.special_tokens, draft.special_tokens
    for role in _SPECIALS:
        if ours[role] != theirs[role]:
            found.append(
                f"{role} is {ours[role]} in the target and {theirs[role]} in the draft model"
            )
    if target.add_bos != draft.add_bos:
        want, other = ("target", "draft model") if target.add_bos else ("draft model", "target")
        found.append(f"the {want} begins a text with BOS and the {other} does not")
    if target.metadata().get("tokenizer.ggml.pre") != draft.metadata().get("tokenizer.ggml.pre"):
        found.append("the two split text into words by different rules (tokenizer.ggml.pre)")
    if 0 < headers[1].context_length < headers[0].context_length:
        found.append(
            f"the draft model was trained for {headers[1].context_length} tokens, the target for "
            f"{headers[0].context_length}: it guesses badly beyond that"
        )
    if (target.chat_template() == "") != (draft.chat_template() == ""):
        found.append(
            "only one of the two has a chat template: a base model drafts badly for a chat"
        )
    return found


def rank_candidates(target: str, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Rank models that could draft for a target.

    Those that share its whole vocabulary come first, then by cost: what drafts right, only `bench pair` tells.

    Args:
        target: Path of the target.
        paths: Of models; the target itself is left out.

    Returns:
        For each: `path`, `size_bytes`, what `check_pair` tells, `break_even` (the least acceptance at which it could
        pay if verifying cost no more than a plain step), and `refused` with the reason, None where it can draft.

    Raises:
        ModelLoadError: the target is no usable model.
    """
    from slipstream.models.gguf import check_model_file

    check_model_file(target)
    found = []
    for path in paths:
        if Path(path).samefile(target):
            continue
        entry: dict[str, Any] = {"path": path, "size_bytes": 0, "refused": None}
        try:
            entry["size_bytes"] = Path(path).stat().st_size
            entry.update(check_pair(target, path))
            entry["break_even"] = entry["cost_ratio"]
            if entry["cost_ratio"] >= 1:
                entry["refused"] = "it costs at least as much as the target"
        except (DraftModelError, ModelLoadError, OSError) as error:
            entry["refused"] = str(error)
        found.append(entry)
    return sorted(
        found,
        key=lambda e: (
            e["refused"] is not None,
            bool(e.get("is_mapped")),
            e.get("cost_ratio", 1e9),
        ),
    )
