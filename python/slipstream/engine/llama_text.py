"""What a model loaded by llama.cpp knows about text. Knows no context; everything here is safe from any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream.base.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream import _core


class LlamaText:
    """The vocabulary of `_model`, which the class that inherits this one owns."""

    _model: _core.Model

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Turn text into token ids.

        Args:
            text: Any text.
            add_special: Add BOS and EOS where the model wants them.
            parse_special: Read the names of special tokens as those tokens.

        Returns:
            Token ids.

        Raises:
            InvalidRequestError: the text holds half a surrogate pair and is no UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            message = f"the text is not valid Unicode: {error.reason} at character {error.start}"
            raise InvalidRequestError(message, param="prompt") from error
        return self._model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """Turn token ids into bytes, control tokens left out."""
        return self._model.detokenize(list(token_ids), unparse_special=False)

    def token_piece(self, token_id: int, *, special: bool = False) -> bytes:
        """Return the bytes one token stands for; with `special`, the spelling of control tokens, too."""
        return self._model.token_to_piece(token_id, special=special)

    @property
    def bos_text(self) -> str:
        """The spelling of the BOS token, "" if there is none or the model does not want one."""
        return self._spelling("bos")

    @property
    def eos_text(self) -> str:
        """The spelling of the EOS token, "" if there is none."""
        return self._spelling("eos")

    @property
    def adds_bos(self) -> bool:
        """Whether tokenizing with add_special puts a BOS in front."""
        return self._model.add_bos

    def _spelling(self, role: str) -> str:
        token_id = self._model.special_tokens[role]
        return "" if token_id is None else self._model.token_text(token_id)

    def chat_template_source(self) -> str | None:
        """Return the model's own Jinja chat template, None if it has none."""
        return self._model.chat_template() or None

    def metadata(self) -> dict[str, str]:
        """Return the file's scalar metadata as text."""
        return self._model.metadata()

    @property
    def description(self) -> str:
        """Architecture, size and quantization in a few words."""
        return self._model.description
