#include "candidates.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace slipstream {

namespace {

constexpr float NEG_INF = -std::numeric_limits<float>::infinity();
constexpr int32_t BLOCK = 64; // of which the highest is looked at first

bool better(const Candidate & a, const Candidate & b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

float highest_of(const float * values, int32_t n) {
    float highest = NEG_INF;
    for (int32_t i = 0; i < n; i++) {
        highest = values[i] > highest ? values[i] : highest;
    }
    return highest;
}

// Sorts what is in the order of its tokens: a few by comparing, many by digits of 11 bits, the lowest first, which keeps
// the order of equals.
void sort_best_first(std::vector<Candidate> & candidates) {
    constexpr size_t FEW = 1024;
    constexpr int BITS = 11, N_PASSES = 3;
    constexpr uint32_t N_DIGITS = 1U << BITS;
    if (candidates.size() <= FEW) {
        std::sort(candidates.begin(), candidates.end(), better);
        return;
    }
    // A number that grows as the logit falls. The sum makes one zero of both.
    const auto key = [](const Candidate & c) {
        const float logit = c.logit + 0.0f;
        uint32_t bits;
        std::memcpy(&bits, &logit, sizeof(bits));
        return (bits >> 31U) != 0 ? bits : ~bits & 0x7fffffffU;
    };
    std::vector<uint32_t> ends(size_t(N_PASSES) *
                               N_DIGITS); // by pass and digit: how many, then where the next goes
    for (const Candidate & c : candidates) {
        for (int pass = 0; pass < N_PASSES; pass++) {
            ends[size_t(pass) * N_DIGITS + (key(c) >> (pass * BITS) & (N_DIGITS - 1))]++;
        }
    }
    std::vector<Candidate> other(candidates.size());
    for (int pass = 0; pass < N_PASSES; pass++) {
        uint32_t * next = ends.data() + size_t(pass) * N_DIGITS;
        for (uint32_t digit = 0, start = 0; digit < N_DIGITS; digit++) {
            const uint32_t count = next[digit];
            next[digit] = start;
            start += count;
        }
        for (const Candidate & c : candidates) {
            other[next[key(c) >> (pass * BITS) & (N_DIGITS - 1)]++] = c;
        }
        candidates.swap(other);
    }
}

// exp(x) from -700 to 0. The argument is parted into a power of two and a rest of at most ln(2) / 2, by Cody and Waite's
// ln(2) in two parts (Software Manual for the Elementary Functions, 1980); the rest goes into Taylor's series. Unlike
// std::exp, compilers make vectors of it.
double exp_of(double x) {
    constexpr double LOG2E = 1.4426950408889634, LN2_HIGH = 6.93147180369123816490e-01,
                     LN2_LOW = 1.90821492927058770002e-10;
    constexpr double ROUNDS = 0x1.8p52; // a sum with it has the nearest integer in its low bits
    const double shifted = x * LOG2E + ROUNDS, power = shifted - ROUNDS;
    const double r = (x - power * LN2_HIGH) - power * LN2_LOW;
    double sum = 1.0 / 479001600;
    sum = sum * r + 1.0 / 39916800;
    sum = sum * r + 1.0 / 3628800;
    sum = sum * r + 1.0 / 362880;
    sum = sum * r + 1.0 / 40320;
    sum = sum * r + 1.0 / 5040;
    sum = sum * r + 1.0 / 720;
    sum = sum * r + 1.0 / 120;
    sum = sum * r + 1.0 / 24;
    sum = sum * r + 1.0 / 6;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    uint64_t bits, exponent;
    std::memcpy(&bits, &sum, sizeof(bits));
    std::memcpy(&exponent, &shifted, sizeof(exponent));
    bits += exponent << 52U;
    std::memcpy(&sum, &bits, sizeof(sum));
    return sum;
}

// How many values of a row lie how far below its highest.
class Depths {
  public:
    Depths(const float * values, int32_t n)
        : values_(values), n_(n), highest_(highest_of(values, n)), counts_(N_BINS) {
        for (int32_t i = 0; i < n; i++) {
            counts_[size_t(bin(values[i]))]++;
        }
    }

    // The bin in which the best k end.
    int32_t bin_of_count(int32_t k) const {
        int32_t found = 0;
        for (int64_t n_seen = counts_[0]; n_seen < k && found < N_BINS - 1;) {
            n_seen += counts_[size_t(++found)];
        }
        return found;
    }

    // The bin in which exp(value - highest) surely add up to `mass`, or that of `lowest` if that comes before.
    int32_t bin_of_mass(double mass, float lowest) const {
        const int32_t last = bin(lowest);
        int32_t found = 0;
        for (double sum = 0; found < last; found++) {
            sum += counts_[size_t(found)] * exp_below_zero(-double(found + 1) / PER_UNIT);
            if (sum >= mass) {
                break;
            }
        }
        return found;
    }

    // What is in the bins up to this one, in its order; the last bin means all.
    void collect(int32_t last, std::vector<Candidate> & out) const {
        out.clear();
        for (int32_t start = 0; start < n_; start += BLOCK) {
            const int32_t end = std::min(start + BLOCK, n_);
            if (bin(highest_of(values_ + start, end - start)) > last) {
                continue;
            }
            for (int32_t i = start; i < end; i++) {
                if (bin(values_[i]) <= last && values_[i] > NEG_INF) {
                    out.push_back({i, values_[i]});
                }
            }
        }
    }

  private:
    static constexpr int32_t N_BINS = 8192; // the last one holds what is 32 and more below
    static constexpr float PER_UNIT = 256.0f;

    int32_t bin(float value) const {
        const float depth = (highest_ - value) * PER_UNIT;
        return depth < float(N_BINS - 1) ? int32_t(depth) : N_BINS - 1;
    }

    const float * values_;
    int32_t n_;
    float highest_;
    std::vector<int32_t> counts_;
};

} // namespace

int32_t argmax(const float * values, int32_t n) {
    // Blocks whose maximum the compiler finds in vector registers; a second look only where the best is beaten.
    constexpr int32_t BLOCK = 256;
    float best = NEG_INF;
    int32_t index = -1;
    for (int32_t start = 0; start < n; start += BLOCK) {
        const int32_t end = std::min(start + BLOCK, n);
        float lanes[16];
        std::fill(lanes, lanes + 16, NEG_INF);
        int32_t i = start;
        for (; i + 16 <= end; i += 16) {
            for (int32_t j = 0; j < 16; j++) {
                lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
            }
        }
        float highest = NEG_INF;
        for (const float lane : lanes) {
            highest = lane > highest ? lane : highest;
        }
        for (; i < end; i++) {
            highest = values[i] > highest ? values[i] : highest;
        }
        if (highest > best) {
            best = highest;
            index = start;
            while (values[index] != best) {
                index++;
            }
        }
    }
    return index;
}

void select_top_k(const float * values, int32_t n, int32_t k, std::vector<Candidate> & out) {
    constexpr int32_t HEAP = 1024; // a heap of more is slower than counting
    out.clear();
    if (k <= 0) {
        return;
    }
    if (k > HEAP) {
        const Depths depths(values, n);
        depths.collect(depths.bin_of_count(k), out);
        if (out.size() > 2 * size_t(k)) {
            std::nth_element(out.begin(), out.begin() + k, out.end(), better);
            out.resize(size_t(k));
            std::sort(out.begin(), out.end(), better);
        } else {
            sort_best_first(out);
            out.resize(std::min(out.size(), size_t(k)));
        }
        return;
    }
    const auto worse_first = [](const Candidate & a, const Candidate & b) { return better(a, b); };
    for (int32_t start = 0; start < n; start += BLOCK) {
        const int32_t end = std::min(start + BLOCK, n);
        if (int32_t(out.size()) == k) {
            if (highest_of(values + start, end - start) <= out.front().logit) {
                continue;
            }
        }
        for (int32_t i = start; i < end; i++) {
            if (!(values[i] > NEG_INF)) {
                continue;
            }
            if (int32_t(out.size()) < k) {
                out.push_back({i, values[i]});
                std::push_heap(out.begin(), out.end(), worse_first);
            } else if (values[i] > out.front().logit) {
                std::pop_heap(out.begin(), out.end(), worse_first);
                out.back() = {i, values[i]};
                std::push_heap(out.begin(), out.end(), worse_first);
            }
        }
    }
    std::sort(out.begin(), out.end(), better);
}

void select_mass(const float * values, int32_t n, double mass, float lowest, std::vector<Candidate> & out) {
    const Depths depths(values, n);
    depths.collect(depths.bin_of_mass(mass, lowest), out);
    sort_best_first(out);
}

void select_at_least(const float * values, int32_t n, float lowest, std::vector<Candidate> & out) {
    out.clear();
    for (int32_t start = 0; start < n; start += BLOCK) {
        const int32_t end = std::min(start + BLOCK, n);
        if (highest_of(values + start, end - start) < lowest) {
            continue;
        }
        for (int32_t i = start; i < end; i++) {
            if (values[i] >= lowest && values[i] > NEG_INF) {
                out.push_back({i, values[i]});
            }
        }
    }
}

double exp_below_zero(double x) {
    return exp_of(x > -700.0 ? x : -700.0);
}

__attribute__((noinline)) void exp_below_zero(double * x, size_t n) {
    for (size_t i = 0; i < n;
         i++) { // apart: a branch for -700 would keep the other loop from becoming vectors
        x[i] = x[i] > -700.0 ? x[i] : -700.0;
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = exp_of(x[i]);
    }
}

double sum_exp(const float * values, int32_t n, float highest) {
    constexpr int32_t LANES = 8, N_WEIGHTS = 64 * LANES; // sums that do not wait for each other
    double weights[N_WEIGHTS], sums[LANES] = {};
    for (int32_t start = 0; start < n; start += N_WEIGHTS) {
        const int32_t n_weights = std::min(N_WEIGHTS, n - start);
        for (int32_t i = 0; i < n_weights; i++) {
            weights[i] = double(values[start + i] - highest);
        }
        exp_below_zero(weights, size_t(n_weights));
        std::fill(weights + n_weights, weights + N_WEIGHTS, 0.0);
        for (int32_t i = 0; i < N_WEIGHTS; i += LANES) {
            for (int32_t lane = 0; lane < LANES; lane++) {
                sums[lane] += weights[i + lane];
            }
        }
    }
    return std::accumulate(sums, sums + LANES, 0.0);
}

double log_sum_exp(const float * values, int32_t n) {
    const int32_t best = argmax(values, n);
    if (best < 0) {
        return -std::numeric_limits<double>::infinity();
    }
    return double(values[best]) + std::log(sum_exp(values, n, values[best]));
}

} // namespace slipstream
