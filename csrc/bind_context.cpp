#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "bind.h"
#include "context.h"

namespace slipstream {

using namespace nb::literals;

namespace {

using IntArray = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using BoolArray = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatArray = nb::ndarray<nb::numpy, float>;
using FloatView = nb::ndarray<nb::numpy, const float, nb::ndim<1>>;

nb::object copy_row(const float * row, size_t n) {
    auto * data = new float[n];
    std::copy(row, row + n, data);
    nb::capsule owner(data, [](void * p) noexcept { delete[] static_cast<float *>(p); });
    return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<1>>(data, {n}, owner));
}

void check_same_length(const char * name, size_t n, size_t expected) {
    if (n != expected) {
        throw Error("InvalidBatchError",
                    format("%s has %zu entries and tokens has %zu; they must be equal", name, n, expected),
                    name);
    }
}

template <class F>
void run_batch(Context & self, const IntArray & tokens, const std::optional<IntArray> & positions,
               const std::optional<IntArray> & seq_ids, const std::optional<BoolArray> & outputs, F && call) {
    Batch batch;
    batch.n = tokens.shape(0);
    batch.tokens = tokens.data();
    if (positions) {
        check_same_length("positions", positions->shape(0), batch.n);
        batch.positions = positions->data();
    }
    if (seq_ids) {
        check_same_length("seq_ids", seq_ids->shape(0), batch.n);
        batch.seq_ids = seq_ids->data();
    }
    if (outputs) {
        check_same_length("outputs", outputs->shape(0), batch.n);
        batch.outputs = reinterpret_cast<const uint8_t *>(outputs->data());
    }
    try {
        nb::gil_scoped_release release;
        call(self, batch);
    } catch (const Error &) {
        rethrow_pending(); // Ctrl-C asked for the abort
        throw;
    }
    rethrow_pending(); // it came too late to stop anything
}

FloatArray all_logits(Context & self) {
    Context::Lease lease(self);
    const std::vector<int32_t> & outputs = self.outputs_leased();
    const size_t n_rows = outputs.size();
    const size_t n_vocab = size_t(self.n_vocab());
    auto * data = new float[std::max<size_t>(n_rows * n_vocab, 1)];
    nb::capsule owner(data, [](void * p) noexcept { delete[] static_cast<float *>(p); });
    for (size_t r = 0; r < n_rows; r++) {
        const float * row = self.logits_leased(outputs[r]);
        std::copy(row, row + n_vocab, data + r * n_vocab);
    }
    return FloatArray(data, {n_rows, n_vocab}, owner);
}

void bind_compute(nb::class_<Context> & c) {
    const char * batch_signature =
        "(self, tokens: numpy.typing.NDArray[numpy.int32], positions: numpy.typing.NDArray[numpy.int32] | None = None, "
        "seq_ids: numpy.typing.NDArray[numpy.int32] | None = None, outputs: numpy.typing.NDArray[numpy.bool_] | None = None) -> None";
    static const std::string decode_signature = std::string("def decode") + batch_signature;
    static const std::string encode_signature = std::string("def encode") + batch_signature;
    c.def(
         "decode",
         [](Context & self, const IntArray & tokens, std::optional<IntArray> positions,
            std::optional<IntArray> seq_ids, std::optional<BoolArray> outputs) {
             run_batch(self, tokens, positions, seq_ids, outputs,
                       [](Context & s, const Batch & b) { s.decode(b); });
         },
         "tokens"_a, "positions"_a = nb::none(), "seq_ids"_a = nb::none(), "outputs"_a = nb::none(),
         nb::sig(decode_signature.c_str()),
         "Compute a batch of up to n_batch tokens of any mix of sequences. The GIL is released; Ctrl-C works on the main thread.\n\n"
         "Args:\n"
         "    tokens: int32, shape (n,).\n"
         "    positions: int32, shape (n,); each sequence must go on where it ends. None does that by itself.\n"
         "    seq_ids: int32, shape (n,); None means sequence 0.\n"
         "    outputs: bool, shape (n,): which tokens' logits are wanted. None means the last of each sequence.\n\n"
         "Raises:\n"
         "    InvalidBatchError: a rule is broken; memory is as before.\n"
         "    NoKVSlotError: no room; memory is as before.\n"
         "    DecodeAborted, ComputeError: the sequences hold an unknown part of the batch; compare seq_pos_max and seq_rm.\n"
         "    ContextBusyError: another thread is in this context.")
        .def(
            "encode",
            [](Context & self, const IntArray & tokens, std::optional<IntArray> positions,
               std::optional<IntArray> seq_ids, std::optional<BoolArray> outputs) {
                run_batch(self, tokens, positions, seq_ids, outputs,
                          [](Context & s, const Batch & b) { s.encode(b); });
            },
            "tokens"_a, "positions"_a = nb::none(), "seq_ids"_a = nb::none(), "outputs"_a = nb::none(),
            nb::sig(encode_signature.c_str()),
            "Run the encoder, or an embedding model that keeps no memory, on up to n_ubatch tokens. Arguments as decode().")
        .def(
            "greedy_loop",
            [](Context & self, int32_t token, int32_t n) {
                std::vector<int32_t> generated;
                try {
                    nb::gil_scoped_release release;
                    generated = self.greedy_loop(token, n);
                } catch (const Error &) {
                    rethrow_pending();
                    throw;
                }
                rethrow_pending();
                return generated;
            },
            "token"_a, "n"_a,
            "Decode `token` at the end of sequence 0 and go on greedily for `n` tokens in one native call, past end-of-generation\n"
            "tokens. The floor that benchmarks measure the engine against.\n\n"
            "Raises:\n    NoKVSlotError: they do not fit the context.")
        .def("abort", &Context::abort,
             "Stop a running decode soon (CPU backend). Any thread; nothing happens if none runs.")
        .def(
            "logits",
            [](Context & self, int32_t i) {
                Context::Lease lease(self);
                return copy_row(self.logits_leased(i), size_t(self.n_vocab()));
            },
            "i"_a, nb::sig("def logits(self, i: int) -> numpy.typing.NDArray[numpy.float32]"),
            "A copy of the logits of batch index `i` of the last decode: float32, shape (n_vocab,).\n\n"
            "Raises:\n    InvalidBatchError: that token was no output.")
        .def(
            "logits_view",
            [](nb::handle_t<Context> self, int32_t i) {
                auto & context = nb::cast<Context &>(self);
                Context::Lease lease(context);
                return FloatView(context.logits_leased(i), {size_t(context.n_vocab())}, self);
            },
            "i"_a, nb::sig("def logits_view(self, i: int) -> numpy.typing.NDArray[numpy.float32]"),
            "The same without a copy, read-only. It shows llama.cpp's own buffer: valid until the next decode, encode or close() of\n"
            "this context, garbage after that. It keeps the context object alive, not its content.")
        .def(
            "all_logits", &all_logits, nb::sig("def all_logits(self) -> numpy.typing.NDArray[numpy.float32]"),
            "A copy of all outputs of the last decode: float32, shape (n_outputs, n_vocab), in the order of `outputs`.")
        .def_prop_ro(
            "outputs",
            [](Context & self) {
                Context::Lease lease(self);
                return self.outputs_leased();
            },
            "Batch indices of the last batch that have logits, ascending.")
        .def(
            "embeddings",
            [](Context & self, int32_t i) {
                Context::Lease lease(self);
                return copy_row(self.embeddings_leased(i), size_t(self.n_embd()));
            },
            "i"_a, nb::sig("def embeddings(self, i: int) -> numpy.typing.NDArray[numpy.float32]"),
            "A copy of the embedding of batch index `i`: float32, shape (n_embd,). Needs embeddings=True.")
        .def(
            "sequence_embedding",
            [](Context & self, int32_t seq_id) {
                Context::Lease lease(self);
                return copy_row(self.sequence_embedding_leased(seq_id), size_t(self.n_pooled_leased()));
            },
            "seq_id"_a,
            nb::sig("def sequence_embedding(self, seq_id: int) -> numpy.typing.NDArray[numpy.float32]"),
            "A copy of a sequence's pooled embedding: float32, shape (n_embd,), or the scores of a ranking model.");
}

void bind_memory(nb::class_<Context> & c) {
    c.def("memory_clear", &Context::memory_clear, nb::call_guard<nb::gil_scoped_release>(), "data"_a = false,
          "Forget every sequence; with `data`, zero the buffers, too.")
        .def(
            "seq_rm", &Context::seq_rm, nb::call_guard<nb::gil_scoped_release>(), "seq_id"_a, "p0"_a = -1,
            "p1"_a = -1,
            "Remove positions [p0, p1) of a sequence; -1 is an open end.\n\n"
            "Returns:\n    False if this memory cannot remove a part (recurrent models); nothing has changed then.")
        .def(
            "seq_cp", &Context::seq_cp, nb::call_guard<nb::gil_scoped_release>(), "src"_a, "dst"_a,
            "p0"_a = -1, "p1"_a = -1,
            "Make positions [p0, p1) of `src` part of the empty sequence `dst`, too; in a unified cache nothing is copied.\n"
            "Linear in the tokens shared.")
        .def("seq_keep", &Context::seq_keep, nb::call_guard<nb::gil_scoped_release>(), "seq_id"_a,
             "Remove every other sequence.")
        .def(
            "seq_add", &Context::seq_add, nb::call_guard<nb::gil_scoped_release>(), "seq_id"_a, "p0"_a,
            "p1"_a, "delta"_a,
            "Shift positions [p0, p1) by `delta`.\n\nRaises:\n    InvalidRequestError: this memory cannot shift.")
        .def("seq_pos_min", &Context::seq_pos_min, "seq_id"_a,
             "Smallest position in memory, -1 for an empty sequence.")
        .def("seq_pos_max", &Context::seq_pos_max, "seq_id"_a,
             "Largest position in memory, -1 for an empty sequence.")
        .def_prop_ro("can_shift", &Context::can_shift)
        .def(
            "state_save",
            [](Context & self, int32_t seq_id, const std::vector<int32_t> & tokens) {
                std::string state;
                {
                    nb::gil_scoped_release release;
                    state = self.state_save(seq_id, tokens);
                }
                return nb::bytes(state.data(), state.size());
            },
            "seq_id"_a, "tokens"_a = std::vector<int32_t>(),
            "One sequence's memory as bytes, with `tokens` stored beside it. Holds no logits: to go on, decode the last token again\n"
            "after removing it from memory.")
        .def(
            "state_load",
            [](Context & self, const nb::bytes & state, int32_t seq_id) {
                nb::gil_scoped_release release;
                return self.state_load(static_cast<const char *>(state.data()), state.size(), seq_id);
            },
            "state"_a, "seq_id"_a,
            "Put a saved sequence into `seq_id`, whatever it held before.\n\n"
            "Returns:\n    The tokens given to state_save().\n\n"
            "Raises:\n    StateError: saved from another model or layout, damaged, or larger than the room; the sequence may be empty then.");
}

} // namespace

void bind_context(nb::module_ & m) {
    nb::class_<Context> c(
        m, "Context",
        "KV cache and compute buffers on a model. One thread at a time; a second one gets ContextBusyError.");
    c.def(
        "__init__",
        [](Context * self, const Model & model, uint32_t n_ctx, uint32_t n_batch, uint32_t n_ubatch,
           uint32_t n_seq_max, uint32_t n_outputs_max, int32_t n_threads, int32_t n_threads_batch,
           std::optional<bool> flash_attention, const std::string & type_k, const std::string & type_v,
           bool embeddings, const std::string & pooling, bool kv_unified, bool swa_full, bool offload_kv,
           float rope_freq_base, float rope_freq_scale, int32_t poll, bool interruptible) {
            ContextOptions o;
            o.n_ctx = n_ctx;
            o.n_batch = n_batch;
            o.n_ubatch = n_ubatch;
            o.n_seq_max = n_seq_max;
            o.n_outputs_max = n_outputs_max;
            o.n_threads = n_threads;
            o.n_threads_batch = n_threads_batch;
            o.flash_attention = flash_attention ? int32_t(*flash_attention) : -1;
            o.type_k = type_k;
            o.type_v = type_v;
            o.embeddings = embeddings;
            o.pooling = pooling;
            o.kv_unified = kv_unified;
            o.swa_full = swa_full;
            o.offload_kv = offload_kv;
            o.rope_freq_base = rope_freq_base;
            o.rope_freq_scale = rope_freq_scale;
            o.poll = poll;
            nb::gil_scoped_release release;
            new (self) Context(model, o);
            if (interruptible) {
                self->set_interrupt_check(python_interrupted);
            }
        },
        "model"_a, nb::kw_only(), "n_ctx"_a = 0, "n_batch"_a = 512, "n_ubatch"_a = 0, "n_seq_max"_a = 1,
        "n_outputs_max"_a = 0, "n_threads"_a = 0, "n_threads_batch"_a = 0, "flash_attention"_a = nb::none(),
        "type_k"_a = "f16", "type_v"_a = "f16", "embeddings"_a = false, "pooling"_a = "default",
        "kv_unified"_a = true, "swa_full"_a = true, "offload_kv"_a = true, "rope_freq_base"_a = 0.0f,
        "rope_freq_scale"_a = 0.0f, "poll"_a = 1, "interruptible"_a = true,
        "Make a context.\n\n"
        "Args:\n"
        "    model: Kept alive by the context.\n"
        "    n_ctx: Tokens the KV cache holds over all sequences; 0 takes what the model was trained on.\n"
        "    n_batch: Most tokens in one decode().\n"
        "    n_ubatch: Tokens computed at once; 0 means n_batch.\n"
        "    n_seq_max: Sequence ids are 0 to n_seq_max - 1; at most 256.\n"
        "    n_outputs_max: Most outputs of one decode(); 0 means n_batch.\n"
        "    n_threads: For a single token; 0 means the physical cores.\n"
        "    n_threads_batch: For more than one token; 0 means n_threads.\n"
        "    flash_attention: None lets llama.cpp decide.\n"
        "    type_k, type_v: Element types of the cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0.\n"
        "    embeddings: Make every token an output with an embedding.\n"
        "    pooling: default (the model's), none, mean, cls, last or rank.\n"
        "    kv_unified: One cache shared by all sequences, or one of n_ctx / n_seq_max tokens each.\n"
        "    swa_full: Keep all positions of sliding-window layers, so that sequences can be trimmed.\n"
        "    offload_kv: Keep the cache where its layers are; False: in host memory.\n"
        "    rope_freq_base, rope_freq_scale: 0 takes the model's.\n"
        "    poll: How long idle worker threads spin before they sleep, 0 to 100 (about 2 ms each).\n"
        "    interruptible: Look for Ctrl-C during decode().\n\n"
        "Raises:\n"
        "    ContextCreateError: the machine or the model refuses; the message says why.");
    c.def("close", &Context::close,
          "Free it now. Idempotent.\n\nRaises:\n    ContextBusyError: another thread is in it.");
    bind_compute(c);
    bind_memory(c);
    c.def(
         "set_threads", &Context::set_threads, "n_threads"_a, "n_threads_batch"_a,
         "Change the number of threads. Cheap, unless it takes more than there were before: that starts a new pool.")
        .def(
            "share_threads", &Context::share_threads, "other"_a,
            "Compute with the threads of another context from now on. The two must not compute at the same time.")
        .def(
            "holds_window",
            [](Context & self, int32_t seq_id, int32_t n_tokens) {
                Context::Lease lease(self);
                self.check_seq(seq_id);
                return self.holds_window_leased(seq_id, n_tokens);
            },
            "seq_id"_a, "n_tokens"_a,
            "Whether a sequence still has all that sliding-window layers need to go on from its first `n_tokens`.")
        .def("set_causal", &Context::set_causal, "causal"_a, "Causal attention or attention to every token.")
        .def("set_lora", &Context::set_lora, "adapters"_a,
             "Apply (adapter, scale) pairs to the whole context from now on; an empty list takes all off.")
        .def_prop_ro("n_ctx", &Context::n_ctx)
        .def_prop_ro("n_ctx_seq", &Context::n_ctx_seq, "Most tokens of one sequence.")
        .def_prop_ro("n_batch", &Context::n_batch)
        .def_prop_ro("n_ubatch", &Context::n_ubatch)
        .def_prop_ro("n_seq_max", &Context::n_seq_max)
        .def_prop_ro("n_threads", &Context::n_threads)
        .def_prop_ro("n_threads_batch", &Context::n_threads_batch)
        .def_prop_ro("n_vocab", &Context::n_vocab);
}

} // namespace slipstream
