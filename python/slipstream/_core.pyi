"""
Slipstream's native core: llama.cpp with every precondition checked. Use it through slipstream.native.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy
import numpy.typing
from numpy.typing import NDArray


class Model:
    """
    A loaded GGUF model: weights and vocabulary. Reading it is safe from any thread.
    """

    def __init__(self, path: str, *, gpu_layers: int = -1, mmap: bool = True, mlock: bool = False, repack: bool = True, vocab_only: bool = False, check_tensors: bool = False, num_experts: int = 0, progress: Callable[[float], bool | None] | None = None) -> None:
        """
        Load a file. The GIL is released; Ctrl-C works.

        Args:
            path: A .gguf file; of a split model, its first part.
            gpu_layers: Layers to put on the GPU; -1 means all.
            mmap: Map the file rather than read it.
            mlock: Keep it in memory.
            repack: Let ggml re-arrange weights for this CPU (a copy of them).
            vocab_only: Load the vocabulary and no weights.
            check_tensors: Look for invalid numbers in every tensor.
            num_experts: Experts a token is sent to, for a mixture of experts; 0 takes the file's.
            progress: Called on this thread with 0 to 1; returning False cancels.

        Raises:
            ModelLoadError: the file is no usable model, or loading was cancelled.
            InvalidRequestError: num_experts is more than the model has.
        """

    def close(self) -> None:
        """
        Drop this object's hold on the model; contexts made from it keep it alive. Idempotent.
        """

    def use_huge_pages(self, wait: bool = False) -> int:
        """
        Copy the weights that are mapped from the file into huge pages, while they are used.

        The copy is arranged for the matrix kernels, which read it with less work; results keep their bits. Where they serve
        less than half of the bytes, all are moved as they are. Linux only. Nothing happens on other systems, where
        transparent huge pages are switched off, and where less than twice the weights is free.

        Args:
            wait: Return when it is done; about a second for each GB. Else it goes on in the background.

        Returns:
            Bytes copied so far.

        Raises:
            ClosedError: the model is closed.
        """

    @property
    def is_closed(self) -> bool: ...

    @property
    def path(self) -> str: ...

    @property
    def fingerprint(self) -> int:
        """Identity of the file's content, 64 bits; saved states carry it."""

    @property
    def description(self) -> str:
        """Architecture, size and quantization in a few words."""

    @property
    def n_vocab(self) -> int: ...

    @property
    def n_ctx_train(self) -> int: ...

    @property
    def n_embd(self) -> int: ...

    @property
    def n_layer(self) -> int: ...

    @property
    def n_head(self) -> int: ...

    @property
    def n_head_kv(self) -> int: ...

    @property
    def n_swa(self) -> int:
        """Sliding window, 0 for none."""

    @property
    def n_params(self) -> int: ...

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""

    @property
    def has_encoder(self) -> bool: ...

    @property
    def has_decoder(self) -> bool: ...

    @property
    def is_recurrent(self) -> bool: ...

    @property
    def is_hybrid(self) -> bool: ...

    @property
    def add_bos(self) -> bool: ...

    @property
    def add_eos(self) -> bool: ...

    @property
    def special_tokens(self) -> dict[str, int | None]:
        """
        Token ids by role: bos, eos, eot, sep, nl, pad, mask and the fim_ ones; None where the vocabulary has none.
        """

    def metadata(self) -> dict[str, str]:
        """The file's scalar metadata as text; arrays are left out."""

    def chat_template(self, name: str = '') -> str:
        """The model's Jinja chat template, "" if it has none."""

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """
        Turn text into token ids.

        Args:
            text: Any text.
            add_special: Add BOS and EOS where the model wants them.
            parse_special: Read the names of special tokens in the text as those tokens. Never for text a stranger wrote.
        """

    def detokenize(self, tokens: Sequence[int], *, remove_special: bool = False, unparse_special: bool = False) -> bytes:
        """
        Turn token ids into bytes (UTF-8, cut anywhere).

        Raises:
            InvalidRequestError: an id is not in the vocabulary.
        """

    def token_to_piece(self, token: int, *, special: bool = False) -> bytes:
        """
        The bytes one token stands for; b"" for control tokens unless `special`.
        """

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of a token."""

    def token_score(self, token: int) -> float: ...

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a generation."""

    def is_control(self, token: int) -> bool: ...

class LoraAdapter:
    """
    A LoRA adapter of one model. It lives as long as the model's weights do.
    """

    def __init__(self, model: Model, path: str) -> None:
        """
        Load an adapter. No other thread may use the model meanwhile.

        Raises:
            ModelLoadError: no adapter, or for another model.
        """

class Context:
    """
    KV cache and compute buffers on a model. One thread at a time; a second one gets ContextBusyError.
    """

    def __init__(self, model: Model, *, n_ctx: int = 0, n_batch: int = 512, n_ubatch: int = 0, n_seq_max: int = 1, n_outputs_max: int = 0, n_threads: int = 0, n_threads_batch: int = 0, flash_attention: bool | None = None, type_k: str = 'f16', type_v: str = 'f16', embeddings: bool = False, pooling: str = 'default', kv_unified: bool = True, swa_full: bool = True, offload_kv: bool = True, rope_freq_base: float = 0.0, rope_freq_scale: float = 0.0, poll: int = 1, interruptible: bool = True) -> None:
        """
        Make a context.

        Args:
            model: Kept alive by the context.
            n_ctx: Tokens the KV cache holds over all sequences; 0 takes what the model was trained on.
            n_batch: Most tokens in one decode().
            n_ubatch: Tokens computed at once; 0 means n_batch.
            n_seq_max: Sequence ids are 0 to n_seq_max - 1; at most 256.
            n_outputs_max: Most outputs of one decode(); 0 means n_batch.
            n_threads: For a single token; 0 means the physical cores.
            n_threads_batch: For more than one token; 0 means n_threads.
            flash_attention: None lets llama.cpp decide.
            type_k, type_v: Element types of the cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0.
            embeddings: Make every token an output with an embedding.
            pooling: default (the model's), none, mean, cls, last or rank.
            kv_unified: One cache shared by all sequences, or one of n_ctx / n_seq_max tokens each.
            swa_full: Keep all positions of sliding-window layers, so that sequences can be trimmed.
            offload_kv: Keep the cache where its layers are; False: in host memory.
            rope_freq_base, rope_freq_scale: 0 takes the model's.
            poll: How long idle worker threads spin before they sleep, 0 to 100 (about 2 ms each).
            interruptible: Look for Ctrl-C during decode().

        Raises:
            ContextCreateError: the machine or the model refuses; the message says why.
        """

    def close(self) -> None:
        """
        Free it now. Idempotent.

        Raises:
            ContextBusyError: another thread is in it.
        """

    def decode(self, tokens: numpy.typing.NDArray[numpy.int32], positions: numpy.typing.NDArray[numpy.int32] | None = None, seq_ids: numpy.typing.NDArray[numpy.int32] | None = None, outputs: numpy.typing.NDArray[numpy.bool_] | None = None) -> None:
        """
        Compute a batch of up to n_batch tokens of any mix of sequences. The GIL is released; Ctrl-C works on the main thread.

        Args:
            tokens: int32, shape (n,).
            positions: int32, shape (n,); each sequence must go on where it ends. None does that by itself.
            seq_ids: int32, shape (n,); None means sequence 0.
            outputs: bool, shape (n,): which tokens' logits are wanted. None means the last of each sequence.

        Raises:
            InvalidBatchError: a rule is broken; memory is as before.
            NoKVSlotError: no room; memory is as before.
            DecodeAborted, ComputeError: the sequences hold an unknown part of the batch; compare seq_pos_max and seq_rm.
            ContextBusyError: another thread is in this context.
        """

    def encode(self, tokens: numpy.typing.NDArray[numpy.int32], positions: numpy.typing.NDArray[numpy.int32] | None = None, seq_ids: numpy.typing.NDArray[numpy.int32] | None = None, outputs: numpy.typing.NDArray[numpy.bool_] | None = None) -> None:
        """
        Run the encoder, or an embedding model that keeps no memory, on up to n_ubatch tokens. Arguments as decode().
        """

    def greedy_loop(self, token: int, n: int) -> list[int]:
        """
        Decode `token` at the end of sequence 0 and go on greedily for `n` tokens in one native call, past end-of-generation
        tokens. The floor that benchmarks measure the engine against.

        Raises:
            NoKVSlotError: they do not fit the context.
        """

    def abort(self) -> None:
        """
        Stop a running decode soon (CPU backend). Any thread; nothing happens if none runs.
        """

    def logits(self, i: int) -> numpy.typing.NDArray[numpy.float32]:
        """
        A copy of the logits of batch index `i` of the last decode: float32, shape (n_vocab,).

        Raises:
            InvalidBatchError: that token was no output.
        """

    def logits_view(self, i: int) -> numpy.typing.NDArray[numpy.float32]:
        """
        The same without a copy, read-only. It shows llama.cpp's own buffer: valid until the next decode, encode or close() of
        this context, garbage after that. It keeps the context object alive, not its content.
        """

    def all_logits(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        A copy of all outputs of the last decode: float32, shape (n_outputs, n_vocab), in the order of `outputs`.
        """

    @property
    def outputs(self) -> list[int]:
        """Batch indices of the last batch that have logits, ascending."""

    def embeddings(self, i: int) -> numpy.typing.NDArray[numpy.float32]:
        """
        A copy of the embedding of batch index `i`: float32, shape (n_embd,). Needs embeddings=True.
        """

    def sequence_embedding(self, seq_id: int) -> numpy.typing.NDArray[numpy.float32]:
        """
        A copy of a sequence's pooled embedding: float32, shape (n_embd,), or the scores of a ranking model.
        """

    def memory_clear(self, data: bool = False) -> None:
        """Forget every sequence; with `data`, zero the buffers, too."""

    def seq_rm(self, seq_id: int, p0: int = -1, p1: int = -1) -> bool:
        """
        Remove positions [p0, p1) of a sequence; -1 is an open end.

        Returns:
            False if this memory cannot remove a part (recurrent models); nothing has changed then.
        """

    def seq_cp(self, src: int, dst: int, p0: int = -1, p1: int = -1) -> None:
        """
        Make positions [p0, p1) of `src` part of the empty sequence `dst`, too; in a unified cache nothing is copied.
        Linear in the tokens shared.
        """

    def seq_keep(self, seq_id: int) -> None:
        """Remove every other sequence."""

    def seq_add(self, seq_id: int, p0: int, p1: int, delta: int) -> None:
        """
        Shift positions [p0, p1) by `delta`.

        Raises:
            InvalidRequestError: this memory cannot shift.
        """

    def seq_pos_min(self, seq_id: int) -> int:
        """Smallest position in memory, -1 for an empty sequence."""

    def seq_pos_max(self, seq_id: int) -> int:
        """Largest position in memory, -1 for an empty sequence."""

    @property
    def can_shift(self) -> bool: ...

    def state_save(self, seq_id: int, tokens: Sequence[int] = []) -> bytes:
        """
        One sequence's memory as bytes, with `tokens` stored beside it. Holds no logits: to go on, decode the last token again
        after removing it from memory.
        """

    def state_load(self, state: bytes, seq_id: int) -> list[int]:
        """
        Put a saved sequence into `seq_id`, whatever it held before.

        Returns:
            The tokens given to state_save().

        Raises:
            StateError: saved from another model or layout, damaged, or larger than the room; the sequence may be empty then.
        """

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        """
        Change the number of threads. Cheap, unless it takes more than there were before: that starts a new pool.
        """

    def share_threads(self, other: Context) -> None:
        """
        Compute with the threads of another context from now on. The two must not compute at the same time.
        """

    def holds_window(self, seq_id: int, n_tokens: int) -> bool:
        """
        Whether a sequence still has all that sliding-window layers need to go on from its first `n_tokens`.
        """

    def set_causal(self, causal: bool) -> None:
        """Causal attention or attention to every token."""

    def set_lora(self, adapters: Sequence[tuple[LoraAdapter, float]]) -> None:
        """
        Apply (adapter, scale) pairs to the whole context from now on; an empty list takes all off.
        """

    @property
    def n_ctx(self) -> int: ...

    @property
    def n_ctx_seq(self) -> int:
        """Most tokens of one sequence."""

    @property
    def n_batch(self) -> int: ...

    @property
    def n_ubatch(self) -> int: ...

    @property
    def n_seq_max(self) -> int: ...

    @property
    def n_threads(self) -> int: ...

    @property
    def n_threads_batch(self) -> int: ...

    @property
    def n_vocab(self) -> int: ...

class SamplerParams:
    """
    How tokens are chosen; fields and defaults are those of slipstream.SamplingParams.
    """

    def __init__(self) -> None: ...

    @property
    def temperature(self) -> float: ...

    @temperature.setter
    def temperature(self, arg: float, /) -> None: ...

    @property
    def top_k(self) -> int: ...

    @top_k.setter
    def top_k(self, arg: int, /) -> None: ...

    @property
    def top_p(self) -> float: ...

    @top_p.setter
    def top_p(self, arg: float, /) -> None: ...

    @property
    def min_p(self) -> float: ...

    @min_p.setter
    def min_p(self, arg: float, /) -> None: ...

    @property
    def typical_p(self) -> float: ...

    @typical_p.setter
    def typical_p(self, arg: float, /) -> None: ...

    @property
    def top_n_sigma(self) -> float: ...

    @top_n_sigma.setter
    def top_n_sigma(self, arg: float, /) -> None: ...

    @property
    def xtc_probability(self) -> float: ...

    @xtc_probability.setter
    def xtc_probability(self, arg: float, /) -> None: ...

    @property
    def xtc_threshold(self) -> float: ...

    @xtc_threshold.setter
    def xtc_threshold(self, arg: float, /) -> None: ...

    @property
    def dry_multiplier(self) -> float: ...

    @dry_multiplier.setter
    def dry_multiplier(self, arg: float, /) -> None: ...

    @property
    def dry_base(self) -> float: ...

    @dry_base.setter
    def dry_base(self, arg: float, /) -> None: ...

    @property
    def dry_allowed_length(self) -> int: ...

    @dry_allowed_length.setter
    def dry_allowed_length(self, arg: int, /) -> None: ...

    @property
    def dry_penalty_last_n(self) -> int: ...

    @dry_penalty_last_n.setter
    def dry_penalty_last_n(self, arg: int, /) -> None: ...

    @property
    def dry_sequence_breakers(self) -> list[str]: ...

    @dry_sequence_breakers.setter
    def dry_sequence_breakers(self, arg: Sequence[str], /) -> None: ...

    @property
    def repeat_penalty(self) -> float: ...

    @repeat_penalty.setter
    def repeat_penalty(self, arg: float, /) -> None: ...

    @property
    def presence_penalty(self) -> float: ...

    @presence_penalty.setter
    def presence_penalty(self, arg: float, /) -> None: ...

    @property
    def frequency_penalty(self) -> float: ...

    @frequency_penalty.setter
    def frequency_penalty(self, arg: float, /) -> None: ...

    @property
    def repeat_last_n(self) -> int: ...

    @repeat_last_n.setter
    def repeat_last_n(self, arg: int, /) -> None: ...

    @property
    def mirostat(self) -> int: ...

    @mirostat.setter
    def mirostat(self, arg: int, /) -> None: ...

    @property
    def mirostat_tau(self) -> float: ...

    @mirostat_tau.setter
    def mirostat_tau(self, arg: float, /) -> None: ...

    @property
    def mirostat_eta(self) -> float: ...

    @mirostat_eta.setter
    def mirostat_eta(self, arg: float, /) -> None: ...

    @property
    def logit_bias(self) -> list[tuple[int, float]]: ...

    @logit_bias.setter
    def logit_bias(self, arg: Sequence[tuple[int, float]], /) -> None: ...

    @property
    def seed(self) -> int: ...

    @seed.setter
    def seed(self, arg: int, /) -> None: ...

    @property
    def grammar(self) -> str: ...

    @grammar.setter
    def grammar(self, arg: str, /) -> None: ...

    def set_triggers(self, triggers: Sequence[str], thinking_start: str = '', thinking_ends: Sequence[str] = [], is_thinking: bool = False) -> None:
        """
        Let the grammar hold from the first group of a match of one of these regular expressions on, and not before.
        Nothing between thinking_start and one of thinking_ends is a match; with is_thinking, the output begins there.
        """

    @property
    def grammar_prefix(self) -> list[int]:
        """Tokens a grammar without triggers takes for said."""

    @grammar_prefix.setter
    def grammar_prefix(self, arg: Sequence[int], /) -> None: ...

class Sampler:
    """Chooses tokens from logits. One thread at a time."""

    def __init__(self, model: Model, params: SamplerParams) -> None:
        """
        Make a sampler for a model's vocabulary.

        Raises:
            GrammarError: the grammar does not parse.
            InvalidRequestError: a bias for a token that is not in the vocabulary.
        """

    def sample(self, context: Context, i: int) -> int:
        """
        Pick a token from the logits of batch index `i` of the context's last decode. Does not accept it.
        """

    def sample_logits(self, logits: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> int:
        """
        Pick a token from float32 logits of shape (n_vocab,). Does not accept it.
        """

    def accept(self, token: int) -> None:
        """
        Tell penalties, DRY and the grammar that this token came next.

        Raises:
            GrammarError: the grammar does not allow it here.
            InvalidRequestError: it is not in the vocabulary. Nothing has changed in either case.
        """

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """The same for a prompt, which the grammar does not see."""

    def reset(self) -> None:
        """Back to the state after construction, the seed included."""

    def clone(self) -> Sampler:
        """A copy with all its state."""

    @property
    def params(self) -> SamplerParams: ...

class VocabMap:
    """How the tokens of a draft model's vocabulary read in a target's."""

    def __init__(self, target: Model, draft: Model) -> None:
        """
        Compare two vocabularies: by id, then by spelling, then by role (BOS, EOS, end of turn).
        """

    @property
    def is_identical(self) -> bool:
        """Every id means the same, as far as both go."""

    @property
    def n_target(self) -> int:
        """Tokens of the target."""

    @property
    def n_draft(self) -> int:
        """Tokens of the draft model."""

    @property
    def n_shared(self) -> int:
        """Draft tokens that have an equal in the target."""

    @property
    def n_different(self) -> int:
        """Ids in both that are spelled differently."""

    @property
    def leading_token(self) -> int:
        """
        What the draft model wants before a text that has no such token itself; -1 for nothing.
        """

    @property
    def differences(self) -> list[tuple[int, bytes, bytes]]:
        """
        The first of those: (id, spelling in the target, spelling in the draft model).
        """

    def to_target(self, token: int) -> int:
        """The target's equal of a draft token, -1 for none."""

    def to_draft(self, tokens: Sequence[int]) -> list[int]:
        """
        The draft tokens that spell the target's; one without an equal is tokenized anew.
        """

class Drafter:
    """A draft model behind a Runner. Calls go through the Runner."""

    def __init__(self, context: Context, vocab_map: VocabMap, sampled: bool = False) -> None:
        """
        Draft with a context of the draft model, which has the sequence ids of the target's.

        Args:
            sampled: draw drafts at random and let the Runner judge them by rejection sampling; otherwise they are
                what the target's sampler would pick from the draft model's logits.
        """

    @property
    def n_computed(self) -> int:
        """Tokens computed so far."""

    def lag(self, seq_id: int) -> int:
        """Tokens a sequence has to compute before its next draft."""

class NgramIndex:
    """What followed the last few tokens of a text when they occurred before."""

    def __init__(self) -> None: ...

    def append(self, tokens: Sequence[int]) -> None:
        """Go on with the text."""

    def propose(self, max_tokens: int) -> tuple[int, list[int]]:
        """
        What followed the most recent earlier occurrence of the longest suffix of the text.

        Returns:
            The length of the match, 0 for none, and up to `max_tokens` tokens.
        """

    def __len__(self) -> int: ...

def verify_drafts(target_probs: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], draft_probs: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], draft_tokens: Sequence[int], seed: int) -> list[int]:
    """
    Speculative sampling (arXiv 2211.17192): judge drafted tokens so that the output is distributed as the target's.

    Args:
        target_probs: float32, shape (n + 1, n_vocab): the target's distribution at each draft and behind the last.
        draft_probs: float32, shape (n, n_vocab): what each draft was drawn from.
        draft_tokens: the n drafts.
        seed: of the random numbers.

    Returns:
        The tokens that come out: the accepted drafts and one more.

    Raises:
        InvalidRequestError: shapes or token ids that do not fit, or a row without probability.
    """

class Runner:
    """
    The engine's step on a context: decode, sample and detokenize in one call.
    """

    def __init__(self, context: Context, ngram: bool = False, shared: bool = False, drafter: Drafter | None = None) -> None:
        """
        `ngram` keeps an index of each sequence's tokens for propose(), `shared` one of what all sequences have said,
        too; `drafter` is for draft().
        """

    def open_sequence(self, seq_id: int, params: SamplerParams, n_logprobs: int, special: bool, prompt: Sequence[int]) -> None:
        """
        Give a sequence a fresh sampler that has seen `prompt`. `n_logprobs` -1 means none; `special` renders control tokens.
        """

    def accept(self, seq_id: int, tokens: Sequence[int]) -> None:
        """
        Tell its sampler that these tokens came next without being sampled.

        Raises:
            GrammarError: its grammar does not allow one of them.
        """

    def close_sequence(self, seq_id: int) -> None:
        """Drop its sampler; its tokens stay in memory."""

    def trim(self, seq_id: int, n_tokens: int) -> bool:
        """
        Keep the first `n_tokens` tokens of a sequence. False if this memory cannot; nothing has changed then.
        """

    def step(self, seq_ids: Sequence[int], starts: Sequence[int], counts: Sequence[int], tokens: Sequence[int], sample: Sequence[bool], drafts: Sequence[int] = (), mask_rows: Sequence[int] = (), masks: numpy.typing.NDArray[numpy.uint32] | None = None, wait_masks: Callable[[], None] | None = None) -> tuple[list[int], list[bytes], list[bool], list[tuple[int, bytes, float, list[tuple[int, bytes, float]]] | None], list[int], list[tuple[int, str, str]]]:
        """
        Compute counts[i] tokens of each sequence from position starts[i]; sample after the last where sample[i].
        The last drafts[i] of them are guesses: sampling goes on behind each that is what was sampled in its place,
        and the others are taken out of memory again. Where mask_rows[i] is not -1, the sequence's tokens are sampled
        among those with a bit in the uint32 rows of `masks` from there on, one row for each; `wait_masks` is called,
        after the batch is computed, and returns when they are written.

        Returns:
            Token ids, their bytes, whether each ends a generation, and log-probabilities, one entry per token;
            then how many of them belong to each sampled sequence, and (sequence, error class, message) of those
            whose own sampler failed, which the others are not concerned by.

        Raises:
            InvalidBatchError, NoKVSlotError, DecodeAborted, ComputeError: as Context.decode.
        """

    def propose(self, seq_ids: Sequence[int], max_tokens: int, drafts: Sequence[Sequence[int]] = ()) -> list[tuple[int, list[int]]]:
        """
        Drafts for each sequence from its own text, with drafts[i] behind it: (length of the match, tokens that
        followed it), (0, []) for none.
        """

    def draft(self, seq_ids: Sequence[int], max_rows: int) -> list[tuple[int, float]]:
        """
        One more token of the draft model for each sequence, behind those since its last step.

        Returns:
            (token, probability of the likeliest token) each; token -1 for a sequence whose text the draft model has
            not read yet, which it gets on with, or for what the target has no token for.

        Raises:
            InvalidRequestError: there is no draft model. Others as Context.decode.
        """

class ChatPlan:
    """A prompt, and what its answer looks like. Immutable."""

    @property
    def prompt(self) -> str:
        """Its text."""

    @property
    def generation_prompt(self) -> str:
        """The end of the prompt, which belongs to the answer."""

    @property
    def grammar(self) -> str:
        """GBNF of the calls, "" for none."""

    @property
    def triggers(self) -> list[str]:
        """Regular expressions; with any, the grammar holds only behind a match."""

    @property
    def words(self) -> list[str]:
        """The triggers unescaped, where all are plain text."""

    @property
    def preserved_tokens(self) -> list[str]:
        """Control tokens whose text is part of the format."""

    @property
    def stops(self) -> list[str]:
        """Strings that end the answer."""

    @property
    def thinking_start(self) -> str:
        """What thinking begins with."""

    @property
    def thinking_ends(self) -> list[str]:
        """What can end it."""

    @property
    def can_think(self) -> bool:
        """Whether the template has a place for thinking."""

    @property
    def can_call(self) -> bool:
        """Whether the answer can hold calls of the tools."""

class ChatTemplate:
    """A Jinja chat template in llama.cpp's own engine. Safe from any thread."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        """
        Parse template text.

        Raises:
            TemplateError: it does not parse.
        """

    def apply(self, messages: str, tools: str = '', options: str = '', *, add_generation_prompt: bool = True, tool_choice: str = 'auto', parallel_tool_calls: bool = True, has_default_tools: bool = False) -> ChatPlan:
        """
        Render messages (a JSON array in OpenAI's shape) with tools (likewise, or "") and options (a JSON object of further
        variables, or ""). The tool_choice is auto; required, so that the answer is a call; or none, so that the template sees
        the tools, but the answer is no call. With has_default_tools calls come between
        [TOOL_REQUEST] and [END_TOOL_REQUEST], and the template hears nothing of the tools.

        Raises:
            TemplateError: the template refuses them, or the parameters of a tool are no JSON Schema it can use.
        """

    def capabilities(self) -> dict[str, bool]:
        """What the template can do, by name."""

class OutputParser:
    """Splits the output of one plan. Safe from any thread."""

    def __init__(self, plan: ChatPlan, continued: str = '') -> None:
        """
        `continued` is text behind the generation prompt that is taken for said.
        """

    def parse(self, text: str, is_last: bool = False) -> tuple[bool, str, str, list[tuple[str, str, str]]]:
        """
        Split all text so far; with is_last, text that does not go on as the form wants it is no match.

        Returns:
            Whether the text has the form, its reasoning, its content, and (id, name, arguments) of its calls.
        """

    def delimiters(self) -> list[str]:
        """
        What can end a run of reasoning or content: only their first characters are to be looked out for.
        """

class Picture:
    """An image, or a slice of one, in a prompt. Made by Projector.tokenize."""

    @property
    def image(self) -> int:
        """Index of its image among those given to tokenize()."""

    @property
    def n_tokens(self) -> int:
        """Cells it takes in memory."""

    @property
    def n_positions(self) -> int:
        """Positions it takes in a sequence; with M-RoPE fewer than tokens."""

    @property
    def n_bytes(self) -> int:
        """Size of its embeddings, 0 before encode()."""

class Projector:
    """Turns images into what a model computes in the place of tokens."""

    def __init__(self, model: Model, path: str, marker: str, n_threads: int = 0, gpu: bool = False) -> None:
        """
        Load a projector file (mmproj). `marker` stands for an image in texts.

        Raises:
            ModelLoadError: no projector for images, or one for another model.
        """

    def close(self) -> None:
        """Let go of it; a call on another thread goes on to its end. Idempotent."""

    def tokenize(self, text: str, images: list[bytes], add_special: bool) -> list[list[int] | Picture]:
        """
        Split a text with a marker for each image into runs of token ids and pictures. Any thread.

        Raises:
            InvalidRequestError: other markers than images, or an image that cannot be read or is too large.
        """

    def encode(self, picture: Picture) -> None:
        """
        Compute a picture's embeddings, if it has none yet. Takes as long as a prompt of its size; any thread,
        one at a time.

        Raises:
            ComputeError: the backend failed.
        """

    def decode(self, context: Context, seq_id: int, position: int, picture: Picture) -> None:
        """
        Compute an encoded picture at `position` of a sequence.

        Raises:
            InvalidBatchError, NoKVSlotError, DecodeAborted, ComputeError: as Context.decode.
        """

def quantize_types() -> list[str]:
    """What quantize() writes, smallest first."""

def quantize(source: str, target: str, type: str, *, n_threads: int = 0, allow_requantize: bool = False, keep_output: bool = False, pure: bool = False, progress: Callable[[float], bool | None] | None = None) -> None:
    """
    Write a model file with its weights in another type. Use slipstream.native.quantize, which checks both files.

    Args:
        source: A .gguf file; of a split model its first part.
        target: The file to write, another one; what a failure leaves of it is the caller's to remove.
        type: One of quantize_types().
        n_threads: 0 means the physical cores.
        allow_requantize: Start from weights that are quantized already.
        keep_output: Leave the output matrix as it is.
        pure: Every matrix in that type, rather than a mix by layer.
        progress: Called on this thread with 0 to 1; returning False cancels.

    Raises:
        InvalidRequestError: an unknown type.
        ModelLoadError: the source cannot be quantized like that, or it was cancelled.
    """

def build_info() -> dict[str, Any]:
    """
    What this build is made of: a fingerprint of all of it (saved states fit no other), llama.cpp commit and version, ggml
    version, backend, compiler, flags, devices, CPU features, and by weight type the instruction set of our own matrix product (empty if upstream computes all).
    """

def drain_log() -> list[tuple[int, str]]:
    """
    Take llama.cpp's buffered log lines as (level, text), oldest first; levels are 2 info, 3 warning, 4 error.
    """

def default_threads() -> int:
    """Physical cores this process may run on, at least 1."""
