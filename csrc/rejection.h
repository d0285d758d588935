// Verification of a sampled draft that keeps the target's distribution: speculative sampling (Leviathan et al. 2023,
// arXiv 2211.17192, algorithm 1). Pure logic, no llama.cpp.
#pragma once

#include <cstdint>
#include <vector>

#include "sampler.h"

namespace slipstream {

struct Verdict {
    bool accepted;
    int32_t token; // what comes out in the draft's place
};

// `p` (of the target) and `q` (what `draft` was drawn from) give each possible token's probability in `logit`; tokens
// that are not listed have none. `accept` and `pick` are uniform in [0, 1). `scratch` has room for every token and is
// all zero, before and after. Accepts with min(1, p/q), else draws from max(p - q, 0).
Verdict rejection_sample(const std::vector<Candidate> & p, const std::vector<Candidate> & q, int32_t draft,
                         double accept, double pick, std::vector<float> & scratch);

// A token of a distribution, as above; -1 if nothing has any probability.
int32_t draw_token(const std::vector<Candidate> & p, double pick);

} // namespace slipstream
