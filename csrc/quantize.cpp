#include "quantize.h"

#include <cstdio>
#include <stdexcept>

#include "context.h"
#include "errors.h"
#include "llama.h"
#include "native_log.h"

namespace slipstream {

namespace {

struct NamedType {
    const char * name;
    llama_ftype ftype;
};

constexpr NamedType TYPES[] = {
    {"q2_k", LLAMA_FTYPE_MOSTLY_Q2_K},     {"q3_k_s", LLAMA_FTYPE_MOSTLY_Q3_K_S},
    {"q3_k_m", LLAMA_FTYPE_MOSTLY_Q3_K_M}, {"q3_k_l", LLAMA_FTYPE_MOSTLY_Q3_K_L},
    {"iq4_xs", LLAMA_FTYPE_MOSTLY_IQ4_XS}, {"iq4_nl", LLAMA_FTYPE_MOSTLY_IQ4_NL},
    {"q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},     {"q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},
    {"q4_k_s", LLAMA_FTYPE_MOSTLY_Q4_K_S}, {"q4_k_m", LLAMA_FTYPE_MOSTLY_Q4_K_M},
    {"q5_0", LLAMA_FTYPE_MOSTLY_Q5_0},     {"q5_1", LLAMA_FTYPE_MOSTLY_Q5_1},
    {"q5_k_s", LLAMA_FTYPE_MOSTLY_Q5_K_S}, {"q5_k_m", LLAMA_FTYPE_MOSTLY_Q5_K_M},
    {"q6_k", LLAMA_FTYPE_MOSTLY_Q6_K},     {"q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},
    {"bf16", LLAMA_FTYPE_MOSTLY_BF16},     {"f16", LLAMA_FTYPE_MOSTLY_F16},
    {"f32", LLAMA_FTYPE_ALL_F32},
};

llama_ftype ftype_of(const std::string & name) {
    for (const NamedType & type : TYPES) {
        if (name == type.name) {
            return type.ftype;
        }
    }
    std::string names;
    for (const std::string & known : quantize_types()) {
        names += (names.empty() ? "" : ", ") + known;
    }
    throw Error("InvalidRequestError", "type is '" + name + "'; it must be one of " + names, "type");
}

} // namespace

const std::vector<std::string> & quantize_types() {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> all;
        for (const NamedType & type : TYPES) {
            all.emplace_back(type.name);
        }
        return all;
    }();
    return names;
}

void quantize_file(const std::string & source, const std::string & target, const QuantizeOptions & options,
                   const std::function<bool(float)> & progress) {
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = ftype_of(options.type);
    params.nthread = options.n_threads > 0 ? options.n_threads : default_threads();
    params.allow_requantize = options.allow_requantize;
    params.quantize_output_tensor = !options.keep_output;
    params.pure = options.pure;

    // The log is the one place where llama.cpp says how far it is, between two tensors when none of its threads run;
    // llama_model_quantize() catches what is thrown there.
    bool cancelled = false;
    LogWatch watch([&](const std::string & line) {
        int done = 0, total = 0;
        if (!cancelled && std::sscanf(line.c_str(), "[%d/%d]", &done, &total) == 2 && total > 0 && progress &&
            !progress(float(done - 1) / float(total))) {
            cancelled = true;
            throw std::runtime_error("cancelled");
        }
    });
    LogCapture log;
    if (llama_model_quantize(source.c_str(), target.c_str(), &params) != 0) {
        std::string cause = cancelled ? "quantization was cancelled" : log.tail("llama.cpp gave no reason");
        if (cause.find("requantizing") != std::string::npos) {
            cause += "; start from an f16 file, or allow_requantize";
        }
        throw Error("ModelLoadError", source + ": " + cause, source);
    }
    if (progress) {
        progress(1.0f);
    }
}

} // namespace slipstream
