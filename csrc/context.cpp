#include "context.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>

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

// Bytes the system can still give without swapping; 0 where that cannot be read.
uint64_t available_memory() {
    std::ifstream file("/proc/meminfo");
    std::string line;
    while (std::getline(file, line)) {
        if (line.rfind("MemAvailable:", 0) == 0) {
            std::istringstream words(line.substr(13));
            uint64_t kib = 0;
            words >> kib;
            return kib * 1024;
        }
    }
    return 0;
}

int64_t metadata_int(const llama_model * model, const std::string & key, int64_t otherwise) {
    char buffer[64];
    if (llama_model_meta_val_str(model, key.c_str(), buffer, sizeof(buffer)) < 0) {
        return otherwise;
    }
    return std::atoll(buffer);
}

} // namespace

LoraAdapter::LoraAdapter(const Model & model, const std::string & path) : model_(model.handle()) {
    LogCapture log;
    adapter_ = llama_adapter_lora_init(model_.get(), path.c_str());
    if (adapter_ == nullptr) {
        throw Error("ModelLoadError", path + ": " + log.tail("no LoRA adapter for this model"), path);
    }
}

Context::Lease::Lease(Context & context) : lock_(context.busy_, std::try_to_lock) {
    if (!lock_.owns_lock()) {
        throw Error("ContextBusyError",
                    "this context is in use by another thread; give each thread its own, or take turns");
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
      pool_(nullptr, ggml_threadpool_free),
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
    params.n_outputs_max = options.n_outputs_max;
    params.flash_attn_type = options.flash_attention < 0    ? LLAMA_FLASH_ATTN_TYPE_AUTO
                             : options.flash_attention == 0 ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                            : LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.type_k = kv_type(options.type_k, "type_k");
    params.type_v = kv_type(options.type_v, "type_v");
    params.pooling_type = pooling_type(options.pooling);
    params.embeddings = options.embeddings;
    params.kv_unified = options.kv_unified;
    params.swa_full = options.swa_full;
    params.offload_kqv = options.offload_kqv;
    params.rope_freq_base = options.rope_freq_base;
    params.rope_freq_scale = options.rope_freq_scale;
    params.abort_callback = on_abort_poll;
    params.abort_callback_data = this;
    n_threads_ = options.n_threads == 0 ? default_threads() : options.n_threads;
    n_threads_batch_ = options.n_threads_batch == 0 ? n_threads_ : options.n_threads_batch;
    params.n_threads = n_threads_;
    params.n_threads_batch = n_threads_batch_;
    check_memory_fits(params);

    LogCapture log;
    ctx_.reset(llama_init_from_model(model_.get(), params));
    if (!ctx_) {
        throw Error("ContextCreateError", "llama.cpp refuses this context: " + log.tail("it gave no reason"));
    }
    n_ctx_ = llama_n_ctx(ctx_.get());
    n_ctx_seq_ = llama_n_ctx_seq(ctx_.get());
    n_batch_ = llama_n_batch(ctx_.get());
    n_ubatch_ = llama_n_ubatch(ctx_.get());
    n_seq_max_ = llama_n_seq_max(ctx_.get());
    n_vocab_ = llama_vocab_n_tokens(vocab());
    next_pos_.assign(n_seq_max_, -1);
    attach_threads(n_threads_, n_threads_batch_);
    batch_.reset(llama_batch_ext_init(ctx_.get()));
}

Context::~Context() {
    close();
}

void Context::close() {
    std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
    if (!lock.owns_lock()) {
        throw Error("ContextBusyError",
                    "the context is in use by another thread; abort() it and wait before close()");
    }
    if (pid_ != getpid()) {
        // Its threads did not survive the fork; freeing would wait for them. The child leaks it.
        (void)batch_.release();
        (void)ctx_.release();
        (void)pool_.release();
        return;
    }
    batch_.reset();
    ctx_.reset();
    pool_.reset();
}

// An over-committing kernel grants any KV cache and kills the process while it is zeroed, so a bound is checked first.
void Context::check_memory_fits(const llama_context_params & params) const {
    const llama_model * model = model_.get();
    const uint64_t n_ctx = params.n_ctx == 0 ? uint64_t(llama_model_n_ctx_train(model)) : params.n_ctx;
    if (n_ctx > (1ULL << 31) - 1) {
        throw Error("ContextCreateError",
                    format("n_ctx is %llu; it must be below 2^31", (unsigned long long)n_ctx));
    }
    char arch[64] = "";
    llama_model_meta_val_str(model, "general.architecture", arch, sizeof(arch));
    const int64_t n_head = std::max(1, llama_model_n_head(model));
    const int64_t head_size = llama_model_n_embd(model) / n_head;
    const int64_t size_k = metadata_int(model, std::string(arch) + ".attention.key_length", head_size);
    const int64_t size_v = metadata_int(model, std::string(arch) + ".attention.value_length", head_size);
    const double per_token = double(llama_model_n_layer(model)) * std::max(1, llama_model_n_head_kv(model)) *
                             (double(size_k) * ggml_type_size(params.type_k) / ggml_blck_size(params.type_k) +
                              double(size_v) * ggml_type_size(params.type_v) / ggml_blck_size(params.type_v));
    // Few layers of a hybrid keep a KV cache, none of a recurrent model's do.
    const double share = llama_model_is_recurrent(model) ? 0.0 : llama_model_is_hybrid(model) ? 0.125 : 1.0;
    const double rows = double(std::max(params.n_outputs_max, params.n_seq_max)) *
                        llama_vocab_n_tokens(llama_model_get_vocab(model)) * 4;
    const double needed = per_token * double(n_ctx) * share + rows;
    const uint64_t available = available_memory();
    if (available > 0 && needed > double(available)) {
        throw Error(
            "ContextCreateError",
            format(
                "a context of %llu tokens needs about %.1f GiB and %.1f GiB are free; ask for fewer tokens",
                (unsigned long long)n_ctx, needed / (1ULL << 30), double(available) / (1ULL << 30)));
    }
}

void Context::attach_threads(int32_t n_threads, int32_t n_threads_batch) {
    ggml_threadpool_params params = ggml_threadpool_params_default(std::max(n_threads, n_threads_batch));
    params.poll = uint32_t(std::clamp(options_.poll, 0, 100));
    std::unique_ptr<ggml_threadpool, void (*)(ggml_threadpool *)> pool(ggml_threadpool_new(&params),
                                                                       ggml_threadpool_free);
    if (!pool) {
        throw Error("ContextCreateError", format("cannot start %d threads", params.n_threads));
    }
    llama_attach_threadpool(ctx_.get(), pool.get(), pool.get());
    llama_set_n_threads(ctx_.get(), n_threads, n_threads_batch);
    pool_ = std::move(pool);
    n_threads_ = n_threads;
    n_threads_batch_ = n_threads_batch;
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
    const uint32_t limit = encode || !causal_ ? n_ubatch_ : n_batch_;
    if (batch.n < 1 || batch.n > limit) {
        throw Error("InvalidBatchError",
                    format("the batch has %zu tokens; this context takes 1 to %u", batch.n, limit), "tokens");
    }
    llama_memory_t memory = llama_get_memory(ctx_.get());
    const enum llama_rope_type rope = llama_model_rope_type(model_.get());
    const bool may_jump =
        rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE || memory == nullptr;
    std::vector<int32_t> last_index; // per sequence seen, its last batch index
    std::vector<int32_t> seen;
    llama_batch_ext_clear(batch_.get());
    std::fill(next_pos_.begin(), next_pos_.end(), -1);
    last_index.assign(n_seq_max_, -1);
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
            next = memory == nullptr ? 0 : llama_memory_seq_pos_max(memory, seq_id) + 1;
            seen.push_back(seq_id);
        }
        const llama_pos position = batch.positions == nullptr ? next : batch.positions[i];
        if (position != next && !(may_jump && position > next)) {
            throw Error("InvalidBatchError",
                        format("token %zu of sequence %d has position %d; the sequence goes on at %d", i,
                               seq_id, position, next),
                        "positions");
        }
        next = position + 1;
        last_index[size_t(seq_id)] = int32_t(i);
        const int32_t index = llama_batch_ext_add_token(batch_.get(), seq_id, token);
        if (index != int32_t(i)) {
            throw Error("InvalidBatchError",
                        format("llama.cpp refuses token %zu of the batch (code %d)", i, index), "tokens");
        }
        llama_batch_ext_set_pos(batch_.get(), index, &position);
    }
    outputs_.clear();
    generation_++;
    if (batch.outputs == nullptr) {
        for (const int32_t seq_id : seen) {
            outputs_.push_back(last_index[size_t(seq_id)]);
        }
        std::sort(outputs_.begin(), outputs_.end());
    } else {
        for (size_t i = 0; i < batch.n; i++) {
            if (batch.outputs[i] != 0) {
                outputs_.push_back(int32_t(i));
            }
        }
    }
    const uint32_t outputs_max = options_.n_outputs_max == 0 ? n_batch_ : options_.n_outputs_max;
    if (outputs_.size() > outputs_max || (options_.embeddings && batch.n > outputs_max)) {
        throw Error("InvalidBatchError",
                    format("the batch asks for %zu outputs; this context gives at most %u",
                           options_.embeddings ? batch.n : outputs_.size(), outputs_max),
                    "outputs");
    }
    size_t next_output = 0;
    for (size_t i = 0; i < batch.n; i++) {
        const bool wanted = next_output < outputs_.size() && outputs_[next_output] == int32_t(i);
        next_output += wanted ? 1 : 0;
        llama_batch_ext_set_output_logits(batch_.get(), int32_t(i), wanted || options_.embeddings);
    }
    if (options_.embeddings) {
        outputs_.resize(batch.n);
        for (size_t i = 0; i < batch.n; i++) {
            outputs_[i] = int32_t(i);
        }
    }
}

void Context::decode(const Batch & batch) {
    Lease lease(*this);
    decode_leased(batch);
}

void Context::decode_leased(const Batch & batch) {
    if (!llama_model_has_decoder(model_.get()) || llama_get_memory(ctx_.get()) == nullptr) {
        throw Error("InvalidBatchError", "this model has no decoder; use encode()");
    }
    prepare(batch, false);
    abort_.store(false, std::memory_order_relaxed);
    last_poll_ = std::chrono::steady_clock::now();
    int32_t code = 0;
    LogCapture log;
    try {
        code = llama_process(ctx_.get(), LLAMA_PROCESS_TYPE_DECODE, batch_.get());
    } catch (const std::bad_alloc &) {
        outputs_.clear();
        throw;
    } catch (const std::exception & e) {
        outputs_.clear();
        throw Error("ComputeError", std::string("llama.cpp failed: ") + e.what());
    }
    if (code == 0) {
        return;
    }
    outputs_.clear();
    if (code == 1) {
        throw Error(
            "NoKVSlotError",
            format("no room in the KV cache of %u tokens for a batch of %zu; remove sequences or make a "
                   "context with a larger n_ctx",
                   n_ctx_, batch.n));
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
    abort_.store(false, std::memory_order_relaxed);
    last_poll_ = std::chrono::steady_clock::now();
    LogCapture log;
    int32_t code = 0;
    try {
        code = llama_process(ctx_.get(), LLAMA_PROCESS_TYPE_ENCODE, batch_.get());
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & e) {
        throw Error("ComputeError", std::string("llama.cpp failed: ") + e.what());
    }
    if (code == 2) {
        throw Error("DecodeAborted", "the encode was aborted");
    }
    if (code != 0) {
        outputs_.clear();
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

float * Context::logits(int32_t i) {
    Lease lease(*this);
    return logits_leased(i);
}

float * Context::embeddings(int32_t i) {
    Lease lease(*this);
    check_output(i);
    float * row = options_.embeddings ? llama_get_embeddings_ith(ctx_.get(), i) : nullptr;
    if (row == nullptr) {
        throw Error("InvalidBatchError",
                    "no embeddings for this token: the context needs embeddings=True and pooling='none'");
    }
    return row;
}

float * Context::embeddings_of_sequence(int32_t seq_id) {
    Lease lease(*this);
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

int32_t Context::n_embd() const {
    return llama_model_n_embd_out(model_.get());
}

void Context::set_threads(int32_t n_threads, int32_t n_threads_batch) {
    Lease lease(*this);
    if (n_threads < 1 || n_threads > GGML_MAX_N_THREADS || n_threads_batch < 1 ||
        n_threads_batch > GGML_MAX_N_THREADS) {
        throw Error("InvalidRequestError",
                    format("n_threads is %d, n_threads_batch %d; they must be between 1 and %d", n_threads,
                           n_threads_batch, GGML_MAX_N_THREADS));
    }
    attach_threads(n_threads, n_threads_batch);
}

void Context::set_lora(const std::vector<std::pair<const LoraAdapter *, float>> & adapters) {
    Lease lease(*this);
    std::vector<llama_adapter_lora *> handles;
    std::vector<float> scales;
    for (const auto & [adapter, scale] : adapters) {
        if (adapter->model() != model_) {
            throw Error("InvalidRequestError", "the LoRA adapter belongs to another model than this context");
        }
        handles.push_back(adapter->get());
        scales.push_back(scale);
    }
    llama_adapter_lora * none = nullptr;
    float unused = 0;
    llama_set_adapters_lora(ctx_.get(), handles.empty() ? &none : handles.data(), handles.size(),
                            scales.empty() ? &unused : scales.data());
}

void Context::set_causal(bool causal) {
    Lease lease(*this);
    llama_set_causal_attn(ctx_.get(), causal);
    causal_ = causal;
}

} // namespace slipstream
