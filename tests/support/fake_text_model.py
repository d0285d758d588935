"""A FakeRunner that also knows text, one token per byte, and a prompt format without templates."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import TemplateError
from slipstream.base.types import ModelInstanceInfo
from slipstream.chat.plan import PromptPlan
from slipstream.runtime.host import EngineHost
from slipstream.runtime.prompts import ChosenFormat
from tests.support.fake_runner import VOCAB, FakeRunner, text_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.types import GenerationSpec


@dataclass
class FakeTextModel(FakeRunner):
    """Its BOS is "^", added by add_special where `has_bos`."""

    has_bos: bool = True
    pictures: Any = None
    template: str | None = None
    tokenizing: threading.Event = field(default_factory=threading.Event)
    may_tokenize: threading.Event | None = None  # tokenizing waits for it

    @property
    def bos_text(self) -> str:
        return "^" if self.has_bos else ""

    @property
    def eos_text(self) -> str:
        return "$"

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        assert parse_special
        self.tokenizing.set()
        if self.may_tokenize is not None:
            assert self.may_tokenize.wait(20), "nobody let this prompt go on"
        return text_tokens(("^" if add_special and self.has_bos else "") + text)

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        return b"".join(VOCAB[token] for token in token_ids)

    def token_piece(self, token_id: int, *, special: bool = False) -> bytes:
        return VOCAB[token_id]

    def chat_template_source(self) -> str | None:
        return self.template


class FakeFormat:
    """Renders "role:content;" after `prefix`."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix

    def plan(self, spec: GenerationSpec, messages: Sequence[dict[str, Any]]) -> PromptPlan:
        if any(message["role"] == "evil" for message in messages):
            raise TemplateError("no evil", param="messages")
        text = "".join(f"{message['role']}:{message['content']};" for message in messages)
        tail = "assistant:" if spec.add_generation_prompt else ""
        options = spec.template_options or ""
        prompt = f"{self.prefix}{text}{len(spec.tools or [])}{options}{tail}"
        return PromptPlan(prompt)


def fake_info(runner: FakeRunner, max_waiting: int = 8) -> ModelInstanceInfo:
    """Describe a FakeRunner as a loaded model."""
    return ModelInstanceInfo(
        path="/fake.gguf",
        context_length=runner.info.num_kv_cells,
        max_sequence_length=runner.info.max_sequence_length,
        parallel=runner.info.max_num_seqs,
        max_waiting=max_waiting,
        num_vocab=runner.info.num_vocab,
    )


def fake_host(
    runner: FakeTextModel, *, max_waiting: int = 8, chosen: ChosenFormat | None = None
) -> EngineHost:
    """Host a fake model."""
    chosen = chosen or ChosenFormat(FakeFormat(), "model")
    return EngineHost(runner, chosen, fake_info(runner, max_waiting))
