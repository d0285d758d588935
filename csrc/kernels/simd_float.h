// Vectors of f32 as attention needs them, beside those of simd.h.
#pragma once

#include "simd.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

#if SLIPSTREAM_KERNELS_VNNI

inline FloatVector load_half(const uint16_t * p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
// Writes 16 f16 numbers as f32.
inline void store_halves(float * p, __m256i v) {
    store_f(p, _mm512_cvtph_ps(v));
}
inline FloatVector add(FloatVector a, FloatVector b) {
    return _mm512_add_ps(a, b);
}
// The second operand where one is not a number.
inline FloatVector larger(FloatVector a, FloatVector b) {
    return _mm512_max_ps(a, b);
}
// `a` where `x` is less than `limit`, else `b`.
inline FloatVector where_less(FloatVector x, FloatVector limit, FloatVector a, FloatVector b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), b, a);
}
// v times 2 to the power of the integer in the low bits of `power`.
inline FloatVector scale_by_power(FloatVector v, FloatVector power) {
    return _mm512_castsi512_ps(
        add(_mm512_castps_si512(v), _mm512_slli_epi32(_mm512_castps_si512(power), 23)));
}
// A bit for each of 64 numbers that is not `value`.
inline uint64_t differ64(const uint16_t * p, uint16_t value) {
    const __m512i wanted = _mm512_set1_epi16(static_cast<int16_t>(value));
    return _mm512_cmpneq_epi16_mask(load_i(p), wanted) |
           uint64_t{_mm512_cmpneq_epi16_mask(load_i(p + 32), wanted)} << 32;
}

#else

inline FloatVector load_half(const uint16_t * p) {
    return _mm256_cvtph_ps(load128(p));
}
inline void store_halves(float * p, __m256i v) {
    store_f(p, _mm256_cvtph_ps(_mm256_castsi256_si128(v)));
    store_f(p + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)));
}
inline FloatVector add(FloatVector a, FloatVector b) {
    return _mm256_add_ps(a, b);
}
inline FloatVector larger(FloatVector a, FloatVector b) {
    return _mm256_max_ps(a, b);
}
inline FloatVector where_less(FloatVector x, FloatVector limit, FloatVector a, FloatVector b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, limit, _CMP_LT_OQ));
}
inline FloatVector scale_by_power(FloatVector v, FloatVector power) {
    return _mm256_castsi256_ps(
        add(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_castps_si256(power), 23)));
}
inline uint64_t differ64(const uint16_t * p, uint16_t value) {
    const __m256i wanted = _mm256_set1_epi16(static_cast<int16_t>(value));
    uint64_t same = 0;
    for (int half = 0; half < 2; half++) {
        const __m256i low = _mm256_cmpeq_epi16(load_i(p + 32 * half), wanted);
        const __m256i high = _mm256_cmpeq_epi16(load_i(p + 32 * half + 16), wanted);
        const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xd8);
        same |= uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(bytes))} << (32 * half);
    }
    return ~same;
}

#endif

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
