// Saving one sequence's state. llama.cpp's own format compares the architecture's name only, so ours wraps it with
// a header that ties it to the model's weights, the build that computed it and the cache's layout, and a checksum:
//
//   | Header | n_tokens × int32 token ids | payload of llama_state_seq_get_data |
#include <cstring>

#include "context.h"
#include "fingerprint.h"
#include "native_log.h"

namespace slipstream {

namespace {

struct Header {
    char magic[8];
    uint32_t version;
    uint32_t n_tokens;
    uint64_t fingerprint; // of the model
    uint64_t build;       // fingerprint_build()
    uint64_t layout;      // of the KV cache
    uint64_t n_payload;
    uint64_t checksum; // hash_bytes() of tokens and payload
};

constexpr char MAGIC[8] = {'S', 'L', 'P', 'S', 'T', 'A', 'T', 'E'};
constexpr uint32_t VERSION = 2;

} // namespace

// Everything besides the weights that decides how the payload is laid out.
uint64_t Context::layout() const {
    const std::string text =
        options_.type_k + "/" + options_.type_v + "/" + std::to_string(options_.flash_attention) + "/" +
        std::to_string(options_.kv_unified) + "/" + std::to_string(options_.swa_full) + "/" +
        std::to_string(options_.rope_freq_base) + "/" + std::to_string(options_.rope_freq_scale);
    return hash_bytes(text.data(), text.size());
}

void Context::check_tokens(const std::vector<int32_t> & tokens, const char * kind) const {
    for (const int32_t token : tokens) {
        if (token < 0 || token >= n_vocab_) {
            throw Error(kind, format("token id %d is not in the vocabulary: 0 to %d", token, n_vocab_ - 1),
                        "tokens");
        }
    }
}

std::string Context::state_save(int32_t seq_id, const std::vector<int32_t> & tokens) {
    Lease lease(*this);
    check_seq(seq_id);
    check_tokens(tokens, "InvalidRequestError");
    const size_t n_token_bytes = tokens.size() * sizeof(int32_t);
    const size_t n_payload = llama_state_seq_get_size(ctx_.get(), seq_id);
    std::string state(sizeof(Header) + n_token_bytes + n_payload, '\0');
    char * body = state.data() + sizeof(Header);
    std::memcpy(body, tokens.data(), n_token_bytes);
    const size_t written = llama_state_seq_get_data(
        ctx_.get(), reinterpret_cast<uint8_t *>(body + n_token_bytes), n_payload, seq_id);
    if (written != n_payload) {
        throw Error("StateError",
                    format("saving sequence %d gave %zu of %zu bytes", seq_id, written, n_payload));
    }
    Header header = {};
    std::memcpy(header.magic, MAGIC, sizeof(MAGIC));
    header.version = VERSION;
    header.n_tokens = uint32_t(tokens.size());
    header.fingerprint = fingerprint_;
    header.build = fingerprint_build();
    header.layout = layout();
    header.n_payload = n_payload;
    header.checksum = hash_bytes(body, n_token_bytes + n_payload);
    std::memcpy(state.data(), &header, sizeof(header));
    return state;
}

std::vector<int32_t> Context::state_load(const char * data, size_t size, int32_t seq_id) {
    Lease lease(*this);
    check_seq(seq_id);
    Header header;
    if (size < sizeof(header)) {
        throw Error("StateError", format("a state of %zu bytes is too short", size));
    }
    std::memcpy(&header, data, sizeof(header));
    if (std::memcmp(header.magic, MAGIC, sizeof(MAGIC)) != 0 || header.version != VERSION) {
        throw Error("StateError", "this is no state saved by this version of Slipstream");
    }
    if (header.fingerprint != fingerprint_) {
        throw Error("StateError", "the state was saved from another model");
    }
    if (header.build != fingerprint_build()) {
        throw Error("StateError",
                    "the state was saved by another build of Slipstream, or on another kind of machine");
    }
    if (header.layout != layout()) {
        throw Error(
            "StateError",
            "the state was saved from a context with other KV types, attention, memory or rope settings");
    }
    const size_t n_token_bytes = size_t(header.n_tokens) * sizeof(int32_t);
    const char * body = data + sizeof(header);
    if (header.n_payload > size || n_token_bytes > size ||
        size - sizeof(header) != n_token_bytes + header.n_payload ||
        hash_bytes(body, size - sizeof(header)) != header.checksum) {
        throw Error("StateError", "the state is cut or damaged");
    }
    std::vector<int32_t> tokens(header.n_tokens);
    std::memcpy(tokens.data(), body, n_token_bytes);
    check_tokens(tokens, "StateError");
    llama_memory_t memory = llama_get_memory(ctx_.get());
    llama_memory_seq_rm(memory, seq_id, -1, -1);
    LogCapture log;
    const size_t n_read =
        llama_state_seq_set_data(ctx_.get(), reinterpret_cast<const uint8_t *>(body + n_token_bytes),
                                 size_t(header.n_payload), seq_id);
    // A checksum is no signature: positions that a decode could not have made would overflow the next one's.
    const bool sane = llama_memory_seq_pos_max(memory, seq_id) <= MAX_POSITION &&
                      llama_memory_seq_pos_min(memory, seq_id) >= -1;
    if (n_read != header.n_payload || !sane) {
        llama_memory_seq_rm(memory, seq_id, -1, -1);
        throw Error("StateError",
                    "the state does not fit this context: " + log.tail("is its n_ctx large enough?"));
    }
    return tokens;
}

} // namespace slipstream
