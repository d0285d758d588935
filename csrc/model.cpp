#include "model.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>

#include "deep_stack.h"
#include "fingerprint.h"
#include "gguf.h"
#include "native_log.h"

namespace slipstream {

namespace {

// llama.cpp splits text by std::regex for many BPE vocabularies. That recurses for each character of a match, about
// 300 bytes of stack apiece, and a match can be any text without white space.
size_t stack_for(std::string_view text) {
    constexpr size_t MAX_RUN = 1 << 20, FRAME = 1024; // bytes
    size_t longest = 0, run = 0;
    bool space = false;
    for (const char c : text) {
        const bool ascii = static_cast<unsigned char>(c) < 0x80; // others may be either
        const bool changed = ascii && space != (std::isspace(c) != 0);
        space = space != changed;
        run = changed ? 1 : run + 1;
        longest = std::max(longest, run);
    }
    if (longest > MAX_RUN) {
        throw Error(
            "InvalidRequestError",
            format("text has %zu bytes in a row without white space, or of it; at most %zu can be tokenized",
                   longest, MAX_RUN),
            "text");
    }
    return longest * FRAME;
}

// Returns the number under `key` of a header, `fallback` if there is none; throws where the layers have one each.
int64_t header_number(const gguf_context * header, const std::string & key, int64_t fallback,
                      const std::string & path) {
    const int64_t id = gguf_find_key(header, key.c_str());
    if (id < 0) {
        return fallback;
    }
    switch (gguf_get_kv_type(header, id)) {
    case GGUF_TYPE_UINT32:
        return gguf_get_val_u32(header, id);
    case GGUF_TYPE_INT32:
        return gguf_get_val_i32(header, id);
    case GGUF_TYPE_UINT16:
        return gguf_get_val_u16(header, id);
    case GGUF_TYPE_UINT64:
        return int64_t(gguf_get_val_u64(header, id));
    default:
        throw Error("ModelLoadError",
                    path + ": num_experts cannot be set, as " + key + " is not one number for all layers",
                    path);
    }
}

// Has a token sent to `num_experts` experts, which llama.cpp would take unchecked and abort() over.
llama_model_kv_override expert_override(const std::string & path, int32_t num_experts) {
    const std::unique_ptr<gguf_context, void (*)(gguf_context *)> header(
        gguf_init_from_file(path.c_str(), {true, nullptr}), gguf_free);
    const int64_t id = header ? gguf_find_key(header.get(), "general.architecture") : -1;
    if (id < 0 || gguf_get_kv_type(header.get(), id) != GGUF_TYPE_STRING) {
        throw Error("ModelLoadError", path + ": its header names no architecture", path);
    }
    const std::string arch = gguf_get_val_str(header.get(), id), used = arch + ".expert_used_count";
    const int64_t n_experts = header_number(header.get(), arch + ".expert_count", 0, path);
    if (n_experts < 2) {
        throw Error(
            "InvalidRequestError",
            format("num_experts is %d, but this model is no mixture of experts; leave it out", num_experts),
            "num_experts");
    }
    header_number(header.get(), used, 0, path);
    const int64_t n_groups = header_number(header.get(), arch + ".expert_group_count", 0, path);
    int64_t most = n_experts;
    if (n_groups > 1) { // experts come from so many groups only
        most = n_experts / n_groups * header_number(header.get(), arch + ".expert_group_used_count", 1, path);
    }
    if (num_experts < 1 || num_experts > most) {
        throw Error("InvalidRequestError",
                    format("num_experts is %d; for this model it must be between 1 and %lld", num_experts,
                           (long long)most),
                    "num_experts");
    }
    llama_model_kv_override override = {};
    override.tag = LLAMA_KV_OVERRIDE_TYPE_INT;
    std::snprintf(override.key, sizeof(override.key), "%s", used.c_str());
    override.val_i64 = num_experts;
    return override;
}

// Frees a model, then what its weights were copied to. Copies are made in `memory`.
struct FreeModel {
    std::shared_ptr<HugeMemory> memory = std::make_shared<HugeMemory>();

    void operator()(llama_model * model) const { llama_model_free(model); }
};

bool on_progress(float fraction, void * data) {
    const auto & progress = *static_cast<const std::function<bool(float)> *>(data);
    return !progress || progress(fraction);
}

} // namespace

Model::Model(const std::string & path, const ModelOptions & options,
             const std::function<bool(float)> & progress)
    : path_(path), vocab_only_(options.vocab_only), fingerprint_(0), pid_(getpid()) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = options.gpu_layers;
    params.load_mode = options.mmap ? (options.mlock ? LLAMA_LOAD_MODE_MMAP_MLOCK : LLAMA_LOAD_MODE_MMAP)
                                    : (options.mlock ? LLAMA_LOAD_MODE_MLOCK : LLAMA_LOAD_MODE_NONE);
    params.use_extra_bufts = options.repack;
    params.vocab_only = options.vocab_only;
    params.check_tensors = options.check_tensors;
    llama_model_kv_override overrides[2] = {}; // the last one has no key
    if (options.num_experts != 0) {
        overrides[0] = expert_override(path, options.num_experts);
        params.kv_overrides = overrides;
    }
    bool cancelled = false;
    const std::function<bool(float)> watched = [&](float fraction) {
        cancelled = cancelled || (progress && !progress(fraction));
        return !cancelled;
    };
    params.progress_callback = on_progress;
    params.progress_callback_user_data = const_cast<std::function<bool(float)> *>(&watched);

    LogCapture log;
    model_.reset(llama_model_load_from_file(path.c_str(), params), FreeModel());
    if (!model_) {
        const std::string cause = cancelled ? "loading was cancelled" : log.tail("llama.cpp gave no reason");
        throw Error("ModelLoadError", path + ": " + cause, path);
    }
    fingerprint_ = fingerprint_model(path, std::atoi(metadata_text(model_.get(), "split.count").c_str()));
}

size_t Model::use_huge_pages(bool wait) {
    std::shared_ptr<HugePages> pages;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        const std::shared_ptr<llama_model> & model = open_model();
        if (!huge_pages_) {
            huge_pages_ = std::make_shared<HugePages>(model, std::get_deleter<FreeModel>(model)->memory);
        }
        pages = huge_pages_;
    }
    if (wait) {
        pages->wait();
    }
    return pages->n_bytes();
}

void Model::close() {
    std::shared_ptr<llama_model> last; // freed after the lock, as are the pages
    std::shared_ptr<HugePages> pages;
    std::lock_guard<std::mutex> lock(mutex_);
    last.swap(model_);
    pages.swap(huge_pages_);
    if (pid_ != getpid()) {
        (void)new std::shared_ptr<HugePages>(std::move(pages)); // its thread did not survive the fork
    }
}

bool Model::is_closed() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return !model_;
}

std::shared_ptr<llama_model> Model::handle() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return open_model();
}

const std::shared_ptr<llama_model> & Model::open_model() const {
    if (!model_) {
        throw Error("ClosedError", "the model " + path_ + " is closed");
    }
    if (pid_ != getpid()) {
        throw Error("ClosedError", "the model was loaded before fork(); load it in the process that uses it");
    }
    return model_;
}

const llama_vocab * Model::vocab() const {
    return llama_model_get_vocab(handle().get());
}

std::vector<std::pair<std::string, std::string>> Model::metadata() const {
    const std::shared_ptr<llama_model> held = handle();
    const llama_model * model = held.get();
    std::vector<std::pair<std::string, std::string>> pairs;
    std::vector<char> buffer(256);
    const auto read = [&](auto && getter) {
        const int32_t length = getter(buffer.data(), buffer.size());
        if (length >= int32_t(buffer.size())) {
            buffer.resize(size_t(length) + 1);
            getter(buffer.data(), buffer.size());
        }
        return std::string(buffer.data(), size_t(std::max(length, 0)));
    };
    for (int32_t i = 0; i < llama_model_meta_count(model); i++) {
        std::string key =
            read([&](char * p, size_t n) { return llama_model_meta_key_by_index(model, i, p, n); });
        std::string value =
            read([&](char * p, size_t n) { return llama_model_meta_val_str_by_index(model, i, p, n); });
        pairs.emplace_back(std::move(key), std::move(value));
    }
    return pairs;
}

std::string Model::description() const {
    char buffer[256];
    llama_model_desc(handle().get(), buffer, sizeof(buffer));
    return buffer;
}

std::string Model::chat_template(const std::string & name) const {
    const std::shared_ptr<llama_model> model = handle();
    const char * text = llama_model_chat_template(model.get(), name.empty() ? nullptr : name.c_str());
    return text == nullptr ? std::string() : std::string(text);
}

std::vector<int32_t> Model::tokenize(std::string_view text, bool add_special, bool parse_special) const {
    if (text.size() > size_t(INT32_MAX) / 2) {
        throw Error("InvalidRequestError",
                    format("text has %zu bytes; at most 1 GiB can be tokenized", text.size()), "text");
    }
    // A token is at least one byte; two more for the special ones at the ends. Never too small in practice.
    std::vector<int32_t> tokens(text.size() + 8);
    const std::shared_ptr<llama_model> model = handle();
    check_vocabulary();
    const auto call = [&] {
        return llama_tokenize(llama_model_get_vocab(model.get()), text.data(), int32_t(text.size()),
                              tokens.data(), int32_t(tokens.size()), add_special, parse_special);
    };
    const auto tokenized = [&] {
        int32_t n = call();
        if (n < 0) {
            tokens.resize(size_t(-n));
            n = call();
        }
        tokens.resize(size_t(std::max(n, 0)));
    };
    const bool is_bpe = llama_vocab_type(llama_model_get_vocab(model.get())) == LLAMA_VOCAB_TYPE_BPE;
    const size_t n_stack = is_bpe ? stack_for(text) : 0;
    // Vocabularies without byte tokens throw at what they lack.
    guarded(
        "InvalidRequestError", "the model's vocabulary has no tokens for a part of the text",
        [&] { run_with_stack(n_stack, tokenized); }, "text");
    return tokens;
}

std::string Model::detokenize(const std::vector<int32_t> & tokens, bool remove_special,
                              bool unparse_special) const {
    for (const int32_t token : tokens) {
        check_token(token);
    }
    std::string text(tokens.size() * 8 + 16, '\0');
    const std::shared_ptr<llama_model> model = handle();
    const auto call = [&] {
        return llama_detokenize(llama_model_get_vocab(model.get()), tokens.data(), int32_t(tokens.size()),
                                text.data(), int32_t(text.size()), remove_special, unparse_special);
    };
    guarded("InvalidRequestError", "the model's vocabulary cannot spell these tokens", [&] {
        int32_t n = call();
        if (n < 0) {
            text.resize(size_t(-n));
            n = call();
        }
        text.resize(size_t(std::max(n, 0)));
    });
    return text;
}

void Model::check_vocabulary() const {
    if (llama_vocab_type(vocab()) == LLAMA_VOCAB_TYPE_NONE) {
        throw Error("InvalidRequestError", "the model " + path_ + " has no vocabulary");
    }
}

void Model::check_token(int32_t token) const {
    check_vocabulary();
    const int32_t n_vocab = llama_vocab_n_tokens(vocab());
    if (token < 0 || token >= n_vocab) {
        throw Error("InvalidRequestError",
                    format("token id %d is not in the vocabulary: 0 to %d", token, n_vocab - 1), "tokens");
    }
}

std::string Model::token_to_piece(int32_t token, bool special) const {
    check_token(token);
    const std::shared_ptr<llama_model> model = handle();
    std::string piece;
    guarded("InvalidRequestError", "the model's vocabulary cannot spell this token",
            [&] { append_piece(llama_model_get_vocab(model.get()), token, special, piece); });
    return piece;
}

std::string metadata_text(const llama_model * model, const std::string & key) {
    char buffer[64] = "";
    llama_model_meta_val_str(model, key.c_str(), buffer, sizeof(buffer));
    return buffer;
}

std::string architecture(const llama_model * model) {
    return metadata_text(model, "general.architecture");
}

void append_piece(const llama_vocab * vocab, int32_t token, bool special, std::string & out) {
    if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
        return;
    }
    char small[64];
    int32_t n = llama_token_to_piece(vocab, token, small, sizeof(small), 0, special);
    if (n >= 0) {
        out.append(small, size_t(n));
        return;
    }
    std::string large(size_t(-n), '\0');
    n = llama_token_to_piece(vocab, token, large.data(), int32_t(large.size()), 0, special);
    out.append(large, 0, size_t(std::max(n, 0)));
}

} // namespace slipstream
