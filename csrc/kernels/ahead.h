// Prefetching between other work.
#pragma once

#include "simd.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

// Brings memory into the second-level cache, a few lines at a time: reading a panel is 8 or 16 short streams, which
// hardware prefetchers follow badly, and many lines at once would hold up the loads behind them.
class Ahead {
  public:
    // The lines of [begin, end), spread over so many calls of some().
    Ahead(const char * begin, const char * end, int n_calls)
        : at_(begin),
          end_(end),
          n_lines_(static_cast<int>((end - begin + 64 * n_calls - 1) / (64 * n_calls))) {}
    void some() {
        for (int i = 0; i < n_lines_ && at_ < end_; i++, at_ += 64) {
            _mm_prefetch(at_, _MM_HINT_T1);
        }
    }

  private:
    const char * at_;
    const char * end_;
    int n_lines_;
};

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
