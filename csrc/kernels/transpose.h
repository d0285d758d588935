// Keys of a block of cells as f32, transposed: the lanes of a vector are cells.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd_float.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

// In every half of the vectors: lane j of vector i becomes lane i of vector j, for 8 vectors of 2 x 8 numbers.
inline void transpose8(__m256i (&v)[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[i] = _mm256_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
        a[i + 4] = _mm256_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {           // numbers 0 to 3 of the half, then 4 to 7
        for (int pair = 0; pair < 2; pair++) { // vectors 0 to 3, then 4 to 7
            b[i + pair] = _mm256_unpacklo_epi32(a[i + 2 * pair], a[i + 2 * pair + 1]);
            b[i + pair + 2] = _mm256_unpackhi_epi32(a[i + 2 * pair], a[i + 2 * pair + 1]);
        }
    }
    for (int i = 0; i < 4; i++) {
        v[2 * i] = _mm256_unpacklo_epi64(b[2 * i], b[2 * i + 1]);
        v[2 * i + 1] = _mm256_unpackhi_epi64(b[2 * i], b[2 * i + 1]);
    }
}

// Writes 16 numbers of 16 cells: number i of all to out[i * stride].
inline void transpose16(const uint16_t * const (&cells)[16], float * out, int stride) {
    __m256i v[2][8];
    for (int i = 0; i < 16; i++) {
        v[i / 8][i % 8] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(cells[i]));
    }
    transpose8(v[0]);
    transpose8(v[1]);
    for (int i = 0; i < 8; i++) {
        store_halves(out + i * stride, _mm256_permute2x128_si256(v[0][i], v[1][i], 0x20));
        store_halves(out + (i + 8) * stride, _mm256_permute2x128_si256(v[0][i], v[1][i], 0x31));
    }
}

// Writes number i of 64 cells' keys to out[64 * i]; zeros where there are fewer cells. `size` is a multiple of 16.
inline void transpose_keys(const char * keys, size_t stride, const int32_t * cells, int n_cells, int64_t size,
                           float * out) {
    static constexpr uint16_t nothing[16] = {};
    for (int group = 0; group < 64; group += 16) {
        const uint16_t * pointers[16];
        for (int64_t first = 0; first < size; first += 16) {
            for (int i = 0; i < 16; i++) {
                pointers[i] = group + i < n_cells
                                  ? reinterpret_cast<const uint16_t *>(
                                        keys + static_cast<size_t>(cells[group + i]) * stride) +
                                        first
                                  : nothing;
            }
            transpose16(pointers, out + first * 64 + group, 64);
        }
    }
}

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
