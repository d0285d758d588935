"""An embedding or ranking model on llama.cpp: token ids in, one vector for each text out, several texts in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slipstream import _core
from slipstream.base.errors import InvalidBatchError
from slipstream.base.load_config import DEFAULT_CONTEXT_LENGTH
from slipstream.engine.llama_runner import forward_native_log
from slipstream.engine.llama_text import LlamaText

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.base.load_config import LoadConfig

MAX_TEXTS = 32  # in one call; short ones gain little beyond
_PROBE = np.zeros(1, dtype=np.int32)


class LlamaEmbedder(LlamaText):
    """A model and a context that pools. One thread computes; text questions are safe from any.

    Args:
        model: Loaded; its file must have been checked.
        config: Sizes the context.
        has_pooling: The model says how its tokens become one vector; their mean is taken otherwise.

    Attributes:
        num_vocab: Token ids are 0 … num_vocab - 1.
        max_tokens: Most tokens of a call, and of one text.
        max_texts: Most texts of a call.

    Raises:
        ContextCreateError: the machine or the model refuses the context.
    """

    def __init__(self, model: _core.Model, config: LoadConfig, *, has_pooling: bool) -> None:
        self._model = model
        trained = model.n_ctx_train or DEFAULT_CONTEXT_LENGTH
        wanted = config.context_length or DEFAULT_CONTEXT_LENGTH
        self.max_tokens = min(trained, wanted)
        self.max_texts = min(MAX_TEXTS, self.max_tokens)
        self.num_vocab = model.n_vocab
        try:
            self._context = _core.Context(
                model,
                n_ctx=self.max_tokens,
                n_batch=self.max_tokens,  # a text is pooled within one batch
                n_seq_max=self.max_texts,
                n_threads=config.threads,
                flash_attention=config.flash_attention,
                rope_freq_base=config.rope_freq_base,
                rope_freq_scale=config.rope_freq_scale,
                embeddings=True,
                pooling="default" if has_pooling else "mean",
                interruptible=False,
            )
            self._has_memory = self._probe()
        finally:
            forward_native_log(is_loading=True)

    @classmethod
    def load(
        cls,
        path: str,
        config: LoadConfig,
        progress: Callable[[float], bool | None] | None = None,
        *,
        has_pooling: bool,
    ) -> LlamaEmbedder:
        """Load a model file and make its context; arguments and errors as LlamaRunner.load."""
        forward_native_log()
        try:
            model = _core.Model(
                path,
                gpu_layers=config.gpu_layers,
                mmap=config.mmap,
                mlock=config.keep_in_memory,
                repack=config.is_repacked,
                num_experts=config.num_experts,
                progress=progress,
            )
        finally:
            forward_native_log(is_loading=True)
        try:
            return cls(model, config, has_pooling=has_pooling)
        except BaseException:
            model.close()
            raise

    def embed(self, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Compute a vector for each text.

        Args:
            texts: Token ids, at most `max_texts` texts with `max_tokens` tokens together, none empty.

        Returns:
            float32 vectors as the model pools them, not normalized; the scores of a ranking model.

        Raises:
            DecodeError: the backend failed.
        """
        tokens = np.concatenate([np.asarray(text, dtype=np.int32) for text in texts])
        seq_ids = np.repeat(np.arange(len(texts), dtype=np.int32), [len(text) for text in texts])
        try:
            self._compute(tokens, seq_ids)
        finally:
            forward_native_log()
        return [self._context.sequence_embedding(index) for index in range(len(texts))]

    def pair(self, query: str, document: str) -> list[int]:
        """Return the token ids of two texts as ranking models are trained on them.

        By the model's own template where it has one; else "[CLS] query [SEP] document [SEP]" with the model's tokens,
        and a second separator between the texts where its file asks for one (RoBERTa's form).
        """
        model = self._model
        template = model.chat_template("rerank")
        if template:
            text = template.replace("{query}", query).replace("{document}", document)
            return self.tokenize(text, add_special=False, parse_special=True)
        first = self.tokenize(query, add_special=True, parse_special=False)
        second = self.tokenize(document, add_special=True, parse_special=False)
        separator = model.special_tokens["sep"]
        wants_more = model.metadata().get("tokenizer.ggml.add_sep_token") == "true"
        between = [separator] if model.add_eos and wants_more and separator is not None else []
        return first + between + second[int(model.add_bos) :]

    def interrupt(self) -> None:
        """Stop a running call soon. Any thread."""
        self._context.abort()

    def close(self) -> None:
        """Free model and context. Idempotent."""
        self._context.close()
        self._model.close()

    def _compute(self, tokens: np.ndarray, seq_ids: np.ndarray) -> None:
        if self._has_memory:
            self._context.memory_clear()
            self._context.decode(tokens, None, seq_ids)
        else:
            self._context.encode(tokens, None, seq_ids)

    def _probe(self) -> bool:
        """Tell whether this is a decoder, whose context has memory: only the first call does."""
        try:
            self._context.encode(_PROBE)
        except InvalidBatchError:
            return True
        return False
