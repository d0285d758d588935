#include "qmatmul.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // false alarms inside the AVX-512 intrinsics of GCC 12
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "ahead.h"
#include "decode.h"
#include "one_row.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

namespace {

constexpr int64_t kMaxRows = 256; // activation rows whose partial sums are kept while a panel is decoded once

int32_t sum_lanes(__m128i v) {
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}

int32_t sum_bytes(__m128i v) {
    const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), v);
    return sum_lanes(_mm_madd_epi16(pairs, _mm_set1_epi16(1)));
}

void quantize_block(const float * x, int block, Activations & out) {
    __m256 v[4];
    __m256 largest = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v[i]));
    }
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    m = _mm_max_ss(m, _mm_movehdup_ps(m));
    const float max = _mm_cvtss_f32(m);
    // Below this the reciprocal would overflow; as a product with any weight it is nothing.
    const bool zero = max < 1e-35f;
    const float d = zero ? 0.0f : max / 127.0f;
    const __m256 inverse = _mm256_set1_ps(zero ? 0.0f : 127.0f / max);
    __m256i n[4];
    for (int i = 0; i < 4; i++) {
        n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    }
    const __m256i bytes = _mm256_permutevar8x32_epi32(
        _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3])),
        _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(out.q + 32 * block), bytes);
    const int32_t first = sum_bytes(_mm256_castsi256_si128(bytes));
    const int32_t second = sum_bytes(_mm256_extracti128_si256(bytes, 1));
    out.d[block] = d;
    out.d_sum[block] = d * static_cast<float>(first + second);
    out.minus_sum32[block] = -(first + second);
    out.minus_sum16[2 * block] = -first;
    out.minus_sum16[2 * block + 1] = -second;
}

template <typename T>
IntVector start(const int32_t & minus_sum) {
    if constexpr (T::offset_log2 >= 0) {
        return shift_left<T::offset_log2>(broadcast_i(minus_sum));
    } else {
        return zero_i();
    }
}

// Adds n_blocks of 32 columns to the sums of n_rows activation rows.
template <typename T, int n_rows>
void tile(const Panel & panel, int n_blocks, const Activations * activations, float * sums, Ahead & ahead) {
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
                n[r] = start<T>(activations[r].minus_sum32[b]);
            }
            dot_steps<T::bits, 8>(panel.q[b][0], q, b * 32, n);
            const FloatVector scale = load_f(panel.scale[b]);
#pragma GCC unroll 8
            for (int r = 0; r < n_rows; r++) {
                acc[r] =
                    multiply_add(multiply(to_float(n[r]), broadcast_f(activations[r].d[b])), scale, acc[r]);
                if constexpr (T::has_minimum) {
                    acc[r] =
                        multiply_add(load_f(panel.minimum[b]), broadcast_f(activations[r].d_sum[b]), acc[r]);
                }
            }
        } else {
#pragma GCC unroll 2
            for (int s = 0; s < 2; s++) {
#pragma GCC unroll 8
                for (int r = 0; r < n_rows; r++) {
                    n[r] = start<T>(activations[r].minus_sum16[2 * b + s]);
                }
                dot_steps<T::bits, 4>(panel.q[b][4 * s], q, b * 32 + 16 * s, n);
                const FloatVector scale = load_f(panel.scale[2 * b + s]);
#pragma GCC unroll 8
                for (int r = 0; r < n_rows; r++) {
                    acc[r] = multiply_add(multiply(to_float(n[r]), broadcast_f(activations[r].d[b])), scale,
                                          acc[r]);
                    if constexpr (T::has_minimum) {
                        const float d_sum =
                            activations[r].d[b] * static_cast<float>(-activations[r].minus_sum16[2 * b + s]);
                        acc[r] = multiply_add(load_f(panel.minimum[2 * b + s]), broadcast_f(d_sum), acc[r]);
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

template <typename T, int n = kRowTile>
void tiles(const Panel & panel, int n_blocks, const Activations * activations, int64_t n_rows, float * sums,
           Ahead & ahead) {
    for (; n_rows >= n; n_rows -= n, activations += n, sums += n * kPanelRows) {
        tile<T, n>(panel, n_blocks, activations, sums, ahead);
    }
    if constexpr (n > 1) {
        tiles<T, n - 1>(panel, n_blocks, activations, n_rows, sums, ahead);
    }
}

template <typename T>
struct PanelRows {
    const uint8_t * rows[kPanelRows / kHalf][kHalf];

    void decode(int n_blocks, Panel & panel, Ahead & ahead) {
        for (int b = 0; b < n_blocks; b += T::columns / 32) {
            for (int half = 0; half < kPanelRows / kHalf; half++) {
                ahead.some();
                T::decode(rows[half], half, b, panel);
                for (int i = 0; i < kHalf; i++) {
                    rows[half][i] += sizeof(typename T::Block);
                }
            }
        }
    }
};

// Chunk c of the panel that comes next; negative: none.
Ahead part_of_panel(const Product & p, int64_t panel, int64_t c, int64_t n_chunk, int n_calls) {
    const int64_t first = std::max<int64_t>(panel, 0) * kPanelRows;
    const int64_t n_valid = panel < 0 ? 0 : std::min<int64_t>(kPanelRows, p.n_weights - first);
    const char * begin = reinterpret_cast<const char *>(p.weights + first * p.weight_stride);
    const size_t bytes = n_valid * p.weight_stride;
    return {begin + bytes * c / n_chunk, begin + bytes * (c + 1) / n_chunk, n_calls};
}

template <typename T>
void multiply_one_row(const Product & p, int64_t panel_index, int64_t next, int64_t row) {
    alignas(64) float sums[kPanelRows] = {};
    RowBytes bytes{p.weights + panel_index * kPanelRows * p.weight_stride, p.weight_stride};
    for (int64_t c = 0; c < n_chunks(p.n_columns); c++, bytes.begin += sizeof(typename T::Block)) {
        Ahead ahead = part_of_panel(p, next, c, n_chunks(p.n_columns), OneRow<T>::n_calls);
        OneRow<T>::dot(bytes, p.activations[c * p.chunk_stride + row], sums, ahead);
    }
    std::copy_n(sums, kPanelRows, p.out_row(row) + panel_index * kPanelRows);
}

template <typename T>
void multiply_panel(const Product & p, int64_t panel_index, int64_t next, int64_t first_row, int64_t n_rows) {
    alignas(64) float sums[kMaxRows * kPanelRows];
    const int64_t first = panel_index * kPanelRows;
    const int64_t n_valid = std::min<int64_t>(kPanelRows, p.n_weights - first);
    if constexpr (OneRow<T>::exists) {
        if (n_rows == 1 && n_valid == kPanelRows) {
            multiply_one_row<T>(p, panel_index, next, first_row);
            return;
        }
    }
    Panel panel;
    PanelRows<T> source;
    for (int64_t i = 0; i < kPanelRows; i++) {
        // Rows past the end are decoded as copies of the last, and not written.
        source.rows[i / kHalf][i % kHalf] = p.weights + (first + std::min(i, n_valid - 1)) * p.weight_stride;
    }
    const int64_t n_chunk = n_chunks(p.n_columns);
    std::fill_n(sums, n_rows * kPanelRows, 0.0f);
    for (int64_t c = 0; c < n_chunk; c++) {
        const int n_blocks = static_cast<int>(std::min<int64_t>(kChunk, p.n_columns - c * kChunk) / 32);
        const int n_decodes = (n_blocks * 32 + T::columns - 1) / T::columns * (kPanelRows / kHalf);
        Ahead ahead = part_of_panel(p, next, c, n_chunk, n_decodes + n_blocks);
        source.decode(n_blocks, panel, ahead);
        tiles<T>(panel, n_blocks, p.activations + c * p.chunk_stride + first_row, n_rows, sums, ahead);
    }
    for (int64_t r = 0; r < n_rows; r++) {
        std::copy_n(sums + r * kPanelRows, n_valid, p.out_row(first_row + r) + first);
    }
}

template <typename T>
void multiply_as(const Product & p, int64_t first_panel, int64_t last_panel, int64_t upcoming) {
    for (int64_t row = 0; row < p.n_rows; row += kMaxRows) {
        const int64_t after = row + kMaxRows < p.n_rows ? first_panel : upcoming;
        for (int64_t panel = first_panel; panel < last_panel; panel++) {
            multiply_panel<T>(p, panel, panel + 1 < last_panel ? panel + 1 : after, row,
                              std::min(kMaxRows, p.n_rows - row));
        }
    }
}

using Multiply = void (*)(const Product &, int64_t, int64_t, int64_t);

Multiply find_multiply(ggml_type type) {
    switch (type) {
    case GGML_TYPE_Q4_0:
        return multiply_as<Q4_0>;
    case GGML_TYPE_Q4_1:
        return multiply_as<Q4_1>;
    case GGML_TYPE_Q5_0:
        return multiply_as<Q5_0>;
    case GGML_TYPE_Q5_1:
        return multiply_as<Q5_1>;
    case GGML_TYPE_Q8_0:
        return multiply_as<Q8_0>;
    case GGML_TYPE_Q2_K:
        return multiply_as<Q2_K>;
    case GGML_TYPE_Q3_K:
        return multiply_as<Q3_K>;
    case GGML_TYPE_Q4_K:
        return multiply_as<Q4_K>;
    case GGML_TYPE_Q5_K:
        return multiply_as<Q5_K>;
    case GGML_TYPE_Q6_K:
        return multiply_as<Q6_K>;
    case GGML_TYPE_IQ4_NL:
        return multiply_as<IQ4_NL>;
    case GGML_TYPE_IQ4_XS:
        return multiply_as<IQ4_XS>;
    default:
        return nullptr;
    }
}

} // namespace

const char * instruction_set() {
    return SLIPSTREAM_KERNELS_VNNI ? "avx512-vnni" : "avx2";
}
bool serves(ggml_type type) {
    return find_multiply(type) != nullptr;
}
int panel_rows() {
    return kPanelRows;
}

void quantize(const float * row, int64_t n_columns, int64_t chunk, Activations & out) {
    const int n_blocks = static_cast<int>(std::min<int64_t>(kChunk, n_columns - chunk * kChunk) / 32);
    for (int b = 0; b < n_blocks; b++) {
        quantize_block(row + chunk * kChunk + 32 * b, b, out);
    }
}

void multiply(const Product & product, int64_t first_panel, int64_t last_panel, int64_t upcoming) {
    find_multiply(product.type)(product, first_panel, last_panel, upcoming);
}
void bring(const Product & product, int64_t panel) {
    part_of_panel(product, panel, 0, 1, 1).some();
}

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels

#else

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

const char * instruction_set() {
    return nullptr;
}
bool serves(ggml_type) {
    return false;
}
int panel_rows() {
    return 1;
}
void quantize(const float *, int64_t, int64_t, Activations &) {}
void multiply(const Product &, int64_t, int64_t, int64_t) {}
void bring(const Product &, int64_t) {}

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels

#endif
