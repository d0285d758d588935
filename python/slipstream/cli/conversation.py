"""The conversation of `slipstream chat`: turns, settings and slash commands. Knows neither a terminal nor a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipstream.base.types import Reasoning, Usage

HELP = """\
/help         show this
/reset        forget the conversation; the system prompt stays
/system TEXT  set the system prompt; without TEXT, remove it
/stats        token counts and speed of the last answer
/exit         leave; so does Ctrl-D
Ctrl-C        stop the answer"""


@dataclass(slots=True)
class Conversation:
    """Turns of one chat.

    Attributes:
        system: System prompt, empty for none.
        reasoning: How much the model thinks; its own default if None.
        turns: User and assistant messages in OpenAI's shape.
        last_usage: Of the last answer that came to its end.
    """

    system: str = ""
    reasoning: Reasoning | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    last_usage: Usage | None = None

    def messages(self, text: str) -> list[dict[str, Any]]:
        """Return what to send to ask `text` now. Changes nothing."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.turns, {"role": "user", "content": text}]

    def record(self, text: str, answer: str, usage: Usage | None) -> None:
        """Add a question and what was answered, whole or interrupted."""
        self.turns.append({"role": "user", "content": text})
        self.turns.append({"role": "assistant", "content": answer})
        self.last_usage = usage or self.last_usage

    def command(self, line: str) -> str | None:
        """Carry out a line that starts with a slash.

        Returns:
            What to show; None to leave.
        """
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        match name:
            case "/exit" | "/quit" | "/bye":
                return None
            case "/help" | "/?":
                return HELP
            case "/reset" | "/clear":
                self.turns.clear()
                self.last_usage = None
                return "The conversation starts anew."
            case "/system":
                self.system = argument
                return "The system prompt is set." if argument else "There is no system prompt now."
            case "/stats":
                return describe(self.last_usage)
        return f"There is no command {name}; /help lists them. A space before the slash sends it as a message."


def describe(usage: Usage | None) -> str:
    """Return token counts and speeds in one line."""
    if usage is None:
        return "There is no answer yet."
    fresh = usage.num_prompt_tokens - usage.num_cached_tokens
    parts = [
        f"prompt {usage.num_prompt_tokens} tokens ({usage.num_cached_tokens} cached{_speed(fresh, usage.prefill_s)})",
        # The first token comes with the prompt; the clock of decoding starts after it.
        f"answer {usage.num_output_tokens} tokens"
        f" ({usage.decode_s:.2f} s{_speed(usage.num_output_tokens - 1, usage.decode_s)})",
        f"first token after {usage.queue_s + usage.prefill_s:.2f} s",
    ]
    return ", ".join(parts)


def _speed(num_tokens: int, seconds: float) -> str:
    return f", {num_tokens / seconds:.1f} tokens/s" if num_tokens > 0 and seconds > 0 else ""
