"""From a GenerationSpec to token ids: render, tokenize, choose the prompt format. Knows no engine and no threads."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from slipstream.base.errors import InvalidRequestError, TemplateError
from slipstream.base.output_rules import NO_LEAD, Lead
from slipstream.runtime.images import take_images
from slipstream.runtime.overflow import (
    check_policy,
    room_for_prompt,
    shorten_messages,
    shorten_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.load_config import LoadConfig
    from slipstream.base.output_rules import CallGrammar, ThinkingTags
    from slipstream.base.types import GenerationSpec
    from slipstream.chat.output_parser import OutputParser
    from slipstream.chat.plan import PromptFormat, PromptPlan
    from slipstream.engine.pictures import PictureReader, PromptPicture

_log = logging.getLogger(__name__)
_CHATML_END = "<|im_end|>"


class Tokenizer(Protocol):
    """What a model knows about text; safe from any thread. LlamaRunner is one."""

    @property
    def bos_text(self) -> str:
        """Spelling of the BOS token, "" if there is none."""

    @property
    def eos_text(self) -> str:
        """Spelling of the EOS token, "" if there is none."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the token ids of a text."""

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """Return the text of token ids."""

    def token_piece(self, token_id: int, *, special: bool = False) -> bytes:
        """Return the bytes one token stands for; with `special`, the spelling of control tokens, too."""

    def chat_template_source(self) -> str | None:
        """Return the model's own template, None if it has none."""


@dataclass(slots=True, frozen=True)
class ChosenFormat:
    """A prompt format and where it came from.

    Attributes:
        format: Renders messages.
        source: config, affixes, model or fallback.
        stop: Strings that end an answer besides the model's own end tokens.
    """

    format: PromptFormat
    source: str
    stop: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class Prompt:
    """A prompt ready for the engine.

    Attributes:
        token_ids: At least one.
        text: What `echo_prompt` sends back; "" unless asked for.
        stop: Strings that end the answer; empty for prompts that are no chat.
        pictures: In it; not encoded yet.
        calls: What keeps calls of tools to their form; None where nothing does.
        thinking: Where the answer may think; None where it does not, or where nobody wants to know.
        lead: See PromptPlan.
        end_thinking: (id, bytes) of the tokens that end thinking.
        preserved: Control tokens whose text belongs to the answer, and that text.
        parser: Splits the answer; None where all of it is content.
    """

    token_ids: list[int]
    text: str
    stop: tuple[str, ...] = ()
    pictures: tuple[PromptPicture, ...] = ()
    calls: CallGrammar | None = None
    thinking: ThinkingTags | None = None
    lead: Lead | None = NO_LEAD
    end_thinking: tuple[tuple[int, bytes], ...] = ()
    preserved: dict[int, bytes] = field(default_factory=dict)
    parser: OutputParser | None = None


def choose_format(tokenizer: Tokenizer, config: LoadConfig) -> ChosenFormat:
    """Pick the prompt format: the one of the config, else the model's own, else ChatML.

    Raises:
        TemplateError: the format of the config does not parse, or it names two.
    """
    # These load the native core.
    from slipstream.chat.role_affixes import RoleAffixes
    from slipstream.chat.template import CHATML, ChatTemplate

    if config.chat_template is not None and config.role_affixes is not None:
        message = "chat_template and role_affixes exclude each other; give one of them"
        raise TemplateError(message, param="role_affixes")
    if config.role_affixes is not None:
        return ChosenFormat(RoleAffixes(config.role_affixes), "affixes")
    bos, eos = tokenizer.bos_text, tokenizer.eos_text
    if config.chat_template is not None:
        return ChosenFormat(ChatTemplate(config.chat_template, bos, eos), "config")
    source = tokenizer.chat_template_source()
    if source is not None:
        try:
            return ChosenFormat(ChatTemplate(source, bos, eos), "model")
        except TemplateError as error:
            _log.warning("the model's chat template does not parse: %s", error)
    _log.warning("the model has no usable chat template; chats use ChatML")
    return ChosenFormat(ChatTemplate(CHATML, bos, eos), "fallback", (_CHATML_END,))


class PromptBuilder:
    """Makes prompts for one model. Safe from any thread.

    Args:
        tokenizer: Of the model.
        chosen: How messages are rendered.
        limit: Tokens that prompt and output can have together.
        pictures: For images; None for a model that takes none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chosen: ChosenFormat,
        limit: int,
        pictures: PictureReader | None = None,
    ) -> None:
        self._pictures = pictures
        self._tokenizer = tokenizer
        self._chosen = chosen
        self._limit = limit

    def build(self, spec: GenerationSpec) -> Prompt:
        """Return the prompt of a spec. Linear in its length; the range of given token ids is the engine's to check.

        One that does not fit is shortened if the spec's `context_overflow` says so; else the engine refuses it.

        Raises:
            InvalidRequestError: not exactly one form of prompt, an empty one and the model has no BOS token, or a
                tool choice or reasoning there is not.
            TemplateError: the template refuses the messages.
        """
        check_policy(spec.context_overflow)
        prompt = self._build(spec)
        if spec.context_overflow == "error" or len(prompt.token_ids) < self._limit:
            return prompt
        room = room_for_prompt(spec, self._limit)
        if spec.messages is not None:
            messages = shorten_messages(
                spec.messages,
                spec.context_overflow,
                lambda some: len(self._chat(spec, some).token_ids) <= room,
            )
            prompt = self._chat(spec, messages)
        if len(prompt.token_ids) > room and not prompt.pictures:  # the engine refuses those
            token_ids = shorten_tokens(prompt.token_ids, room, spec.context_overflow)
            prompt = replace(prompt, token_ids=token_ids)
        return prompt

    def _build(self, spec: GenerationSpec) -> Prompt:
        forms = (spec.messages, spec.prompt, spec.prompt_token_ids)
        if sum(form is not None for form in forms) != 1:
            message = "give exactly one of messages, prompt and prompt_token_ids"
            raise InvalidRequestError(message, param="prompt")
        if spec.messages is not None:
            return self._chat(spec, spec.messages)
        if spec.prompt is not None:
            token_ids = self._tokenizer.tokenize(spec.prompt, add_special=True, parse_special=True)
            text = spec.prompt if spec.echo_prompt else ""
            return Prompt(token_ids or self._only_bos(), text)
        token_ids = spec.prompt_token_ids or self._only_bos()
        text = ""
        if spec.echo_prompt and spec.prompt_token_ids:
            text = self._tokenizer.detokenize(token_ids).decode("utf-8", "replace")
        return Prompt(token_ids, text)

    def _chat(self, spec: GenerationSpec, messages: Sequence[dict[str, Any]]) -> Prompt:
        chosen, tokenizer = self._chosen, self._tokenizer
        if not messages:
            message = "messages is empty; it must hold at least one message"
            raise InvalidRequestError(message, param="messages")
        flat, images = take_images(messages, self._pictures.marker if self._pictures else "")
        if images and self._pictures is None:
            message = (
                "this model takes no images, only text; load a vision model with its projector (mmproj) "
                "beside it"
            )
            raise InvalidRequestError(message, param="messages")
        plan = chosen.format.plan(spec, flat)
        text = plan.text
        bos = tokenizer.bos_text
        has_bos = bool(bos) and text.startswith(bos)
        echo = text if spec.echo_prompt else ""
        stop = (*chosen.stop, *plan.stop)
        if images and self._pictures is not None:
            token_ids, pictures = self._pictures.tokenize(text, images, add_special=not has_bos)
            if pictures and pictures[-1].end == len(token_ids):
                message = "the prompt ends with an image; text has to follow it"
                raise InvalidRequestError(message, param="messages")
            return self._with_form(Prompt(token_ids, echo, stop, pictures), plan)
        token_ids = tokenizer.tokenize(text, add_special=not has_bos, parse_special=True)
        return self._with_form(Prompt(token_ids or self._only_bos(), echo, stop), plan)

    def _with_form(self, prompt: Prompt, plan: PromptPlan) -> Prompt:
        """Add what the engine needs to know of the answer's form."""
        if plan.parser is None:
            return prompt
        end = plan.thinking.ends[0] if plan.thinking is not None else ""
        piece_of = self._tokenizer.token_piece
        return replace(
            prompt,
            calls=plan.calls,
            thinking=plan.thinking,
            lead=plan.lead,
            end_thinking=tuple((t, piece_of(t, special=True)) for t in self._token_ids(end)),
            preserved=self._control_tokens(plan.preserved),
            parser=plan.parser,
        )

    def _token_ids(self, text: str) -> list[int]:
        return self._tokenizer.tokenize(text, add_special=False, parse_special=True) if text else []

    def _control_tokens(self, texts: Sequence[str]) -> dict[int, bytes]:
        """Return the control tokens that these texts are made of, with their spelling."""
        found = {}
        for text in texts:
            for token_id in self._token_ids(text):
                piece = self._tokenizer.token_piece(token_id, special=True)
                if piece and not self._tokenizer.token_piece(token_id):
                    found[token_id] = piece
        return found

    def _only_bos(self) -> list[int]:
        """Return the prompt that stands for an empty text."""
        bos = self._tokenizer.bos_text
        token_ids = (
            self._tokenizer.tokenize(bos, add_special=False, parse_special=True) if bos else []
        )
        if not token_ids:
            message = "the prompt is empty and this model has no token to begin with; give at least one character"
            raise InvalidRequestError(message, param="prompt")
        return token_ids
