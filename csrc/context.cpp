#include "context.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>

#include "kernels/seam.h"
#include "native_log.h"

namespace slipstream {

namespace {

constexpr auto INTERRUPT_INTERVAL = std::chrono::milliseconds(50);

ggml_type kv_type(const std::string & name, const char * field) {
    static const std::map<std::string, ggml_type> types = {
        {"f32", GGML_TYPE_F32},   {"f16", GGML_TYPE_F16},   {"bf16", GGML_TYPE_BF16},
        {"q8_0", GGML_TYPE_Q8_0}, {"q5_1", GGML_TYPE_Q5_1}, {"q5_0", GGML_TYPE_Q5_0},
        {"q4_1", GGML_TYPE_Q4_1}, {"q4_0", GGML_TYPE_Q4_0},
    };
    const auto found = types.find(name);
    if (found == types.end()) {
        throw Error("InvalidRequestError",
                    std::string(field) + " is " + name +
                        "; it must be f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0",
                    field);
    }
    return found->second;
}

enum llama_pooling_type pooling_type(const std::string & name) {
    static const std::map<std::string, enum llama_pooling_type> types = {
        {"default", LLAMA_POOLING_TYPE_UNSPECIFIED}, {"none", LLAMA_POOLING_TYPE_NONE},
        {"mean", LLAMA_POOLING_TYPE_MEAN},           {"cls", LLAMA_POOLING_TYPE_CLS},
        {"last", LLAMA_POOLING_TYPE_LAST},           {"rank", LLAMA_POOLING_TYPE_RANK},
    };
    const auto found = types.find(name);
    if (found == types.end()) {
        throw Error("InvalidRequestError",
                    "pooling is " + name + "; it must be default, none, mean, cls, last or rank", "pooling");
    }
    return found->second;
}

} // namespace

LoraAdapter::LoraAdapter(const Model & model, const std::string & path) : model_(model.handle()) {
    // Loading adds to the model's list of adapters, which has no lock.
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    LogCapture log;
    adapter_ = llama_adapter_lora_init(model_.get(), path.c_str());
    if (adapter_ == nullptr) {
        throw Error("ModelLoadError", path + ": " + log.tail("no LoRA adapter for this model"), path);
    }
}

Context::Lease::Lease(Context & context, bool may_be_closed) : turn_(context.busy_, "context") {
    if (may_be_closed) {
        return;
    }
    if (!context.ctx_) {
        throw Error("ClosedError", "the context is closed");
    }
    if (context.pid_ != getpid()) {
        throw Error("ClosedError", "the context was made before fork(); make it in the process that uses it");
    }
}

Context::Context(const Model & model, const ContextOptions & options)
    : model_(model.handle()),
      fingerprint_(model.fingerprint()),
      options_(options),
      ctx_(nullptr, llama_free),
      batch_(nullptr, llama_batch_ext_free),
      pid_(getpid()) {
    if (model.is_vocab_only()) {
        throw Error("ContextCreateError",
                    "the model was loaded with vocab_only; it has no weights to compute with");
    }
    if (options.n_seq_max < 1 || options.n_seq_max > llama_max_parallel_sequences()) {
        throw Error("ContextCreateError", format("n_seq_max is %u; it must be between 1 and %zu",
                                                 options.n_seq_max, llama_max_parallel_sequences()));
    }
    if (options.n_batch < 1 || options.n_batch > (1U << 20) || options.n_ubatch > (1U << 20) ||
        options.n_outputs_max > (1U << 20)) {
        throw Error("ContextCreateError",
                    format("n_batch is %u, n_ubatch %u, n_outputs_max %u; they must be between 1 and %u",
                           options.n_batch, options.n_ubatch, options.n_outputs_max, 1U << 20));
    }
    constexpr int32_t max_threads = GGML_MAX_N_THREADS;
    if (options.n_threads < 0 || options.n_threads > max_threads || options.n_threads_batch < 0 ||
        options.n_threads_batch > max_threads) {
        throw Error("ContextCreateError",
                    format("n_threads is %d, n_threads_batch %d; they must be between 0 and %d",
                           options.n_threads, options.n_threads_batch, max_threads));
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = options.n_ctx;
    params.n_batch = options.n_batch;
    params.n_ubatch = options.n_ubatch == 0 ? options.n_batch : std::min(options.n_ubatch, options.n_batch);
    params.n_seq_max = options.n_seq_max;
    n_outputs_max_ = options.n_outputs_max == 0 ? options.n_batch : options.n_outputs_max;
    params.n_outputs_max = std::max(n_outputs_max_, options.n_seq_max); // it asserts one for each sequence
    if (options.embeddings) {
        params.n_ubatch = embedding_ubatch(params);
        params.n_outputs_max = std::max(params.n_outputs_max, params.n_ubatch);
    }
    params.flash_attn_type = options.flash_attention < 0    ? LLAMA_FLASH_ATTN_TYPE_AUTO
                             : options.flash_attention == 0 ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                            : LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.type_k = kv_type(options.type_k, "type_k");
    params.type_v = kv_type(options.type_v, "type_v");
    params.pooling_type = pooling_type(options.pooling);
    params.embeddings = options.embeddings;
    params.kv_unified = options.kv_unified;
    params.swa_full = options.swa_full;
    params.offload_kqv = options.offload_kv;
    params.rope_freq_base = options.rope_freq_base;
    params.rope_freq_scale = options.rope_freq_scale;
    params.abort_callback = on_abort_poll;
    params.abort_callback_data = this;
    n_threads_ = options.n_threads == 0 ? default_threads() : options.n_threads;
    n_threads_batch_ = options.n_threads_batch == 0 ? n_threads_ : options.n_threads_batch;
    params.n_threads = n_threads_;
    params.n_threads_batch = n_threads_batch_;
    const bool has_encoder = llama_model_has_encoder(model_.get());
    if (has_encoder && !options.kv_unified && options.n_seq_max > 1) {
        throw Error("ContextCreateError",
                    "an encoder-decoder model needs kv_unified=True for more than one sequence");
    }
    check_memory_fits(params);

    LogCapture log;
    ctx_.reset(llama_init_from_model(model_.get(), params));
    if (!ctx_) {
        throw Error("ContextCreateError", "llama.cpp refuses this context: " + log.tail("it gave no reason"));
    }
    n_ctx_ = llama_n_ctx(ctx_.get());
    const std::string arch = architecture(model_.get());
    const bool learned_positions = arch == "bert" || arch == "gpt2" || arch == "starcoder" || arch == "mpt";
    position_limit_ = learned_positions ? llama_model_n_ctx_train(model_.get()) : INT32_MAX;
    n_ctx_seq_ = std::min(llama_n_ctx_seq(ctx_.get()), uint32_t(position_limit_));
    n_batch_ = llama_n_batch(ctx_.get());
    n_ubatch_ = llama_n_ubatch(ctx_.get());
    n_seq_max_ = llama_n_seq_max(ctx_.get());
    n_vocab_ = llama_vocab_n_tokens(vocab());
    n_embd_ = llama_model_n_embd_out(model_.get());
    causal_ = metadata_text(model_.get(), arch + ".attention.causal") != "false";
    next_pos_.assign(n_seq_max_, -1);
    last_index_.assign(n_seq_max_, -1);
    attach_threads(n_threads_, n_threads_batch_);
    batch_.reset(llama_batch_ext_init(ctx_.get()));
}

Context::~Context() {
    free_all();
}

void Context::close() {
    Lease lease(*this, true);
    free_all();
}

void Context::free_all() noexcept {
    outputs_.clear();
    if (pid_ != getpid()) {
        // Its threads did not survive the fork; freeing would wait for them. The child leaks it.
        (void)batch_.release();
        (void)ctx_.release();
        (void)new std::shared_ptr<ggml_threadpool>(std::move(pool_));
        return;
    }
    batch_.reset();
    ctx_.reset();
    slipstream_kernels_forget(this);
    pool_.reset();
    model_.reset();
}

void Context::attach_threads(int32_t n_threads, int32_t n_threads_batch) {
    ggml_threadpool_params params = ggml_threadpool_params_default(std::max(n_threads, n_threads_batch));
    params.poll = uint32_t(std::clamp(options_.poll, 0, 100));
    std::shared_ptr<ggml_threadpool> pool(ggml_threadpool_new(&params), ggml_threadpool_free);
    if (!pool) {
        throw Error("ContextCreateError", format("cannot start %d threads", params.n_threads));
    }
    llama_attach_threadpool(ctx_.get(), pool.get(), pool.get());
    pool_ = std::move(pool);
    pool_size_ = params.n_threads;
    use_threads(n_threads, n_threads_batch);
}

void Context::use_threads(int32_t n_threads, int32_t n_threads_batch) {
    llama_set_n_threads(ctx_.get(), n_threads, n_threads_batch); // the others of the pool sleep
    n_threads_ = n_threads;
    n_threads_batch_ = n_threads_batch;
}

void Context::share_threads(const Context & other) {
    Lease lease(*this);
    llama_attach_threadpool(ctx_.get(), other.pool_.get(), other.pool_.get());
    pool_ = other.pool_;
    pool_size_ = other.pool_size_;
    use_threads(other.n_threads_, other.n_threads_batch_);
}

bool Context::on_abort_poll(void * data) {
    auto * self = static_cast<Context *>(data);
    if (self->interrupt_check_ && !self->abort_.load(std::memory_order_relaxed)) {
        const auto now = std::chrono::steady_clock::now();
        if (now - self->last_poll_ >= INTERRUPT_INTERVAL) {
            self->last_poll_ = now;
            if (self->interrupt_check_()) {
                self->abort_.store(true, std::memory_order_relaxed);
            }
        }
    }
    return self->abort_.load(std::memory_order_relaxed);
}

void Context::check_seq(int32_t seq_id) const {
    if (seq_id < 0 || uint32_t(seq_id) >= n_seq_max_) {
        throw Error(
            "InvalidBatchError",
            format("sequence id %d is out of range: this context has 0 to %u", seq_id, n_seq_max_ - 1),
            "seq_id");
    }
}

// Checks the batch against every rule llama.cpp would abort on or answer with a bare -1, and fills batch_.
void Context::prepare(const Batch & batch, bool encode) {
    llama_memory_t memory = llama_get_memory(ctx_.get());
    const bool has_encoder = llama_model_has_encoder(model_.get());
    if (encode && memory != nullptr && !has_encoder) {
        throw Error("InvalidBatchError", "this model has no encoder; use decode()");
    }
    if (!encode && memory == nullptr) {
        throw Error("InvalidBatchError", "this model has no decoder; use encode()");
    }
    if (!encode && has_encoder && !encoded_) {
        throw Error("InvalidBatchError",
                    "this model's decoder needs the output of its encoder; use encode() first");
    }
    const bool pooled = options_.embeddings && llama_pooling_type(ctx_.get()) != LLAMA_POOLING_TYPE_NONE;
    const uint32_t limit = encode || !causal_ || pooled ? n_ubatch_ : n_batch_; // pooling sees one ubatch
    if (batch.n < 1 || batch.n > limit) {
        throw Error("InvalidBatchError",
                    format("the batch has %zu tokens; this context takes 1 to %u", batch.n, limit), "tokens");
    }
    const enum llama_rope_type rope = llama_model_rope_type(model_.get());
    const bool may_jump = rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE || encode;
    llama_batch_ext_clear(batch_.get());
    std::fill(next_pos_.begin(), next_pos_.end(), -1);
    for (size_t i = 0; i < batch.n; i++) {
        const int32_t token = batch.tokens[i];
        const int32_t seq_id = batch.seq_ids == nullptr ? 0 : batch.seq_ids[i];
        if (token < 0 || token >= n_vocab_) {
            throw Error("InvalidBatchError",
                        format("token %zu has id %d; the vocabulary has 0 to %d", i, token, n_vocab_ - 1),
                        "tokens");
        }
        check_seq(seq_id);
        int32_t & next = next_pos_[size_t(seq_id)];
        if (next < 0) {
            next = encode ? 0 : llama_memory_seq_pos_max(memory, seq_id) + 1;
        }
        const llama_pos position = batch.positions == nullptr ? next : batch.positions[i];
        if (position != next && !(may_jump && position > next)) {
            throw Error("InvalidBatchError",
                        format("token %zu of sequence %d has position %d; the sequence goes on at %d", i,
                               seq_id, position, next),
                        "positions");
        }
        if (position >= position_limit_) {
            throw Error(
                "InvalidBatchError",
                format("token %zu of sequence %d has position %d; this model has positions 0 to %d only", i,
                       seq_id, position, position_limit_ - 1),
                "positions");
        }
        next = position + 1;
        last_index_[size_t(seq_id)] = int32_t(i);
        const int32_t index = llama_batch_ext_add_token(batch_.get(), seq_id, token);
        if (index != int32_t(i)) {
            throw Error("InvalidBatchError",
                        format("llama.cpp refuses token %zu of the batch (code %d)", i, index), "tokens");
        }
        llama_batch_ext_set_pos(batch_.get(), index, &position);
    }
    outputs_.clear();
    if (batch.outputs == nullptr) {
        for (size_t seq_id = 0; seq_id < n_seq_max_; seq_id++) {
            if (next_pos_[seq_id] >= 0) {
                outputs_.push_back(last_index_[seq_id]);
            }
        }
        std::sort(outputs_.begin(), outputs_.end());
    } else {
        for (size_t i = 0; i < batch.n; i++) {
            if (batch.outputs[i] != 0) {
                outputs_.push_back(int32_t(i));
            }
        }
    }
    if (options_.embeddings || encode) { // llama.cpp gives every token then
        outputs_.resize(batch.n);
        std::iota(outputs_.begin(), outputs_.end(), 0);
    }
    if (outputs_.size() > n_outputs_max_) {
        const size_t n = outputs_.size();
        outputs_.clear();
        throw Error(
            "InvalidBatchError",
            format("the batch asks for %zu outputs; this context gives at most %u", n, n_outputs_max_),
            "outputs");
    }
    for (const int32_t i : outputs_) {
        llama_batch_ext_set_output_logits(batch_.get(), i, true);
    }
}

void Context::begin_compute() {
    abort_.store(false, std::memory_order_relaxed);
    last_poll_ = std::chrono::steady_clock::now();
    slipstream_kernels_set_owner(this);
}

int32_t Context::process(const std::function<int32_t(llama_context *)> & compute) {
    begin_compute();
    int32_t code = -1;
    try {
        code = guarded("ComputeError", "llama.cpp failed", [&] { return compute(ctx_.get()); });
    } catch (...) {
        outputs_.clear();
        throw;
    }
    if (code != 0) {
        outputs_.clear();
    }
    return code;
}

int32_t Context::process(enum llama_process_type type) {
    return process([&](llama_context * ctx) { return llama_process(ctx, type, batch_.get()); });
}

void Context::decode(const Batch & batch) {
    Lease lease(*this);
    decode_leased(batch);
}

void Context::decode_leased(const Batch & batch) {
    prepare(batch, false);
    LogCapture log;
    check_code(process(LLAMA_PROCESS_TYPE_DECODE), batch.n, log);
}

void Context::compute_leased(int32_t seq_id, int32_t position, int32_t n,
                             const std::function<int32_t(llama_context *)> & compute) {
    const int32_t next = llama_memory_seq_pos_max(llama_get_memory(ctx_.get()), seq_id) + 1;
    const enum llama_rope_type rope = llama_model_rope_type(model_.get());
    const bool may_jump = rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE;
    if (position != next && !(may_jump && position > next)) {
        throw Error("InvalidBatchError",
                    format("position %d is wrong for sequence %d; it goes on at %d", position, seq_id, next),
                    "positions");
    }
    outputs_.clear();
    LogCapture log;
    check_code(process(compute), size_t(n), log);
}

void Context::check_code(int32_t code, size_t n, const LogCapture & log) const {
    if (code == 0) {
        return;
    }
    if (code == 1) {
        throw Error(
            "NoKVSlotError",
            format("no room in the KV cache of %u tokens for a batch of %zu; remove sequences or make a "
                   "context with a larger n_ctx",
                   n_ctx_, n));
    }
    if (code == 2) {
        throw Error("DecodeAborted",
                    "the decode was aborted; its sequences hold an unknown part of the batch");
    }
    if (code == -1) {
        throw Error("InvalidBatchError", "llama.cpp refuses the batch: " + log.tail("it gave no reason"));
    }
    throw Error("ComputeError",
                format("decode failed with code %d: ", code) + log.tail("llama.cpp gave no reason"));
}

void Context::encode(const Batch & batch) {
    Lease lease(*this);
    prepare(batch, true);
    LogCapture log;
    const int32_t code = process(LLAMA_PROCESS_TYPE_ENCODE);
    encoded_ = encoded_ || code == 0;
    if (code == 2) {
        throw Error("DecodeAborted", "the encode was aborted");
    }
    if (code != 0) {
        throw Error("ComputeError",
                    format("encode failed with code %d: ", code) + log.tail("llama.cpp gave no reason"));
    }
}

void Context::check_output(int32_t i) const {
    if (!std::binary_search(outputs_.begin(), outputs_.end(), i)) {
        throw Error("InvalidBatchError",
                    format("token %d of the last batch was no output; that batch had %zu outputs", i,
                           outputs_.size()),
                    "i");
    }
}

float * Context::logits_leased(int32_t i) {
    check_output(i);
    float * row = llama_get_logits_ith(ctx_.get(), i);
    if (row == nullptr) {
        throw Error("InvalidBatchError", format("llama.cpp has no logits for token %d of the last batch", i),
                    "i");
    }
    return row;
}

float * Context::embeddings_leased(int32_t i) {
    check_output(i);
    float * row = options_.embeddings ? llama_get_embeddings_ith(ctx_.get(), i) : nullptr;
    if (row == nullptr) {
        throw Error("InvalidBatchError",
                    "no embeddings for this token: the context needs embeddings=True and pooling='none'");
    }
    return row;
}

float * Context::sequence_embedding_leased(int32_t seq_id) {
    check_seq(seq_id);
    float * row = options_.embeddings ? llama_get_embeddings_seq(ctx_.get(), seq_id) : nullptr;
    if (row == nullptr) {
        throw Error(
            "InvalidBatchError",
            format(
                "no pooled embedding for sequence %d: the context needs embeddings=True, a pooling, and the sequence in "
                "the last batch",
                seq_id));
    }
    return row;
}

int32_t Context::n_pooled_leased() const {
    return llama_pooling_type(ctx_.get()) == LLAMA_POOLING_TYPE_RANK
               ? int32_t(llama_model_n_cls_out(model_.get()))
               : n_embd_;
}

void Context::set_threads(int32_t n_threads, int32_t n_threads_batch) {
    Lease lease(*this);
    if (n_threads < 1 || n_threads > GGML_MAX_N_THREADS || n_threads_batch < 1 ||
        n_threads_batch > GGML_MAX_N_THREADS) {
        throw Error("InvalidRequestError",
                    format("n_threads is %d, n_threads_batch %d; they must be between 1 and %d", n_threads,
                           n_threads_batch, GGML_MAX_N_THREADS));
    }
    if (std::max(n_threads, n_threads_batch) > pool_size_) {
        attach_threads(n_threads, n_threads_batch);
    } else {
        use_threads(n_threads, n_threads_batch);
    }
}

void Context::set_lora(const std::vector<std::pair<const LoraAdapter *, float>> & adapters) {
    Lease lease(*this);
    std::vector<llama_adapter_lora *> handles;
    std::vector<float> scales;
    for (const auto & [adapter, scale] : adapters) {
        if (adapter == nullptr || !std::isfinite(scale)) {
            throw Error("InvalidRequestError",
                        format("adapters must be (LoraAdapter, scale) pairs with a finite scale, not %f",
                               double(scale)),
                        "adapters");
        }
        if (adapter->model() != model_) {
            throw Error("InvalidRequestError", "the LoRA adapter belongs to another model than this context");
        }
        handles.push_back(adapter->get());
        scales.push_back(scale);
    }
    llama_adapter_lora * none = nullptr;
    float unused = 0;
    guarded("ComputeError", "llama.cpp cannot apply the adapters", [&] {
        return llama_set_adapters_lora(ctx_.get(), handles.empty() ? &none : handles.data(), handles.size(),
                                       scales.empty() ? &unused : scales.data());
    });
}

void Context::set_causal(bool causal) {
    Lease lease(*this);
    llama_set_causal_attn(ctx_.get(), causal);
    causal_ = causal;
}

} // namespace slipstream
