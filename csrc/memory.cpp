// The KV cache operations of a context, each with the checks llama.cpp answers with abort().
#include <algorithm>

#include "context.h"

namespace slipstream {

void Context::memory_clear(bool data) {
    Lease lease(*this);
    if (llama_memory_t memory = llama_get_memory(ctx_.get())) {
        llama_memory_clear(memory, data);
    }
}

bool Context::seq_rm(int32_t seq_id, int32_t p0, int32_t p1) {
    Lease lease(*this);
    return seq_rm_leased(seq_id, p0, p1);
}

bool Context::seq_rm_leased(int32_t seq_id, int32_t p0, int32_t p1) {
    check_seq(seq_id);
    llama_memory_t memory = llama_get_memory(ctx_.get());
    return memory == nullptr || llama_memory_seq_rm(memory, seq_id, p0, p1);
}

bool Context::holds_window_leased(int32_t seq_id, int32_t n_tokens) const {
    const int32_t window = llama_model_n_swa(model_.get());
    if (window <= 0) {
        return true;
    }
    const llama_pos first = llama_memory_seq_pos_min(llama_get_memory(ctx_.get()), seq_id);
    return first >= 0 && first <= std::max(0, n_tokens - window + 1);
}

void Context::seq_cp(int32_t from, int32_t to, int32_t p0, int32_t p1) {
    Lease lease(*this);
    seq_cp_leased(from, to, p0, p1);
}

void Context::seq_cp_leased(int32_t from, int32_t to, int32_t p0, int32_t p1) {
    check_seq(from);
    check_seq(to);
    llama_memory_t memory = llama_get_memory(ctx_.get());
    if (memory == nullptr || from == to) {
        return;
    }
    const llama_pos last = llama_memory_seq_pos_max(memory, from);
    const bool whole = p0 <= 0 && (p1 < 0 || p1 > last);
    if (!whole && (!options_.kv_unified || llama_model_is_recurrent(model_.get()) ||
                   llama_model_is_hybrid(model_.get()))) {
        throw Error(
            "InvalidRequestError",
            format("only a whole sequence can be copied in this memory; [%d, %d) of 0 to %d was asked for",
                   p0, p1, last),
            "p0");
    }
    if (llama_memory_seq_pos_max(memory, to) >= 0) {
        throw Error("InvalidRequestError",
                    format("sequence %d is not empty; remove it before copying into it", to), "to");
    }
    // Open ends for the whole: between the caches of separate sequences, llama.cpp asserts them.
    llama_memory_seq_cp(memory, from, to, whole ? -1 : p0, whole ? -1 : p1);
}

void Context::seq_keep(int32_t seq_id) {
    Lease lease(*this);
    check_seq(seq_id);
    if (llama_memory_t memory = llama_get_memory(ctx_.get())) {
        llama_memory_seq_keep(memory, seq_id);
    }
}

void Context::seq_add(int32_t seq_id, int32_t p0, int32_t p1, int32_t delta) {
    Lease lease(*this);
    check_seq(seq_id);
    llama_memory_t memory = llama_get_memory(ctx_.get());
    if (!can_shift_leased()) {
        throw Error(
            "InvalidRequestError",
            "this memory cannot shift positions: the model's kind cannot, or type_k is neither f16 nor f32");
    }
    const llama_pos first = llama_memory_seq_pos_min(memory, seq_id);
    const llama_pos start = std::max(p0, std::max(first, 0));
    if (first >= 0 && (int64_t(start) + delta < 0 ||
                       int64_t(llama_memory_seq_pos_max(memory, seq_id)) + delta > MAX_POSITION)) {
        throw Error("InvalidRequestError",
                    format("shifting by %d would move position %d below 0 or too far", delta, start),
                    "delta");
    }
    llama_memory_seq_add(memory, seq_id, p0, p1, delta);
}

int32_t Context::seq_pos_min(int32_t seq_id) {
    Lease lease(*this);
    check_seq(seq_id);
    llama_memory_t memory = llama_get_memory(ctx_.get());
    return memory == nullptr ? -1 : llama_memory_seq_pos_min(memory, seq_id);
}

int32_t Context::seq_pos_max(int32_t seq_id) {
    Lease lease(*this);
    check_seq(seq_id);
    llama_memory_t memory = llama_get_memory(ctx_.get());
    return memory == nullptr ? -1 : llama_memory_seq_pos_max(memory, seq_id);
}

bool Context::can_shift() {
    Lease lease(*this);
    return can_shift_leased();
}

// llama.cpp says yes for other key types, too, and then dies on bf16 and on quantized heads of a size not a multiple
// of 64.
bool Context::can_shift_leased() const {
    llama_memory_t memory = llama_get_memory(ctx_.get());
    const bool plain = options_.type_k == "f16" || options_.type_k == "f32";
    return memory != nullptr && plain && llama_memory_can_shift(memory);
}

} // namespace slipstream
