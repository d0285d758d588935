// Rows of logits: the best of them, in order, and what they weigh. Knows no sampler. Nothing sorts a whole row unless all of
// it was asked for; -inf and NaN are never chosen and weigh nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace slipstream {

struct Candidate {
    int32_t token;
    float logit;
};

// Index of the largest of n floats, the first of equals; -1 if none is above -inf.
int32_t argmax(const float * values, int32_t n);
// The k largest of n floats, best first, of equals the first. A small k: O(n) compares by blocks plus O(log k) per new
// entry; a large one: O(n + k).
void select_top_k(const float * values, int32_t n, int32_t k, std::vector<Candidate> & out);
// The largest of n floats, best first, as many as it takes for their exp(value - highest) to add up to `mass`, a few more,
// and none that is far below `lowest`; all if they do not. O(n + number of them).
void select_mass(const float * values, int32_t n, double mass, float lowest, std::vector<Candidate> & out);
// Those of n floats that are at least `lowest`, in their order.
void select_at_least(const float * values, int32_t n, float lowest, std::vector<Candidate> & out);
// sum(exp(values - highest)).
double sum_exp(const float * values, int32_t n, float highest);
// log(sum(exp(values))).
double log_sum_exp(const float * values, int32_t n);

// exp(x) for x <= 0 within two units in the last place; below -700 and for NaN that of -700.
double exp_below_zero(double x);
// The same for each of n numbers, in place and several at once.
void exp_below_zero(double * x, size_t n);

} // namespace slipstream
