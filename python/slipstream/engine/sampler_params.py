"""From SamplingParams to the native core's struct, field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream import _core
from slipstream.base.errors import InvalidRequestError
from slipstream.base.output_rules import ThinkingTags

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipstream.base.output_rules import CallGrammar
    from slipstream.base.sampling import SamplingParams

_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "repeat_last_n",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)


def to_native(params: SamplingParams) -> _core.SamplerParams:
    """Make the native struct; what ends a request (max_tokens, stop …) has no place there.

    Args:
        params: A seed of None becomes 0: whoever wants chance draws one first.

    Returns:
        A new struct.

    Raises:
        InvalidRequestError: a text holds half a surrogate pair and is no UTF-8.
    """
    _check_text("grammar", params.grammar or "")
    _check_text("dry_sequence_breakers", "".join(params.dry_sequence_breakers))
    native = _core.SamplerParams()
    for name in _FIELDS:
        setattr(native, name, getattr(params, name))
    native.dry_sequence_breakers = list(params.dry_sequence_breakers)
    native.logit_bias = [(token_id, float(bias)) for token_id, bias in params.logit_bias.items()]
    native.seed = params.seed or 0
    native.grammar = params.grammar or ""
    return native


def add_calls(
    native: _core.SamplerParams, calls: CallGrammar, tokenize: Callable[..., list[int]]
) -> None:
    """Put the grammar of tool calls into the native struct.

    Args:
        native: From `to_native`.
        calls: The grammar.
        tokenize: See ModelRunner; of the same model.
    """
    native.grammar = calls.text
    if calls.triggers:
        tags = calls.thinking or ThinkingTags()
        native.set_triggers(list(calls.triggers), tags.start, list(tags.ends), tags.is_open)
    else:
        native.grammar_prefix = tokenize(calls.prefix, add_special=False, parse_special=True)


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{name} is not valid Unicode: {error.reason} at character {error.start}"
        raise InvalidRequestError(message, param=name) from error
