// Vectors whose lanes are the weight rows of a panel: 16 with AVX-512 VNNI, 8 with AVX2.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define SLIPSTREAM_KERNELS_VNNI 1
#else
#define SLIPSTREAM_KERNELS_VNNI 0
#endif

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

inline int32_t read32(const void * p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return v;
}

inline __m128i load128(const void * p) {
    return _mm_loadu_si128(static_cast<const __m128i *>(p));
}

#if SLIPSTREAM_KERNELS_VNNI

constexpr int kPanelRows = 16;
constexpr int kRowTile = 8; // activation rows whose sums are held in registers
using IntVector = __m512i;
using FloatVector = __m512;

inline IntVector load_i(const void * p) {
    return _mm512_loadu_si512(p);
}
inline void store_i(void * p, IntVector v) {
    _mm512_storeu_si512(p, v);
}
inline IntVector zero_i() {
    return _mm512_setzero_si512();
}
inline IntVector broadcast_i(int32_t v) {
    return _mm512_set1_epi32(v);
}
inline FloatVector load_f(const float * p) {
    return _mm512_loadu_ps(p);
}
inline void store_f(float * p, FloatVector v) {
    _mm512_storeu_ps(p, v);
}
inline FloatVector zero_f() {
    return _mm512_setzero_ps();
}
inline FloatVector broadcast_f(float v) {
    return _mm512_set1_ps(v);
}
inline FloatVector to_float(IntVector v) {
    return _mm512_cvtepi32_ps(v);
}
inline FloatVector multiply(FloatVector a, FloatVector b) {
    return _mm512_mul_ps(a, b);
}
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) {
    return _mm512_fmadd_ps(a, b, c);
}
inline FloatVector negated(FloatVector v) {
    return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f));
}
// The half-precision numbers in the low 16 bits of the lanes.
inline FloatVector low_half(IntVector v) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}
inline IntVector add(IntVector a, IntVector b) {
    return _mm512_add_epi32(a, b);
}
inline IntVector bits_of(IntVector v, IntVector mask) {
    return _mm512_and_si512(v, mask);
}
inline IntVector either(IntVector a, IntVector b) {
    return _mm512_or_si512(a, b);
}
inline IntVector broadcast_byte(int v) {
    return _mm512_set1_epi8(static_cast<char>(v));
}
inline IntVector shift_left(IntVector v, int bits) {
    return _mm512_slli_epi32(v, bits);
}
inline IntVector shift_right(IntVector v, int bits) {
    return _mm512_srli_epi32(v, bits);
}
inline IntVector shift_right_signed(IntVector v, int bits) {
    return _mm512_srai_epi32(v, bits);
}
// Within 128-bit lanes.
inline IntVector interleave_low32(IntVector a, IntVector b) {
    return _mm512_unpacklo_epi32(a, b);
}
inline IntVector interleave_high32(IntVector a, IntVector b) {
    return _mm512_unpackhi_epi32(a, b);
}
inline IntVector interleave_low64(IntVector a, IntVector b) {
    return _mm512_unpacklo_epi64(a, b);
}
inline IntVector interleave_high64(IntVector a, IntVector b) {
    return _mm512_unpackhi_epi64(a, b);
}
// 16 bytes in every 128-bit lane: the same, or each `stride` further on.
inline IntVector load_everywhere(const void * p) {
    return _mm512_broadcast_i32x4(load128(p));
}
inline IntVector load_lanes(const uint8_t * p, size_t stride) {
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(p)), load128(p + stride), 1);
    const __m256i high =
        _mm256_inserti128_si256(_mm256_castsi128_si256(load128(p + 2 * stride)), load128(p + 3 * stride), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
// Adds the products of four weight bytes per 32-bit lane with four activations. Weights are unsigned.
template <int bits>
IntVector dot16(IntVector sum, IntVector weights, IntVector x) {
    return _mm512_dpbusd_epi32(sum, weights, x);
}
// Adds the products of two 16-bit numbers per lane.
inline IntVector dot_pairs(IntVector sum, IntVector a, IntVector b) {
    return _mm512_dpwssd_epi32(sum, a, b);
}
// In every 128-bit lane: the numbers of a, then those of b, in 16 bits.
inline IntVector pack16(IntVector a, IntVector b) {
    return _mm512_packs_epi32(a, b);
}
// In every lane: the numbers of both, in 16 bits.
inline IntVector pairs(IntVector first, IntVector second) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, first, _mm512_slli_epi32(second, 16));
}
// The first or last eight signed bytes of every 128-bit lane, in 16 bits.
inline IntVector signed_low_bytes(IntVector v) {
    return _mm512_srai_epi16(_mm512_unpacklo_epi8(v, v), 8);
}
inline IntVector signed_high_bytes(IntVector v) {
    return _mm512_srai_epi16(_mm512_unpackhi_epi8(v, v), 8);
}
// The upper byte of every 16 bits as a number.
inline IntVector signed_upper_bytes(IntVector v) {
    return _mm512_srai_epi16(v, 8);
}
inline IntVector negated(IntVector v) {
    return _mm512_sub_epi32(_mm512_setzero_si512(), v);
}
inline IntVector multiply_low(IntVector a, IntVector b) {
    return _mm512_mullo_epi32(a, b);
}
inline IntVector look_up(IntVector table, IntVector indices) { // tables of 16 bytes, in every 128-bit lane
    return _mm512_shuffle_epi8(table, indices);
}
// The low nibbles of one, bits 4 and 5 of the other.
inline IntVector six_bits(IntVector low, IntVector high) {
    const __m512i nibble = _mm512_set1_epi8(0x0f);
    const __m512i joined = _mm512_ternarylogic_epi32(nibble, low, high, 0xca); // nibble ? low : high
    return _mm512_and_si512(joined, _mm512_set1_epi8(0x3f));
}
// Adds 16 to bytes where both others have a bit in common.
inline IntVector add_fifth_bits(IntVector v, IntVector bytes, IntVector bits) {
    return _mm512_mask_add_epi8(v, _mm512_test_epi8_mask(bytes, bits), v, _mm512_set1_epi8(16));
}
// Weights of 8 bits are signed in the file; vpdpbusd wants one operand unsigned.
inline __m512i place_sign(__m512i v) {
    return _mm512_xor_si512(v, _mm512_set1_epi8(static_cast<char>(0x80)));
}
inline __m256i place_sign(__m256i v) {
    return _mm256_xor_si256(v, _mm256_set1_epi8(static_cast<char>(0x80)));
}

#else

constexpr int kPanelRows = 8;
constexpr int kRowTile = 4;
using IntVector = __m256i;
using FloatVector = __m256;

inline IntVector load_i(const void * p) {
    return _mm256_loadu_si256(static_cast<const __m256i *>(p));
}
inline void store_i(void * p, IntVector v) {
    _mm256_storeu_si256(static_cast<__m256i *>(p), v);
}
inline IntVector zero_i() {
    return _mm256_setzero_si256();
}
inline IntVector broadcast_i(int32_t v) {
    return _mm256_set1_epi32(v);
}
inline FloatVector load_f(const float * p) {
    return _mm256_loadu_ps(p);
}
inline void store_f(float * p, FloatVector v) {
    _mm256_storeu_ps(p, v);
}
inline FloatVector zero_f() {
    return _mm256_setzero_ps();
}
inline FloatVector broadcast_f(float v) {
    return _mm256_set1_ps(v);
}
inline FloatVector to_float(IntVector v) {
    return _mm256_cvtepi32_ps(v);
}
inline FloatVector multiply(FloatVector a, FloatVector b) {
    return _mm256_mul_ps(a, b);
}
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) {
    return _mm256_fmadd_ps(a, b, c);
}
inline FloatVector negated(FloatVector v) {
    return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f));
}
inline FloatVector low_half(IntVector v) {
    const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
inline IntVector add(IntVector a, IntVector b) {
    return _mm256_add_epi32(a, b);
}
inline IntVector bits_of(IntVector v, IntVector mask) {
    return _mm256_and_si256(v, mask);
}
inline IntVector either(IntVector a, IntVector b) {
    return _mm256_or_si256(a, b);
}
inline IntVector broadcast_byte(int v) {
    return _mm256_set1_epi8(static_cast<char>(v));
}
inline IntVector shift_left(IntVector v, int bits) {
    return _mm256_slli_epi32(v, bits);
}
inline IntVector shift_right(IntVector v, int bits) {
    return _mm256_srli_epi32(v, bits);
}
inline IntVector shift_right_signed(IntVector v, int bits) {
    return _mm256_srai_epi32(v, bits);
}
inline IntVector interleave_low32(IntVector a, IntVector b) {
    return _mm256_unpacklo_epi32(a, b);
}
inline IntVector interleave_high32(IntVector a, IntVector b) {
    return _mm256_unpackhi_epi32(a, b);
}
inline IntVector interleave_low64(IntVector a, IntVector b) {
    return _mm256_unpacklo_epi64(a, b);
}
inline IntVector interleave_high64(IntVector a, IntVector b) {
    return _mm256_unpackhi_epi64(a, b);
}
inline IntVector load_everywhere(const void * p) {
    return _mm256_broadcastsi128_si256(load128(p));
}
inline IntVector load_lanes(const uint8_t * p, size_t stride) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load128(p)), load128(p + stride), 1);
}
// Weights of 8 bits are signed, narrower ones unsigned: their pairs of products must fit 16 bits.
template <int bits>
IntVector dot16(IntVector sum, IntVector weights, IntVector x) {
    if constexpr (bits == 8) {
        x = _mm256_sign_epi8(x, weights);
        weights = _mm256_abs_epi8(weights);
    }
    const __m256i pairs = _mm256_maddubs_epi16(weights, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline IntVector dot_pairs(IntVector sum, IntVector a, IntVector b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
inline IntVector pack16(IntVector a, IntVector b) {
    return _mm256_packs_epi32(a, b);
}
inline IntVector pairs(IntVector first, IntVector second) {
    return _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xaa);
}
inline IntVector signed_low_bytes(IntVector v) {
    return _mm256_srai_epi16(_mm256_unpacklo_epi8(v, v), 8);
}
inline IntVector signed_high_bytes(IntVector v) {
    return _mm256_srai_epi16(_mm256_unpackhi_epi8(v, v), 8);
}
inline IntVector signed_upper_bytes(IntVector v) {
    return _mm256_srai_epi16(v, 8);
}
inline IntVector negated(IntVector v) {
    return _mm256_sub_epi32(_mm256_setzero_si256(), v);
}
inline IntVector multiply_low(IntVector a, IntVector b) {
    return _mm256_mullo_epi32(a, b);
}
inline IntVector look_up(IntVector table, IntVector indices) {
    return _mm256_shuffle_epi8(table, indices);
}
inline IntVector six_bits(IntVector low, IntVector high) {
    return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(0x0f)),
                           _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
}
// Of `bits` one is set in each byte.
inline IntVector add_fifth_bits(IntVector v, IntVector bytes, IntVector bits) {
    const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bits), bits);
    return _mm256_or_si256(v, _mm256_and_si256(is_set, _mm256_set1_epi8(16)));
}
inline __m256i place_sign(__m256i v) {
    return v;
}

#endif

// Adds the products of four weight bytes per lane with the same four activations. `bits` is the width of a weight:
// narrow ones let AVX2 add several pairs of products in 16 bits, which `n_steps` calls in a row then do. `weights(step)`
// are the bytes of a step.
// 8-bit weights are signed in AVX2 and offset by 128 with VNNI (vpdpbusd has no form for two signed operands).
template <int bits, int n_steps, typename Weights, int n_rows>
[[gnu::always_inline]] inline void dot_steps(const Weights & weights, const int8_t * const (&rows)[n_rows],
                                             int offset, IntVector (&sums)[n_rows]) {
#if SLIPSTREAM_KERNELS_VNNI
#pragma GCC unroll 8
    for (int step = 0; step < n_steps; step++) {
        const IntVector w = weights(step);
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++) {
            sums[r] = _mm512_dpbusd_epi32(sums[r], w, broadcast_i(read32(rows[r] + offset + step * 4)));
        }
    }
#else
    // A pair of products is at most 2 * 127 * (2^bits - 1), and must stay below 2^15.
    constexpr int in_16_bits = bits >= 7 ? 1 : bits == 6 ? 2 : bits == 5 ? 4 : 8;
    constexpr int group = in_16_bits < n_steps ? in_16_bits : n_steps;
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int first = 0; first < n_steps; first += group) {
        __m256i short_sums[n_rows];
#pragma GCC unroll 8
        for (int step = 0; step < group; step++) {
            const __m256i w = weights(first + step);
            const __m256i magnitude = bits == 8 ? _mm256_abs_epi8(w) : w;
#pragma GCC unroll 8
            for (int r = 0; r < n_rows; r++) {
                __m256i a = broadcast_i(read32(rows[r] + offset + (first + step) * 4));
                if (bits == 8) {
                    a = _mm256_sign_epi8(a, w);
                }
                const __m256i products = _mm256_maddubs_epi16(magnitude, a);
                short_sums[r] = step == 0 ? products : _mm256_add_epi16(short_sums[r], products);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++) {
            sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(short_sums[r], ones));
        }
    }
#endif
}

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
