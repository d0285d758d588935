"""The ModelRunner on llama.cpp: one native context, one native call per step. The only engine file that knows _core."""

from __future__ import annotations

import hashlib
import logging
import secrets
from typing import TYPE_CHECKING

from slipstream import _core
from slipstream.base.errors import ComputeError, NoKVSlotError, by_name
from slipstream.base.load_config import DEFAULT_CONTEXT_LENGTH
from slipstream.base.types import TokenLogprob
from slipstream.engine.draft_model import check_memories, check_vocabularies
from slipstream.engine.grammar import GrammarCompiler
from slipstream.engine.llama_text import LlamaText
from slipstream.engine.masks import StepMasks
from slipstream.engine.pictures import PictureReader, SequencePictures
from slipstream.engine.runner import RunnerInfo, StepResult
from slipstream.engine.sampler_params import add_calls, to_native
from slipstream.engine.step_cost import keep_costs, step_costs
from slipstream.engine.thread_choice import ThreadChoice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.base.load_config import LoadConfig
    from slipstream.base.output_rules import CallGrammar, Lead
    from slipstream.base.sampling import SamplingParams
    from slipstream.base.types import OutputFormat
    from slipstream.engine.grammar import Matcher
    from slipstream.engine.pictures import PromptPicture
    from slipstream.engine.runner import ScheduledSequence

_log = logging.getLogger(__name__)
_llama_log = logging.getLogger("slipstream.llama")
# ggml's levels are info 2, warning 3, error 4. Its info is chatter about tensors and buffers.
_LEVELS = {2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}

MAX_DRAFTS = 32  # of all sequences in one step; each needs a row of logits


def forward_native_log(*, is_loading: bool = False) -> None:
    """Pass llama.cpp's buffered log lines on to the logger `slipstream.llama`.

    Args:
        is_loading: The lines are about a model or a context and keep their level. Others may quote what a user sent,
            such as a grammar, and are for debugging only: what went wrong is told by the error that is raised.
    """
    for level, text in _core.drain_log():
        shown = _LEVELS.get(level, logging.DEBUG) if is_loading else logging.DEBUG
        _llama_log.log(shown, "%s", text)


def _may_adapt(config: LoadConfig) -> bool:
    """Whether the threads are what steps wait for: nothing is computed on a GPU."""
    has_gpu = any(name != "CPU" for name, _ in _core.build_info()["devices"])
    return config.adapt_threads and not (has_gpu and config.gpu_layers)


class LlamaRunner(LlamaText):
    """A model and its one context. Tokenizing is safe from any thread; steps come from the engine thread.

    Args:
        model: Loaded; its file must have been checked.
        config: Sizes the context.

    Raises:
        ContextCreateError: the machine or the model refuses the context.
    """

    info: RunnerInfo
    pictures: PictureReader | None = None  # makes prompts with images, where there is a projector

    def __init__(self, model: _core.Model, config: LoadConfig) -> None:
        forward_native_log()
        for reason in config.idle_settings:
            _log.warning("%s", reason)
        num_ctx = config.context_length or min(model.n_ctx_train, DEFAULT_CONTEXT_LENGTH)
        can_trim = not (model.is_recurrent or model.is_hybrid)
        has_ngrams = can_trim and config.speculation in ("auto", "ngram")
        max_drafts = MAX_DRAFTS if has_ngrams or config.has_draft_model else 0
        try:
            self._context = _core.Context(
                model,
                n_ctx=num_ctx,
                n_batch=min(config.batch_size, max(num_ctx, 1)),
                # Recurrent states would cost memory for each sequence that only caches a prefix.
                n_seq_max=config.num_seqs if can_trim else config.parallel,
                n_outputs_max=config.parallel + max_drafts,
                n_threads=config.threads,
                flash_attention=config.flash_attention,
                rope_freq_base=config.rope_freq_base,
                rope_freq_scale=config.rope_freq_scale,
                type_k=config.kv_type,
                type_v=config.kv_type,
                offload_kv=config.offload_kv_cache,
                interruptible=False,
            )
        finally:
            forward_native_log(is_loading=True)
        self._model = model
        self._config = config
        self._masks = StepMasks(model.n_vocab, config.parallel + max_drafts)
        self._grammars = GrammarCompiler(model)
        self._sequence_pictures = SequencePictures()
        self._num_threads = self._context.n_threads
        self._thread_choice = ThreadChoice(self._num_threads) if _may_adapt(config) else None
        self._draft_model: _core.Model | None = None
        self._draft_context: _core.Context | None = None
        self._drafter: _core.Drafter | None = None
        if config.has_draft_model:
            self._load_draft_model()
        self._runner = _core.Runner(self._context, has_ngrams, config.share_ngrams, self._drafter)
        self.info = RunnerInfo(
            num_kv_cells=self._context.n_ctx,
            max_num_seqs=self._context.n_seq_max,
            max_batch_tokens=self._context.n_batch,
            max_sequence_length=self._context.n_ctx_seq,
            can_trim=can_trim,
            num_vocab=model.n_vocab,
            can_share=can_trim,
            max_drafts=max_drafts,
            has_ngrams=has_ngrams,
            has_draft_model=config.has_draft_model,
            is_draft_sampled=config.has_draft_model and config.verify == "distribution",
            draft_cost_ratio=(
                self._draft_model.size_bytes / max(1, model.size_bytes)
                if self._draft_model
                else 0.0
            ),
        )

    def _load_draft_model(self) -> None:
        """Load the draft model with as many sequences and cells as the target has; they compute in turns."""
        config, target = self._config, self._context
        assert config.draft_model is not None
        try:
            model = self._draft_model = _core.Model(
                config.draft_model,
                gpu_layers=config.gpu_layers,
                mmap=config.mmap,
                mlock=config.keep_in_memory,
                repack=config.is_repacked,
            )
            check_memories(self._model, model)
            vocab_map = _core.VocabMap(self._model, model)
            check_vocabularies(vocab_map, self._model, model)
            context = self._draft_context = _core.Context(
                model,
                n_ctx=target.n_ctx,
                n_batch=target.n_batch,
                n_seq_max=target.n_seq_max,
                n_outputs_max=config.parallel,
                n_threads=config.threads,
                flash_attention=config.flash_attention,
                type_k=config.kv_type,
                type_v=config.kv_type,
                offload_kv=config.offload_kv_cache,
                interruptible=False,
            )
            context.share_threads(target)
            self._drafter = _core.Drafter(context, vocab_map, config.verify == "distribution")
        except BaseException:
            self.close()
            raise
        finally:
            forward_native_log(is_loading=True)

    @classmethod
    def load(
        cls,
        path: str,
        config: LoadConfig,
        progress: Callable[[float], bool | None] | None = None,
    ) -> LlamaRunner:
        """Load a model file and make its context.

        Args:
            path: A .gguf file that `models.gguf.check_model_file` has passed.
            config: See LoadConfig.
            progress: Called with 0 to 1 on this thread; returning False cancels.

        Returns:
            A runner that owns both.

        Raises:
            ModelLoadError: no usable model, or cancelled.
            InvalidRequestError: more experts than the model has.
            ContextCreateError: the machine or the model refuses the context.
        """
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
            runner = cls(model, config)
            runner.use_huge_pages(wait=False)
            return runner
        except BaseException:
            model.close()
            raise

    def load_projector(self, path: str) -> None:
        """Load what turns images into what this model computes.

        Args:
            path: A projector file.

        Raises:
            ModelLoadError: it is none, or one for another model.
        """
        config = self._config
        marker = f"<image-{secrets.token_hex(8)}>"  # what a user writes is never taken for one
        try:
            projector = _core.Projector(
                self._model, path, marker, n_threads=config.threads, gpu=config.gpu_layers != 0
            )
        finally:
            forward_native_log(is_loading=True)
        self.pictures = PictureReader(projector, marker)

    def use_huge_pages(self, *, wait: bool) -> None:
        """Copy the weights into huge pages where the configuration has it."""
        if self._config.uses_huge_pages:
            for model in (self._model, self._draft_model):
                if model is not None:
                    model.use_huge_pages(wait)

    def settle(self) -> None:
        """Wait for the copies of the weights."""
        self.use_huge_pages(wait=True)

    def step_costs(self) -> list[tuple[int, float]]:
        """Return (rows, seconds) of steps, measured now or known from earlier loads. Before the first request only."""
        max_rows = self._config.parallel + self.info.max_drafts
        return step_costs(
            self, self._cost_key, model_bytes=self._model.size_bytes, max_rows=max_rows
        )

    def keep_step_costs(self, costs: list[tuple[int, float]]) -> None:
        """Keep what steps have taught for the next load. Before `close`."""
        keep_costs(self._cost_key, costs)

    @property
    def _cost_key(self) -> dict[str, object]:
        config, context = self._config, self._context
        return {
            "model": self._model.fingerprint,
            "build": _core.build_info(),
            "threads": self._num_threads,
            "gpu_layers": config.gpu_layers,
            "repack": config.is_repacked,
            "huge_pages": config.uses_huge_pages,
            "flash_attention": config.flash_attention,
            "kv_type": config.kv_type,
            "offload_kv_cache": config.offload_kv_cache,
            "num_experts": config.num_experts,
            "context": (context.n_ctx, context.n_batch, context.n_seq_max, config.parallel),
            "max_drafts": self.info.max_drafts,
        }

    @property
    def state_key(self) -> str:
        """Names what saved states fit: this model, build, kind of machine and kind of KV cache."""
        config = self._config
        parts = (
            self._model.fingerprint,
            _core.build_info()["fingerprint"],
            config.kv_type,
            config.flash_attention,
            config.rope_freq_base,
            config.rope_freq_scale,
            config.num_experts,
            self.info.can_trim,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]

    # --- the ModelRunner protocol, on the engine thread --------------------------------------------------------

    def open_sequence(
        self,
        seq_id: int,
        sampling: SamplingParams,
        token_ids: Sequence[int],
        matcher: Matcher | None = None,
        pictures: tuple[PromptPicture, ...] = (),
        calls: CallGrammar | None = None,
    ) -> None:
        """See ModelRunner."""
        self._sequence_pictures.open(seq_id, pictures)
        text = [token for token in token_ids if token >= 0] if pictures else list(token_ids)
        num_logprobs = -1 if sampling.logprobs is None else sampling.logprobs
        params = to_native(sampling)
        if calls is not None:
            add_calls(params, calls, self.tokenize)
        try:
            self._runner.open_sequence(seq_id, params, num_logprobs, False, text)
        except Exception:
            forward_native_log()  # before a load elsewhere in this process takes it for its own
            raise
        self._masks.open(seq_id, matcher)

    def accept(self, seq_id: int, token_ids: Sequence[int]) -> None:
        """See ModelRunner."""
        self._runner.accept(seq_id, list(token_ids))
        self._masks.say(seq_id, token_ids)

    def close_sequence(self, seq_id: int) -> None:
        """See ModelRunner."""
        self._runner.close_sequence(seq_id)
        self._sequence_pictures.close(seq_id)
        self._masks.open(seq_id, None)

    def trim(self, seq_id: int, num_tokens: int) -> bool:
        """See ModelRunner."""
        if not num_tokens:
            self._sequence_pictures.clear(seq_id)
            return self._runner.trim(seq_id, 0)
        position = self._sequence_pictures.position(seq_id, num_tokens)
        if position is None or not self._context.holds_window(seq_id, position):
            return False
        return self._runner.trim(seq_id, position)

    def copy_prefix(self, source: int, seq_id: int, num_tokens: int) -> bool:
        """See ModelRunner."""
        position = self._sequence_pictures.position(source, num_tokens)
        if position is None or not self._context.holds_window(source, position):
            return False
        self._context.seq_cp(source, seq_id, 0, position)
        return True

    def save_state(self, seq_id: int, token_ids: Sequence[int]) -> bytes:
        """See ModelRunner."""
        return self._context.state_save(seq_id, list(token_ids))

    def load_state(self, seq_id: int, state: bytes) -> None:
        """See ModelRunner."""
        try:
            self._context.state_load(state, seq_id)
        finally:
            forward_native_log()

    def step(self, scheduled: Sequence[ScheduledSequence]) -> StepResult:
        """See ModelRunner."""
        picture = next((sequence for sequence in scheduled if sequence.picture), None)
        if picture is None:
            return self._step_tokens(scheduled)
        self._step_picture(picture)
        tokens = [sequence for sequence in scheduled if sequence is not picture]
        try:
            return self._step_tokens(tokens) if tokens else StepResult()
        except NoKVSlotError:  # memory has to be as before
            if not self.trim(picture.seq_id, picture.start):
                message = "this memory cannot take a picture out again"
                raise ComputeError(message) from None
            raise

    def _step_picture(self, sequence: ScheduledSequence) -> None:
        assert self.pictures is not None
        assert sequence.picture is not None
        position = self._position(sequence)
        try:
            self.pictures.decode(self._context, sequence.seq_id, position, sequence.picture)
        except NoKVSlotError:
            self.trim(sequence.seq_id, sequence.start)  # parts of it may be there
            raise
        finally:
            forward_native_log()

    def _position(self, sequence: ScheduledSequence) -> int:
        position = self._sequence_pictures.position(sequence.seq_id, sequence.start)
        assert position is not None, "pictures are computed as a whole"
        return position

    def _step_tokens(self, scheduled: Sequence[ScheduledSequence]) -> StepResult:
        seq_ids, starts, counts, sample = [], [], [], []
        tokens: list[int] = []
        drafts = []
        for sequence in scheduled:
            seq_ids.append(sequence.seq_id)
            starts.append(self._position(sequence))
            counts.append(len(sequence.token_ids))
            tokens += sequence.token_ids
            sample.append(sequence.sample)
            drafts.append(sequence.num_drafts)
        masks = self._masks
        masks.begin(scheduled)
        choice = self._thread_choice
        if choice is not None:
            self._use_threads(choice.begin_step(len(tokens)))
        try:
            token_ids, pieces, is_eog, logprobs, num_sampled, errors = self._runner.step(
                seq_ids,
                starts,
                counts,
                tokens,
                sample,
                drafts,
                *((masks.rows, masks.array, masks.wait) if masks else ()),
            )
        except Exception:
            forward_native_log()
            raise
        finally:
            masks.wait()
        if choice is not None:
            choice.end_step()
        result = StepResult(
            token_ids,
            pieces,
            is_eog,
            [None if entry is None else TokenLogprob(*entry) for entry in logprobs],
            num_sampled,
            self._context.n_threads,
            {index: by_name(kind)(message) for index, kind, message in errors},
        )
        if masks:
            masks.accept(scheduled, result)
        return result

    def _use_threads(self, num: int) -> None:
        if num == self._context.n_threads:
            return
        for context in (self._context, self._draft_context):
            if context is not None:
                context.set_threads(num, num)

    def propose(
        self, seq_ids: Sequence[int], max_tokens: int, drafts: Sequence[Sequence[int]] = ()
    ) -> list[tuple[int, list[int]]]:
        """See ModelRunner."""
        return self._runner.propose(seq_ids, max_tokens, drafts)

    def draft(self, seq_ids: Sequence[int], max_rows: int) -> tuple[list[tuple[int, float]], int]:
        """See ModelRunner."""
        assert self._drafter is not None
        before = self._drafter.n_computed
        drafts = self._runner.draft(seq_ids, max_rows)
        return drafts, self._drafter.n_computed - before

    def draft_lag(self, seq_id: int) -> int:
        """See ModelRunner."""
        assert self._drafter is not None
        return self._drafter.lag(seq_id)

    def interrupt(self) -> None:
        """See ModelRunner."""
        self._context.abort()
        if self._draft_context is not None:
            self._draft_context.abort()

    def close(self) -> None:
        """See ModelRunner."""
        for part in (self.pictures, self._draft_context, self._draft_model, self._context):
            if part is not None:
                part.close()
        self._model.close()
        self._masks.close()
        forward_native_log()

    # --- any thread ---

    def matcher(self, output_format: OutputFormat, lead: Lead | None = None) -> Matcher:
        """Compile what an output must look like; see GrammarCompiler.matcher."""
        return self._grammars.matcher(output_format, lead)
