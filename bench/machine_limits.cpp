// What no kernel can exceed on this machine: int8 multiply-adds and bytes read from memory, per second, all threads.
// Compiled and run by bench_kernels.py. Prints JSON. usage: machine_limits THREADS
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kRuns = 5;

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

template <typename Work>
double best_seconds(int n_threads, Work work) {
    double best = 1e30;
    for (int run = 0; run < kRuns; run++) {
        const Clock::time_point begin = Clock::now();
        std::vector<std::thread> threads;
        for (int i = 1; i < n_threads; i++) {
            threads.emplace_back(work, i);
        }
        work(0);
        for (std::thread & thread : threads) {
            thread.join();
        }
        best = std::min(best, seconds_since(begin));
    }
    return best;
}

constexpr int64_t kSteps = 12'000'000;
constexpr int kSums = 12; // enough to hide the latency

// The cheapest way to multiply bytes that never overflows: what the kernels build on.
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
constexpr int kMacs = 64;
using Vector = __m512i;
#else
constexpr int kMacs = 32;
using Vector = __m256i;
#endif

// The asm statements are there so that the compiler cannot compute less.
void multiply_adds(int) {
    Vector sums[kSums] = {};
    Vector a = {}, b = {};
    __asm__ volatile("" : "+v"(a), "+v"(b));
    for (Vector & sum : sums) {
        __asm__ volatile("" : "+v"(sum));
    }
    for (int64_t i = 0; i < kSteps; i++) {
#pragma GCC unroll 12
        for (Vector & sum : sums) {
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
            sum = _mm512_dpbusd_epi32(sum, a, b);
#else
            __asm__ volatile("" : "+v"(a)); // or the product would be computed once
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
#endif
        }
    }
    for (Vector & sum : sums) {
        __asm__ volatile("" : : "v"(sum));
    }
}

constexpr size_t kBytes = size_t{512} << 20; // far more than any cache holds

} // namespace

int main(int argc, char ** argv) {
    const int n_threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
    const double macs = double(kSteps) * kSums * kMacs * n_threads / best_seconds(n_threads, multiply_adds);
    std::vector<char> memory(kBytes, 1);
    const size_t share = kBytes / n_threads / 4096 * 4096;
    const double read_s = best_seconds(n_threads, [&](int thread) {
        __m256i sums[4] = {};
        const char * p = memory.data() + share * thread;
        for (size_t i = 0; i < share; i += 128) {
            _mm_prefetch(p + std::min(i + 4096, share - 1), _MM_HINT_T0);
            _mm_prefetch(p + std::min(i + 4160, share - 1), _MM_HINT_T0);
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                sums[k] = _mm256_xor_si256(
                    sums[k], _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + i + 32 * k)));
            }
        }
        for (__m256i & sum : sums) {
            __asm__ volatile("" : : "v"(sum));
        }
    });
    std::printf("{\"macs_per_s\": %.4g, \"bytes_per_s\": %.4g}\n", macs, double(share) * n_threads / read_s);
}
