// What a context may ask of the machine and of llama.cpp, known before it is made.
#include <algorithm>
#include <fstream>
#include <sstream>

#include "context.h"

namespace slipstream {

namespace {

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
    const std::string text = metadata_text(model, key);
    return text.empty() ? otherwise : std::atoll(text.c_str());
}

} // namespace

// Pooling asserts that the largest ubatch, rounded up to a multiple of n_seq_max, has an output for every token.
uint32_t Context::embedding_ubatch(const llama_context_params & params) const {
    const uint32_t n_ctx = params.n_ctx == 0 ? uint32_t(llama_model_n_ctx_train(model_.get())) : params.n_ctx;
    // llama.cpp cuts the ubatch down to n_ctx (if attention is causal), the largest one to n_ctx padded.
    uint32_t n = params.n_ubatch;
    for (const uint32_t bound : {n_ctx, (n_ctx + 255) / 256 * 256}) {
        n = n > bound && bound % params.n_seq_max != 0 ? bound : n;
    }
    if (n < params.n_seq_max) {
        throw Error(
            "ContextCreateError",
            format("n_ubatch is %u; embeddings of %u sequences need at least as many", n, params.n_seq_max));
    }
    return n - n % params.n_seq_max;
}

// An over-committing kernel grants any KV cache and kills the process while it is zeroed, so a bound is checked first.
void Context::check_memory_fits(const llama_context_params & params) const {
    const llama_model * model = model_.get();
    const uint64_t n_ctx = params.n_ctx == 0 ? uint64_t(llama_model_n_ctx_train(model)) : params.n_ctx;
    if (n_ctx > (1ULL << 31) - 1) {
        throw Error("ContextCreateError",
                    format("n_ctx is %llu; it must be below 2^31", (unsigned long long)n_ctx));
    }
    const std::string arch = architecture(model);
    const int64_t n_head = std::max(1, llama_model_n_head(model));
    const int64_t head_size = llama_model_n_embd(model) / n_head;
    const int64_t size_k = metadata_int(model, arch + ".attention.key_length", head_size);
    const int64_t size_v = metadata_int(model, arch + ".attention.value_length", head_size);
    const double per_token = double(llama_model_n_layer(model)) * std::max(1, llama_model_n_head_kv(model)) *
                             (double(size_k) * ggml_type_size(params.type_k) / ggml_blck_size(params.type_k) +
                              double(size_v) * ggml_type_size(params.type_v) / ggml_blck_size(params.type_v));
    // Few layers of a hybrid keep a KV cache, none of a recurrent model's do.
    const double share = llama_model_is_recurrent(model) ? 0.0 : llama_model_is_hybrid(model) ? 0.125 : 1.0;
    const double rows = double(params.n_outputs_max) * llama_vocab_n_tokens(llama_model_get_vocab(model)) * 4;
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

} // namespace slipstream
