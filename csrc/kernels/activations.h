// Activations to 8 bits, 256 columns at a time: their scales, and the sums that weights with an offset or a minimum need.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "qmatmul.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

// Whether all activations of a chunk share a scale.
inline bool has_integer_scales(ggml_type weights) {
    return weights == GGML_TYPE_Q4_K || weights == GGML_TYPE_Q5_K || weights == GGML_TYPE_Q6_K;
}

// The largest magnitudes of 8 blocks of 32 numbers.
inline __m256 largest_magnitudes(const float * x) {
    __m256 v[8];
    for (int b = 0; b < 8; b++) {
        v[b] = _mm256_setzero_ps();
        for (int i = 0; i < 4; i++) {
            const __m256 number = _mm256_loadu_ps(x + 32 * b + 8 * i);
            v[b] = _mm256_max_ps(v[b], _mm256_andnot_ps(_mm256_set1_ps(-0.0f), number));
        }
    }
    for (int b = 0; b < 4; b++) { // two blocks in turn
        v[b] = _mm256_max_ps(_mm256_unpacklo_ps(v[2 * b], v[2 * b + 1]),
                             _mm256_unpackhi_ps(v[2 * b], v[2 * b + 1]));
    }
    for (int b = 0; b < 2; b++) { // four, in either half
        const __m256d even = _mm256_castps_pd(v[2 * b]), odd = _mm256_castps_pd(v[2 * b + 1]);
        v[b] = _mm256_max_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(even, odd)),
                             _mm256_castpd_ps(_mm256_unpackhi_pd(even, odd)));
    }
    return _mm256_max_ps(_mm256_permute2f128_ps(v[0], v[1], 0x20), _mm256_permute2f128_ps(v[0], v[1], 0x31));
}

// The largest of 8 numbers, in every lane.
inline __m256 largest_everywhere(__m256 v) {
    v = _mm256_max_ps(v, _mm256_permute2f128_ps(v, v, 1));
    v = _mm256_max_ps(v, _mm256_permute_ps(v, 0x4e));
    return _mm256_max_ps(v, _mm256_permute_ps(v, 0xb1));
}

inline __m256i load_bytes(const Activations & x, int block) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x.q + 32 * block));
}

// The sums of the first halves of four blocks of bytes, then of the second ones.
inline __m256i half_sums(const Activations & x, int first_block) {
    __m256i v[4];
    for (int b = 0; b < 4; b++) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), load_bytes(x, first_block + b));
        v[b] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
    return _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
}

// Whether sums of products of all blocks of these weights fit 16 bits, for any weights: of 16 columns from -32 to 31,
// or of 32 columns from 0 to 15 or to 31, of which the extreme is reached where all activations of one sign meet the
// largest and the others meet none.
inline bool is_narrow(ggml_type weights, const Activations & x) {
    const __m256i zero = _mm256_setzero_si256();
    const bool signed_weights = weights == GGML_TYPE_Q6_K;
    const int largest_weight = signed_weights ? 32 : weights == GGML_TYPE_Q4_K ? 15 : 31;
    __m256i largest = zero;
    for (int b = 0; b < kChunk / 32; b++) {
        const __m256i q = load_bytes(x, b);
        __m256i sums = _mm256_sad_epu8(signed_weights ? _mm256_abs_epi8(q) : _mm256_max_epi8(q, zero), zero);
        sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0x4e)); // of 16
        if (!signed_weights) {
            sums = _mm256_add_epi32(sums, _mm256_permute4x64_epi64(sums, 0x4e));
            // Of the positive ones; those of the others are what is left to the sum of all.
            sums = _mm256_max_epi32(sums, _mm256_sub_epi32(sums, _mm256_set1_epi32(x.sum32[b])));
        }
        largest = _mm256_max_epi32(largest, sums);
    }
    const __m128i m = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    return largest_weight * _mm_cvtsi128_si32(m) <= INT16_MAX;
}

// `offset_log2` is that of the weights as the kernels see them; negative: they have none.
inline void quantize_chunk(ggml_type weights, int offset_log2, const float * x, Activations & out) {
    __m256 max = largest_magnitudes(x);
    if (has_integer_scales(weights)) {
        max = largest_everywhere(max);
    }
    // Below this the reciprocal would overflow; as a product with any weight it is nothing.
    const __m256 some = _mm256_cmp_ps(max, _mm256_set1_ps(1e-35f), _CMP_NLT_UQ);
    const __m256 largest = _mm256_set1_ps(127.0f);
    const __m256 d = _mm256_and_ps(some, _mm256_div_ps(max, largest));
    alignas(32) float inverse[kChunk / 32];
    _mm256_store_ps(inverse, _mm256_and_ps(some, _mm256_div_ps(largest, max)));
    _mm256_storeu_ps(out.d, d);
    for (int b = 0; b < kChunk / 32; b++) {
        __m256i n[4];
        for (int i = 0; i < 4; i++) {
            n[i] = _mm256_cvtps_epi32(
                _mm256_mul_ps(_mm256_loadu_ps(x + 32 * b + 8 * i), _mm256_set1_ps(inverse[b])));
        }
        const __m256i bytes = _mm256_permutevar8x32_epi32(
            _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3])),
            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(out.q + 32 * b), bytes);
    }
    for (int b = 0; b < kChunk / 32; b += 4) {
        const __m256i sums = half_sums(out, b);
        const __m128i first = _mm256_castsi256_si128(sums), second = _mm256_extracti128_si256(sums, 1);
        const __m128i both = _mm_add_epi32(first, second), zero = _mm_setzero_si128();
        const __m128i low = _mm_unpacklo_epi32(first, second), high = _mm_unpackhi_epi32(first, second);
        const auto store = [](void * to, __m128i v) { _mm_storeu_si128(static_cast<__m128i *>(to), v); };
        if (offset_log2 >= 0) {
            const auto start = [&](__m128i v) { return _mm_slli_epi32(_mm_sub_epi32(zero, v), offset_log2); };
            store(out.start32 + b, start(both));
            store(out.start16 + 2 * b, start(low));
            store(out.start16 + 2 * b + 4, start(high));
        }
        store(out.sum16 + 2 * b, _mm_packs_epi32(low, high));
        _mm_storel_epi64(reinterpret_cast<__m128i *>(out.sum32 + b), _mm_packs_epi32(both, both));
        _mm_storeu_ps(out.d_sum + b, _mm_mul_ps(_mm_loadu_ps(out.d + b), _mm_cvtepi32_ps(both)));
    }
    out.is_narrow = has_integer_scales(weights) && is_narrow(weights, out);
}

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
