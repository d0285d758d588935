// Hashes that tell whether something saved belongs to this model and this build. No protection against malice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace slipstream {

// FNV-1a, 64 bit (isthe.com/chongo/tech/comp/fnv), but of eight bytes at a time, the rest one by one, and with the upper
// half of each result mixed into the lower. `hash` goes on from an earlier part.
uint64_t hash_bytes(const void * data, size_t size, uint64_t hash = 0xcbf29ce484222325ULL);

// Of a model's weights and metadata, whole headers and 64 samples of 4 KiB of each file: tells a fine-tune from its base
// without reading gigabytes. `n_files` > 1: `path` is the first of so many, named as llama.cpp's split names them.
uint64_t fingerprint_model(const std::string & path, int32_t n_files);

// Of what decides about the last bits of a computation: version, pinned llama.cpp, compiler and flags, the instruction
// sets of the kernels, devices.
uint64_t fingerprint_build();

} // namespace slipstream
