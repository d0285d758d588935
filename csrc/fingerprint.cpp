#include "fingerprint.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "build_info.h"
#include "gguf.h"
#include "llama.h"

namespace slipstream {

namespace {

constexpr uint64_t BLOCK = 4096, N_SAMPLES = 64;

// Bytes before the tensors' data; 0 if the file is no GGUF.
uint64_t header_size(const std::string & path) {
    const std::unique_ptr<gguf_context, void (*)(gguf_context *)> header(
        gguf_init_from_file(path.c_str(), {true, nullptr}), gguf_free);
    return header ? gguf_get_data_offset(header.get()) : 0;
}

uint64_t hash_file(const std::string & path, uint64_t hash) {
    const std::unique_ptr<FILE, int (*)(FILE *)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!file) {
        return hash;
    }
    std::fseek(file.get(), 0, SEEK_END);
    const auto size = uint64_t(std::ftell(file.get()));
    hash = hash_bytes(&size, sizeof(size), hash);
    const auto read = [&](uint64_t offset, uint64_t n) {
        std::vector<char> block(n);
        std::fseek(file.get(), long(offset), SEEK_SET);
        hash = hash_bytes(block.data(), std::fread(block.data(), 1, block.size(), file.get()), hash);
    };
    read(0, std::min(header_size(path), size));
    for (uint64_t i = 0; i < N_SAMPLES; i++) {
        read(size > BLOCK ? (size - BLOCK) * i / (N_SAMPLES - 1) : 0, BLOCK); // the last ones, too
    }
    return hash;
}

} // namespace

uint64_t hash_bytes(const void * data, size_t size, uint64_t hash) {
    const auto * bytes = static_cast<const unsigned char *>(data);
    const auto add = [&](uint64_t word) {
        hash = (hash ^ word) * 0x100000001b3ULL;
        hash ^= hash >> 32; // or the sign bits of two weights would cancel out
    };
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        std::memcpy(&word, bytes + i, 8);
        add(word);
    }
    for (; i < size; i++) {
        add(bytes[i]);
    }
    return hash;
}

uint64_t fingerprint_model(const std::string & path, int32_t n_files) {
    uint64_t hash = hash_file(path, hash_bytes(nullptr, 0));
    std::vector<char> prefix(path.size() + 1), name(path.size() + 32);
    if (n_files > 1 && llama_split_prefix(prefix.data(), prefix.size(), path.c_str(), 0, n_files) > 0) {
        for (int32_t i = 1; i < n_files; i++) {
            llama_split_path(name.data(), name.size(), prefix.data(), i, n_files);
            hash = hash_file(name.data(), hash);
        }
    }
    return hash;
}

uint64_t fingerprint_build() {
    static const uint64_t known = [] {
        const BuildInfo info = build_info();
        uint64_t hash = hash_bytes(nullptr, 0);
        const auto add = [&](const std::string & text) {
            hash = hash_bytes(text.c_str(), text.size() + 1, hash);
        };
        for (const std::string & text : {info.version, info.llama_commit, info.llama_version,
                                         info.ggml_version, info.backend, info.flags, info.compiler}) {
            add(text);
        }
        for (const auto & pairs : {info.kernels, info.devices}) {
            for (const auto & [name, text] : pairs) {
                add(name);
                add(text);
            }
        }
        for (const std::string & feature : info.cpu_features) {
            add(feature);
        }
        return hash;
    }();
    return known;
}

} // namespace slipstream
