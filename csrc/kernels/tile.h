// A few activation rows meet a chunk of the weights of a panel, whose sums stay in registers. Lanes are weight rows. Weights
// are a Panel, or Packed as they lie in memory.
#pragma once

#include "ahead.h"
#include "packed.h"
#include "qmatmul.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

// A chunk's integers times the scales of the weights: of all columns, or of columns and minima.
inline FloatVector scaled(IntVector sum, FloatVector d) {
    return multiply(to_float(sum), d);
}
inline FloatVector scaled(IntVector sum, FloatVector d, IntVector minima, FloatVector minus_d_min) {
    return multiply_add(to_float(minima), minus_d_min, scaled(sum, d));
}
// Adds them, times the scale of the activations.
inline FloatVector add_chunk(FloatVector scaled, const Activations & x, FloatVector acc) {
    return multiply_add(scaled, broadcast_f(x.d[0]), acc);
}

namespace { // of the one file that includes this: GCC then inlines what is called once

template <typename T>
IntVector start(const int32_t & sum) {
    if constexpr (T::offset_log2 >= 0) {
        return broadcast_i(sum);
    } else {
        return zero_i();
    }
}

// Steps of 4 columns of a block of 32, from one on.
template <typename Weights>
struct Steps {
    const Weights & weights;
    int block, first;

    SLIPSTREAM_INLINE IntVector operator()(int i) const { return weights.step(block, first + i); }
};

// Adds n_blocks of 32 columns to the sums of n_rows activation rows.
template <typename T, int n_rows, typename Weights>
void tile(const Weights & weights, int n_blocks, const Activations * activations, float * sums,
          Ahead & ahead) {
    FloatVector acc[n_rows];
    const int8_t * q[n_rows];
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
        acc[r] = load_f(sums + r * kPanelRows);
        q[r] = activations[r].q;
    }
    for (int b = 0; b < n_blocks; b++) {
        IntVector n[n_rows];
        ahead.some();
        if constexpr (T::sub_block == 32) {
#pragma GCC unroll 8
            for (int r = 0; r < n_rows; r++) {
                n[r] = start<T>(activations[r].start32[b]);
            }
            dot_steps<T::bits, 8>(Steps<Weights>{weights, b, 0}, q, b * 32, n);
            const FloatVector scale = weights.scale(b);
#pragma GCC unroll 8
            for (int r = 0; r < n_rows; r++) {
                acc[r] =
                    multiply_add(multiply(to_float(n[r]), broadcast_f(activations[r].d[b])), scale, acc[r]);
                if constexpr (T::has_minimum) {
                    acc[r] = multiply_add(weights.minimum(b), broadcast_f(activations[r].d_sum[b]), acc[r]);
                }
            }
        } else {
#pragma GCC unroll 2
            for (int s = 0; s < 2; s++) {
#pragma GCC unroll 8
                for (int r = 0; r < n_rows; r++) {
                    n[r] = start<T>(activations[r].start16[2 * b + s]);
                }
                dot_steps<T::bits, 4>(Steps<Weights>{weights, b, 4 * s}, q, b * 32 + 16 * s, n);
                const FloatVector scale = weights.scale(2 * b + s);
#pragma GCC unroll 8
                for (int r = 0; r < n_rows; r++) {
                    acc[r] = multiply_add(multiply(to_float(n[r]), broadcast_f(activations[r].d[b])), scale,
                                          acc[r]);
                    if constexpr (T::has_minimum) {
                        const float d_sum =
                            activations[r].d[b] * static_cast<float>(activations[r].sum16[2 * b + s]);
                        acc[r] = multiply_add(weights.minimum(2 * b + s), broadcast_f(d_sum), acc[r]);
                    }
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
        store_f(sums + r * kPanelRows, acc[r]);
    }
}

// The sums of one block and n_rows activation rows.
template <typename T, int n_rows, typename Weights>
SLIPSTREAM_INLINE void block_sums(const Weights & weights, int b, const Activations * activations,
                                  const int8_t * const (&q)[n_rows], IntVector (&n)[n_rows]) {
    constexpr int n_steps = T::sub_block / 4;
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
        n[r] = start<T>(T::sub_block == 16 ? activations[r].start16[b] : activations[r].start32[b]);
    }
    dot_steps<T::bits, n_steps>(Steps<Weights>{weights, b * n_steps / 8, b * n_steps % 8}, q,
                                b * T::sub_block, n);
}

// Adds the sums of two blocks, times their integer scales. Those of narrow activations fit 16 bits, so that one
// instruction multiplies those of both blocks.
template <typename T, int n_rows, bool is_narrow, typename Weights>
SLIPSTREAM_INLINE void add_pair(const Weights & weights, int pair, const Activations * activations,
                                const int8_t * const (&q)[n_rows], IntVector (&acc)[n_rows], Ahead & ahead) {
    IntVector first[n_rows], second[n_rows];
    ahead.some();
    const IntVector factors = weights.factors(pair);
    block_sums<T>(weights, 2 * pair, activations, q, first);
    if constexpr (!is_narrow) {
        const IntVector factor = shift_right_signed(shift_left(factors, 16), 16);
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++) {
            acc[r] = add(acc[r], multiply_low(first[r], factor));
        }
    }
    if constexpr (T::sub_block == 32) { // as often as there are blocks of 32 columns, see multiply_rows
        ahead.some();
    }
    block_sums<T>(weights, 2 * pair + 1, activations, q, second);
    const IntVector factor = shift_right_signed(factors, 16);
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
        acc[r] = is_narrow ? dot_pairs(acc[r], pairs(first[r], second[r]), factors)
                           : add(acc[r], multiply_low(second[r], factor));
    }
}

// The same as `tile` for a whole chunk of weights whose blocks have integer scales.
template <typename T, int n_rows, bool is_narrow, typename Weights>
void integer_tile(const Weights & weights, const Activations * activations, float * sums, Ahead & ahead) {
    const int8_t * q[n_rows];
    IntVector acc[n_rows];
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
        acc[r] = zero_i();
        q[r] = activations[r].q;
    }
    constexpr int n_pairs = kChunk / T::sub_block / 2;
    if constexpr (
        Weights::is_made_here) { // its shifts must be constants; loads need not, and the code stays small
#pragma GCC unroll 8
        for (int pair = 0; pair < n_pairs; pair++) {
            add_pair<T, n_rows, is_narrow>(weights, pair, activations, q, acc, ahead);
        }
    } else {
        for (int pair = 0; pair < n_pairs; pair++) {
            add_pair<T, n_rows, is_narrow>(weights, pair, activations, q, acc, ahead);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
        float * sum = sums + r * kPanelRows;
        if constexpr (T::has_minimum) {
            IntVector minima = zero_i();
#pragma GCC unroll 4
            for (int pair = 0; pair < 4; pair++) {
                minima = dot_pairs(minima, weights.minima(pair),
                                   broadcast_i(read32(activations[r].sum32 + 2 * pair)));
            }
            const FloatVector value = scaled(acc[r], weights.d(), minima, weights.minus_d_min());
            store_f(sum, add_chunk(value, activations[r], load_f(sum)));
        } else {
            store_f(sum, add_chunk(scaled(acc[r], weights.d()), activations[r], load_f(sum)));
        }
    }
}

template <int n_rows>
bool are_narrow(const Activations * activations) {
    int16_t narrow = 1;
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
        narrow &= activations[r].is_narrow;
    }
    return narrow != 0;
}

template <typename T, int n = kRowTile, typename Weights>
void tiles(const Weights & weights, int n_blocks, const Activations * activations, int64_t n_rows,
           float * sums, Ahead & ahead) {
    for (; n_rows >= n; n_rows -= n, activations += n, sums += n * kPanelRows) {
        if constexpr (T::integer_scales) {
            if (are_narrow<n>(activations)) {
                integer_tile<T, n, true>(weights, activations, sums, ahead);
            } else {
                integer_tile<T, n, false>(weights, activations, sums, ahead);
            }
        } else {
            tile<T, n>(weights, n_blocks, activations, sums, ahead);
        }
    }
    if constexpr (n > 1) {
        tiles<T, n - 1>(weights, n_blocks, activations, n_rows, sums, ahead);
    }
}

} // namespace

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
