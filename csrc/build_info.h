// What this build is made of, for `slipstream version` and benchmark provenance.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace slipstream {

struct BuildInfo {
    std::string version, llama_commit, llama_version, ggml_version, backend, flags, compiler;
    std::vector<std::pair<std::string, std::string>> devices; // name, description
    std::vector<std::pair<std::string, std::string>>
        kernels;                           // weight type our own matrix product serves, its ISA
    std::vector<std::string> cpu_features; // those ggml was compiled to use
};

BuildInfo build_info();

} // namespace slipstream
