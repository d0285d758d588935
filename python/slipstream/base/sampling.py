"""How tokens are chosen and when a request ends."""

from __future__ import annotations

import math

import msgspec

from slipstream.base.limits import MAX_SEED
from slipstream.base.ranges import check_ranges, out_of_range

# name -> (lowest, highest) allowed, both included
_FLOAT_RANGES = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "dry_multiplier": (0.0, 100.0),
    "dry_base": (1.0, 100.0),
    "repeat_penalty": (0.01, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "mirostat_tau": (0.0, 100.0),
    "mirostat_eta": (0.0, 100.0),
    "top_n_sigma": (-1.0, 100.0),
}
_INT_RANGES = {
    "max_tokens": (0, 2**31 - 1),
    "top_k": (0, 2**31 - 1),
    "repeat_last_n": (-1, 2**20),
    "dry_allowed_length": (0, 2**20),
    "dry_penalty_last_n": (-1, 2**20),
    "mirostat": (0, 2),
    "seed": (0, MAX_SEED),
    "logprobs": (0, 20),
}
MAX_STOP_STRINGS = 64
MAX_STOP_STRING_CHARS = 1024
MAX_LOGIT_BIAS = 4096
MAX_GRAMMAR_CHARS = 1 << 20


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How tokens are chosen and when a request ends. Defaults are llama.cpp's.

    Attributes:
        max_tokens: Most tokens to generate; None means until the context is full.
        temperature: 0 picks the most likely token, whatever the filters say.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens with this much probability; 1 keeps all.
        min_p: Keep tokens with at least this share of the most likely one's probability; 0 keeps all.
        typical_p: Locally typical sampling (arXiv 2202.00666); 1 is off.
        top_n_sigma: Keep logits within n standard deviations of the highest (arXiv 2411.07641); -1 is off.
        xtc_probability: Chance of dropping all but the least likely token above `xtc_threshold`.
        xtc_threshold: See `xtc_probability`.
        dry_multiplier: Strength of the DRY repetition penalty; 0 is off.
        dry_base: Its growth per repeated token.
        dry_allowed_length: Repetitions up to this length are free.
        dry_penalty_last_n: Tokens it looks back; -1 is the whole context.
        dry_sequence_breakers: Strings that end a repetition.
        repeat_penalty: Divides the logits of recent tokens; 1 is off.
        presence_penalty: Subtracted once from the logits of recent tokens.
        frequency_penalty: Subtracted per occurrence.
        repeat_last_n: Tokens the three penalties look back; -1 is the whole context, 0 switches them off.
        mirostat: 0 off, 1 or 2 for the versions of arXiv 2007.14966; replaces the filters.
        mirostat_tau: Its target surprise in bits.
        mirostat_eta: Its learning rate.
        logit_bias: Token id to what is added to its logit.
        seed: Of this request's random numbers; None draws one.
        grammar: GBNF text every output must match.
        stop: Strings that end the output; they are not part of it.
        stop_token_ids: Token ids that end the output.
        ignore_eos: Go on after an end-of-generation token.
        logprobs: Log-probabilities of this many top tokens with each token; None for none at all.

    Raises:
        InvalidRequestError: a value is out of its range; `param` names it.
    """

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    grammar: str | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, _FLOAT_RANGES, (int, float))
        check_ranges(self, _INT_RANGES, optional=("max_tokens", "seed", "logprobs"))
        if len(self.stop) > MAX_STOP_STRINGS:
            out_of_range("stop", f"{len(self.stop)} strings", 0, MAX_STOP_STRINGS)
        for stop in self.stop:
            if not isinstance(stop, str) or not 1 <= len(stop) <= MAX_STOP_STRING_CHARS:
                out_of_range("stop", "a string of another length", 1, MAX_STOP_STRING_CHARS)
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            out_of_range("logit_bias", f"{len(self.logit_bias)} entries", 0, MAX_LOGIT_BIAS)
        for bias in self.logit_bias.values():
            if math.isnan(bias) or bias == math.inf:
                out_of_range("logit_bias", bias, -math.inf, 3.4e38)
        if self.grammar is not None and len(self.grammar) > MAX_GRAMMAR_CHARS:
            out_of_range("grammar", f"{len(self.grammar)} characters", 0, MAX_GRAMMAR_CHARS)
