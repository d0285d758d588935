// Writes a model file with its weights in another type: llama.cpp's quantizer with its preconditions checked.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace slipstream {

struct QuantizeOptions {
    std::string type;              // one of quantize_types()
    int32_t n_threads = 0;         // 0: physical cores
    bool allow_requantize = false; // from anything but f32, f16 and bf16, which loses twice
    bool keep_output = false;      // leave output.weight as it is
    bool pure = false;             // every matrix in that type, no mix by layer
};

// Names in order of size. Those that need an importance matrix are left out.
const std::vector<std::string> & quantize_types();

// `progress` is called on this thread with 0…1 and cancels by returning false. `target` must not be a part of the
// source, which stays mapped; what a failure leaves of it is the caller's to remove.
// Throws InvalidRequestError for a type there is not, and ModelLoadError with the reason, path as detail.
void quantize_file(const std::string & source, const std::string & target, const QuantizeOptions & options,
                   const std::function<bool(float)> & progress);

} // namespace slipstream
