"""One loaded embedding or ranking model in this process: questions in, vectors or scores out, in shared batches."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slipstream.base.errors import ContextLengthError, InvalidRequestError
from slipstream.base.load_config import with_layers
from slipstream.base.queries import Embed, QueryFailed, Rerank, Scores, Vectors
from slipstream.base.types import ModelInstanceInfo
from slipstream.engine.request import check_token_ids, failure
from slipstream.engine.stats import EngineStats
from slipstream.models.facts import pooling_kind
from slipstream.models.gguf import check_model_file
from slipstream.runtime.text_queries import TextQueries

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from slipstream.base.load_config import LoadConfig
    from slipstream.base.queries import Query, QueryAnswer
    from slipstream.base.types import Event, GenerationSpec
    from slipstream.engine.llama_embedder import LlamaEmbedder
    from slipstream.models.gguf_types import GgufHeader

    Reply = Callable[[QueryAnswer | QueryFailed], None]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Question:
    """An Embed or Rerank on its way: its texts wait in `todo`, their vectors gather in `vectors`."""

    query: Embed | Rerank
    reply: Reply
    texts: list[list[int]]
    todo: deque[int] = field(init=False)
    vectors: list[np.ndarray | None] = field(init=False)

    def __post_init__(self) -> None:
        self.todo = deque(range(len(self.texts)))
        self.vectors = [None] * len(self.texts)


class EmbeddingHost:
    """Answers questions about vectors; takes the place of an EngineHost in an engine process.

    ::

        any thread      ask --> _open: questions with texts to do
        compute thread  one text of each question in turn until the batch is full -> embed -> replies

    So a short question does not wait for a long one, and small ones share a call.

    Args:
        embedder: Of the model; belongs to the host from here.
        info: What `info` returns.
        is_ranker: The model gives a score for a pair of texts instead of a vector.
    """

    def __init__(
        self, embedder: LlamaEmbedder, info: ModelInstanceInfo, *, is_ranker: bool
    ) -> None:
        self._embedder = embedder
        self._info = info
        self._is_ranker = is_ranker
        self._texts = TextQueries(embedder, None, info.num_vocab)
        self._changed = threading.Condition()  # guards the two below
        self._open: deque[_Question] = deque()
        self._is_closed = False
        self._num_calls = 0
        self._num_tokens = 0
        self._busy_s = 0.0
        self._thread = threading.Thread(target=self._run, name="slipstream-embed", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        path: str,
        config: LoadConfig,
        progress: Callable[[float], bool | None] | None = None,
        header: GgufHeader | None = None,
    ) -> Self:
        """Check a file and load it. Blocks for as long as that takes.

        Args:
            path: A .gguf file.
            config: How to load it.
            progress: Called with 0 … 1; returning False cancels.
            header: Of the file, if it has been checked already.

        Raises:
            ModelLoadError: the file is no usable model, or the load was cancelled.
            ContextCreateError: the machine or the model refuses the context.
            InvalidRequestError: a draft model, which an embedding model has no use for.
        """
        from slipstream.engine.llama_embedder import LlamaEmbedder  # loads the native core

        if config.draft_model is not None:
            message = "an embedding model generates nothing; load it without a draft model"
            raise InvalidRequestError(message, param="draft_model")
        begin_s = time.monotonic()
        header = header or check_model_file(path)
        has_pooling = bool(header.metadata.get(f"{header.architecture}.pooling_type"))
        config = with_layers(config, header.block_count)
        embedder = LlamaEmbedder.load(path, config, progress, has_pooling=has_pooling)
        info = ModelInstanceInfo(
            path=path,
            architecture=header.architecture,
            name=header.name,
            size_bytes=Path(path).stat().st_size,
            context_length=embedder.max_tokens,
            max_sequence_length=embedder.max_tokens,
            trained_context_length=header.context_length,
            parallel=embedder.max_texts,
            max_waiting=config.max_waiting,
            num_vocab=embedder.num_vocab,
            template_source="none",
            load_s=time.monotonic() - begin_s,
            pid=os.getpid(),
        )
        return cls(embedder, info, is_ranker=pooling_kind(header) == "rank")

    @property
    def info(self) -> ModelInstanceInfo:
        """What is loaded."""
        return self._info

    def submit(self, spec: GenerationSpec, sink: Callable[[list[Event]], None]) -> None:
        """Refuse a request for text."""
        message = "this model gives vectors, no text; ask it at /v1/embeddings or /v1/rerank"
        sink([failure(spec.request_id, InvalidRequestError(message, param="model"))])

    def abort(self, request_id: str) -> None:
        """Do nothing: no request for text runs."""

    def ask(self, query: Query, reply: Reply) -> None:
        """Have a question answered. Any thread, never raises: what is wrong is the reply. After `close` nobody replies.

        Args:
            query: About vectors or text.
            reply: Gets the answer, on this thread or the compute thread.
        """
        try:
            if not isinstance(query, Embed | Rerank):
                reply(self._texts.answer(query))
                return
            question = _Question(query, reply, self._tokenize(query))
        except Exception as error:  # the edge of one question
            if not isinstance(error, InvalidRequestError):
                _log.exception("a question cannot be answered")
            _fail(reply, error)
            return
        with self._changed:
            self._open.append(question)
            self._changed.notify()

    def stats(self) -> EngineStats:
        """Return what was computed. Any thread."""
        return EngineStats(
            num_waiting=len(self._open),
            num_steps_total=self._num_calls,
            computed_tokens_total=self._num_tokens,
            step_s_total=self._busy_s,
        )

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop computing and free the model. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._open.clear()
            self._changed.notify()
        self._embedder.interrupt()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._embedder.close()

    def _tokenize(self, query: Embed | Rerank) -> list[list[int]]:
        """Return the token ids of each text to compute."""
        if isinstance(query, Embed):
            texts = [self._text(text) for text in query.inputs]
        elif self._is_ranker:
            texts = [self._embedder.pair(query.query, document) for document in query.documents]
        else:
            texts = [self._text(text) for text in (query.query, *query.documents)]
        if isinstance(query, Embed) and self._is_ranker:
            message = "this model scores pairs of texts and gives no vectors; ask it at /v1/rerank"
            raise InvalidRequestError(message, param="model")
        name = "input" if isinstance(query, Embed) else "documents"
        for index, token_ids in enumerate(texts):
            if not token_ids:
                message = f"{name}[{index}] has no tokens"
                raise InvalidRequestError(message, param=name)
            if len(token_ids) > self._embedder.max_tokens:
                message = (
                    f"{name}[{index}] has {len(token_ids)} tokens, and this model takes {self._embedder.max_tokens}; "
                    "cut the text into pieces"
                )
                raise ContextLengthError(message, param=name)
        return texts

    def _text(self, text: str | list[int]) -> list[int]:
        if isinstance(text, str):
            return self._embedder.tokenize(text, add_special=True, parse_special=True)
        check_token_ids("input", text, self._info.num_vocab)
        return text

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._open or self._is_closed)
                if self._is_closed:
                    return
                batch = self._take_batch()
            try:
                self._compute(batch)
            except Exception as error:  # the edge of one call
                _log.exception("vectors of %d texts cannot be computed", len(batch))
                self._give_up({id(question): question for question, _ in batch}, error)

    def _take_batch(self) -> list[tuple[_Question, int]]:
        """Take one text of each question in turn, as many as fit; the caller holds the lock."""
        embedder, num_tokens = self._embedder, 0
        batch: list[tuple[_Question, int]] = []
        while self._open and len(batch) < embedder.max_texts:
            question = self._open[0]
            num_more = len(question.texts[question.todo[0]])
            if num_tokens + num_more > embedder.max_tokens:
                break
            num_tokens += num_more
            batch.append((question, question.todo.popleft()))
            self._open.popleft()
            if question.todo:
                self._open.append(question)
        return batch

    def _compute(self, batch: list[tuple[_Question, int]]) -> None:
        begin_s = time.monotonic()
        texts = [question.texts[index] for question, index in batch]
        vectors = self._embedder.embed(texts)
        self._busy_s += time.monotonic() - begin_s
        self._num_calls += 1
        self._num_tokens += sum(map(len, texts))
        for (question, index), vector in zip(batch, vectors, strict=True):
            question.vectors[index] = vector
        for question in {id(question): question for question, _ in batch}.values():
            if all(vector is not None for vector in question.vectors):
                question.reply(self._answer(question))

    def _answer(self, question: _Question) -> QueryAnswer:
        num_tokens = sum(map(len, question.texts))
        vectors = np.stack([v for v in question.vectors if v is not None])
        query = question.query
        if isinstance(query, Embed):
            unit = _normalized(vectors[:, : query.num_dims])
            return Vectors(data=unit.tobytes(), num_dims=unit.shape[1], num_tokens=num_tokens)
        if self._is_ranker:
            return Scores(scores=vectors[:, 0].tolist(), num_tokens=num_tokens)
        unit = _normalized(vectors)
        return Scores(scores=(unit[1:] @ unit[0]).tolist(), num_tokens=num_tokens)

    def _give_up(self, questions: dict[int, _Question], error: Exception) -> None:
        with self._changed:
            self._open = deque(q for q in self._open if id(q) not in questions)
        for question in questions.values():
            _fail(question.reply, error)


def _normalized(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors with length 1; one of only zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), dtype="<f4")


def _fail(reply: Reply, error: Exception) -> None:
    failed = failure("", error)
    reply(QueryFailed(failed.error, failed.message, failed.param))
