#include "rejection.h"

#include <algorithm>

namespace slipstream {

namespace {

// The token in which `pick` of the whole of `weight(candidate)` is reached; -1 if nothing has any.
template <class Weight>
int32_t draw(const std::vector<Candidate> & candidates, double pick, const Weight & weight) {
    double total = 0;
    for (const Candidate & c : candidates) {
        total += weight(c);
    }
    double left = pick * total;
    int32_t token = -1;
    for (const Candidate & c : candidates) {
        const double w = weight(c);
        if (w > 0) {
            token = c.token; // the last one takes what rounding leaves
            left -= w;
            if (left < 0) {
                break;
            }
        }
    }
    return token;
}

} // namespace

int32_t draw_token(const std::vector<Candidate> & p, double pick) {
    return draw(p, pick, [](const Candidate & c) { return double(c.logit); });
}

Verdict rejection_sample(const std::vector<Candidate> & p, const std::vector<Candidate> & q, int32_t draft,
                         double accept, double pick, std::vector<float> & scratch) {
    for (const Candidate & c : q) {
        scratch[size_t(c.token)] = c.logit;
    }
    double p_draft = 0;
    for (const Candidate & c : p) {
        if (c.token == draft) {
            p_draft = double(c.logit);
            break;
        }
    }
    Verdict verdict = {accept * double(scratch[size_t(draft)]) < p_draft, draft};
    if (!verdict.accepted) {
        verdict.token = draw(p, pick, [&](const Candidate & c) {
            return std::max(0.0, double(c.logit) - double(scratch[size_t(c.token)]));
        });
        if (verdict.token < 0) { // equal but for rounding: nothing is left over
            verdict.token = draw_token(p, pick);
        }
    }
    for (const Candidate & c : q) {
        scratch[size_t(c.token)] = 0;
    }
    return verdict;
}

} // namespace slipstream
