"""Compiles what an output must look like and follows outputs token by token. The only file that knows llguidance."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from slipstream.base.errors import GrammarError
from slipstream.engine.grammar_lead import with_lead

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llguidance import LLMatcher, LLTokenizer

    from slipstream.base.output_rules import Lead
    from slipstream.base.types import OutputFormat

_log = logging.getLogger(__name__)
MAX_FORMAT_CHARS = 1 << 18
MAX_SCHEMA_DEPTH = 64
_MAX_CACHED = 64
# Without a bound, a model that is not sure how to go on may put out blanks for ever.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"


class Vocabulary(Protocol):
    """What is asked of a model's tokens; safe from any thread. `_core.Model` is one."""

    @property
    def n_vocab(self) -> int:
        """Token ids are 0 … n_vocab - 1."""

    def token_to_piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of a token; those of control tokens with `special`."""

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a generation."""

    def is_control(self, token: int) -> bool:
        """Whether the token is no text."""

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Return the token ids of a text."""


def num_mask_words(num_vocab: int) -> int:
    """Return how many words of 32 bits a mask has: a bit for each token, and one for the end of `_Tokens`."""
    return (num_vocab + 1 + 31) // 32


class Matcher:
    """How far one output has come in its grammar. One thread at a time.

    Args:
        native: Of this output alone.
        eog_ids: Tokens that end a generation.
    """

    __slots__ = ("_eog_ids", "_native")

    def __init__(self, native: LLMatcher, eog_ids: frozenset[int]) -> None:
        self._native = native
        self._eog_ids = eog_ids

    @property
    def is_complete(self) -> bool:
        """Whether the output is whole and nothing can follow it."""
        return self._native.is_stopped() and not self._native.is_error()

    @property
    def can_end(self) -> bool:
        """Whether the output is whole, though more may follow."""
        return self._native.is_accepting()

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """Return how many of these tokens may come next, up to the first that may not or that ends the output."""
        for index, token_id in enumerate(token_ids):
            if token_id in self._eog_ids:
                token_ids = token_ids[:index]
                break
        return self._native.validate_tokens(list(token_ids)) if token_ids else 0

    def accept(self, token_ids: Iterable[int]) -> None:
        """Go on by tokens that were sampled under the masks.

        Raises:
            GrammarError: it cannot be followed any further, for it is too complex.
        """
        text_ids = [token_id for token_id in token_ids if token_id not in self._eog_ids]
        if self._native.try_consume_tokens(text_ids) < len(text_ids):
            message = "the output cannot be matched to its grammar any further"
            raise GrammarError(message)
        self._check()

    def write_masks(self, address: int, mask_bytes: int, draft_token_ids: Sequence[int]) -> None:
        """Write the mask of the next token, and one behind each draft, as far as drafts are allowed.

        Args:
            address: Of the first mask; the others follow.
            mask_bytes: Of each mask.
            draft_token_ids: Taken for said after each other.

        Raises:
            GrammarError: it cannot be followed any further. The masks are worth nothing then.
        """
        native, num_taken = self._native, 0
        while True:
            native.unsafe_compute_mask_ptr(address + num_taken * mask_bytes, mask_bytes)
            if num_taken == len(draft_token_ids):
                break
            token_id = draft_token_ids[num_taken]
            if token_id in self._eog_ids or not native.try_consume_tokens([token_id]):
                break
            num_taken += 1
        if num_taken:
            native.rollback(num_taken)
        self._check()

    def _check(self) -> None:
        if self._native.is_error():
            problem = _first_part(self._native.get_error())
            message = f"the output cannot be matched to its grammar any further: {problem}"
            raise GrammarError(message)


class GrammarCompiler:
    """Makes matchers for the vocabulary of one model. Any thread; compiling runs one at a time.

    Args:
        vocabulary: Of the model. It is read at the first call, which takes about half a second for 150,000 tokens.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._eog_ids: frozenset[int] = frozenset()
        self._compiled: OrderedDict[tuple[str, str, Lead | None], LLMatcher] = OrderedDict()

    def matcher(self, output_format: OutputFormat, lead: Lead | None = None) -> Matcher:
        """Return a matcher at the start of the format's grammar. Bounded in time by limits on the grammar.

        Args:
            output_format: Of the content.
            lead: What may come before the content, or in its place.

        Raises:
            GrammarError: the format is none, or uses what cannot be served; the message names the keyword.
        """
        key = (output_format.kind, output_format.value, lead)
        with self._lock:
            compiled = self._compiled.get(key)
            if compiled is None:
                compiled = self._compile(output_format, lead)
                self._compiled[key] = compiled
                if len(self._compiled) > _MAX_CACHED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            return Matcher(compiled.deep_copy(), self._eog_ids)

    def _compile(self, output_format: OutputFormat, lead: Lead | None) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        if self._tokenizer is None:
            self._tokenizer = self._read_vocabulary()
        try:
            grammar = _grammar(output_format)
            if lead is not None:
                grammar = with_lead(grammar, lead, self._vocabulary)
            limits = LLParserLimits(verbose_errors=False)
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        except ValueError as error:
            raise _refusal(output_format, str(error)) from error
        if matcher.is_error():
            raise _refusal(output_format, matcher.get_error())
        return matcher

    def _read_vocabulary(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        begin_s = time.monotonic()
        tokens = _Tokens(self._vocabulary)
        self._eog_ids = frozenset(tokens.eog_ids)
        tokenizer = LLTokenizer(tokens, eos_token=tokens.eog_ids or [tokens.eos_token_id])  # type: ignore[arg-type]  # duck-typed
        _log.debug("read the vocabulary for grammars in %.2f s", time.monotonic() - begin_s)
        return tokenizer


class _Tokens:
    """A vocabulary as llguidance wants it, and one token more: the end, for a model that has no word for it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        ids = range(vocabulary.n_vocab)
        self.tokens = [vocabulary.token_to_piece(i, special=True) for i in ids]
        self.eog_ids = [i for i in ids if vocabulary.is_eog(i)]
        self.special_token_ids = [i for i in ids if vocabulary.is_control(i)]
        self.tokens.append(b"<end>")
        self.special_token_ids.append(vocabulary.n_vocab)
        self.eos_token_id = self.eog_ids[0] if self.eog_ids else vocabulary.n_vocab

    def __call__(self, text: str | bytes) -> list[int]:
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self._vocabulary.tokenize(text, add_special=False, parse_special=False)


def _grammar(output_format: OutputFormat) -> str:
    """Return llguidance's form of a format.

    Raises:
        GrammarError, ValueError: it is none.
    """
    from llguidance import LLMatcher

    kind, value = output_format.kind, output_format.value
    if len(value) > MAX_FORMAT_CHARS:
        problem = f"it has {len(value)} characters; at most {MAX_FORMAT_CHARS} are allowed"
        raise _refusal(output_format, problem)
    if kind == "json_object":
        value, kind = '{"type": "object"}', "json_schema"
    if kind == "json_schema":
        _check_depth(output_format, value)
        return LLMatcher.grammar_from_json_schema(
            value, defaults={"whitespace_pattern": _WHITESPACE}
        )
    if kind == "regex":
        return LLMatcher.grammar_from_regex(value)
    if kind == "choice":
        choices = json.loads(value)
        if not choices or not all(isinstance(choice, str) and choice for choice in choices):
            raise _refusal(output_format, "choices must be a list of strings that are not empty")
        literals = (json.dumps(choice, ensure_ascii=False) for choice in choices)
        return LLMatcher.grammar_from_lark("start: " + " | ".join(literals))
    if kind == "lark":
        return LLMatcher.grammar_from_lark(value)
    raise _refusal(output_format, f"there is no output format {kind!r}")


def _check_depth(output_format: OutputFormat, schema: str) -> None:
    """Refuse deep nesting before anything recurses over it. Brackets in strings count, too, if they are unbalanced."""
    depth = deepest = 0
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', schema):
        depth += (bracket in "[{") - (bracket in "]}")
        deepest = max(deepest, depth)
    if deepest > MAX_SCHEMA_DEPTH:
        problem = f"it is nested {deepest} deep; at most {MAX_SCHEMA_DEPTH} are allowed"
        raise _refusal(output_format, problem)


def _refusal(output_format: OutputFormat, problem: str) -> GrammarError:
    """Return the error about a format that cannot be used."""
    problem = _first_part(problem)
    problem = re.sub(
        r"Unimplemented keys: \[(.*?)\]", r"keywords that are not supported: \1", problem
    )
    param = output_format.name or "output_format"
    return GrammarError(f"the {output_format.kind} cannot be used: {problem}", param=param)


def _first_part(text: str) -> str:
    """Return an error's text without the state of the parser and the stack it comes with."""
    return re.split(r"\n<(?:state|backtrace|grammar)>", text, maxsplit=1)[0].strip()
