// The bare decode loop: what llama.cpp's simplest example does, without our batch checks, sampler or text.
#include "context.h"
#include "sampler.h"

namespace slipstream {

std::vector<int32_t> Context::greedy_loop(int32_t token, int32_t n) {
    Lease lease(*this);
    llama_memory_t memory = llama_get_memory(ctx_.get());
    const bool needs_encoder = llama_model_has_encoder(model_.get()) && !encoded_;
    if (memory == nullptr || needs_encoder || token < 0 || token >= n_vocab_ || n < 1) {
        throw Error(
            "InvalidBatchError",
            format("greedy_loop(token=%d, n=%d) needs a decoder, a token of 0 to %d and n of 1 or more",
                   token, n, n_vocab_ - 1));
    }
    if (int64_t(llama_memory_seq_pos_max(memory, 0)) + 1 + n > int64_t(n_ctx_seq_)) {
        throw Error("NoKVSlotError", format("%d more tokens do not fit the context of %u", n, n_ctx_seq_));
    }
    outputs_.clear();
    begin_compute();
    std::vector<int32_t> tokens;
    tokens.reserve(size_t(n));
    for (int32_t i = 0; i < n; i++) {
        const int32_t code = guarded("ComputeError", "llama.cpp failed", [&] {
            return llama_decode(ctx_.get(), llama_batch_get_one(&token, 1));
        });
        if (code == 2) {
            throw Error("DecodeAborted", "the decode was aborted");
        }
        if (code != 0) {
            throw Error("ComputeError", format("decode failed with code %d", code));
        }
        const float * row = llama_get_logits_ith(ctx_.get(), -1);
        token = row == nullptr ? -1 : argmax(row, n_vocab_);
        if (token < 0) {
            throw Error("ComputeError", "the model gave no logits above -inf");
        }
        tokens.push_back(token);
    }
    return tokens;
}

} // namespace slipstream
