// From the weight formats of the file to a panel: unsigned bytes and float scales, lanes being weight rows.
#pragma once

#include "simd.h"

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

// 256 columns of a panel. Step k of block b holds columns 32 b + 4 k … + 3 of every row.
struct alignas(64) Panel {
    uint8_t q[8][8][kPanelRows * 4];
    float block_scale[16][kPanelRows];   // by block of 32, or of 16
    float block_minimum[16][kPanelRows]; // as many as scales
    // With integer scales: pairs of those of two blocks as above in 16 bits, pairs of minima, and what multiplies them.
    int32_t factor[8][kPanelRows];
    int32_t minimum_pair[4][kPanelRows];
    float whole_scale[kPanelRows], whole_minimum[kPanelRows];

    // What `tile` asks for, see Packed.
    static constexpr bool is_made_here = false;
    IntVector step(int b, int k) const { return load_i(q[b][k]); }
    FloatVector scale(int i) const { return load_f(block_scale[i]); }
    FloatVector minimum(int i) const { return load_f(block_minimum[i]); }
    IntVector factors(int pair) const { return load_i(factor[pair]); }
    IntVector minima(int pair) const { return load_i(minimum_pair[pair]); }
    FloatVector d() const { return load_f(whole_scale); }
    FloatVector minus_d_min() const { return load_f(whole_minimum); }
};

constexpr int kHalf = 8; // rows decoded together: the 32-bit lanes of a 256-bit vector

// Adjacent weight rows, from some column on. By a stride: an address is a sum, where 16 pointers would have to be loaded.
struct Rows {
    const uint8_t * begin; // of the first row
    size_t stride;         // from one row to the next

    const uint8_t * row(int i) const { return begin + i * stride; }
};

// 16 bytes of 8 rows into 4 vectors: lane i of out[k] holds bytes 4 k … 4 k + 3 of row i.
inline void transpose16(const Rows & rows, size_t offset, __m256i * out) {
    __m256i a[4];
    for (int i = 0; i < 4; i++) {
        a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(rows.row(i) + offset)),
                                       load128(rows.row(i + 4) + offset), 1);
    }
    const __m256i low01 = _mm256_unpacklo_epi32(a[0], a[1]), high01 = _mm256_unpackhi_epi32(a[0], a[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(a[2], a[3]), high23 = _mm256_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm256_unpacklo_epi64(low01, low23);
    out[1] = _mm256_unpackhi_epi64(low01, low23);
    out[2] = _mm256_unpacklo_epi64(high01, high23);
    out[3] = _mm256_unpackhi_epi64(high01, high23);
}

// The 32 bits from bit 16 of the lanes of two vectors that follow each other.
inline __m256i across(__m256i first, __m256i second) {
    return _mm256_or_si256(_mm256_srli_epi32(first, 16), _mm256_slli_epi32(second, 16));
}

inline void transpose32(const Rows & rows, size_t offset, __m256i * out) {
    transpose16(rows, offset, out);
    transpose16(rows, offset + 16, out + 4);
}

// The half-precision numbers at one offset of 8 rows.
inline __m256 halves(const Rows & rows, size_t offset) {
    uint16_t bits[kHalf];
    for (int i = 0; i < kHalf; i++) {
        std::memcpy(&bits[i], rows.row(i) + offset, 2);
    }
    return _mm256_cvtph_ps(
        _mm_setr_epi16(bits[0], bits[1], bits[2], bits[3], bits[4], bits[5], bits[6], bits[7]));
}

// The half-precision numbers in the low 16 bits of the lanes.
inline __m256 low_halves(__m256i v) {
    const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}

inline void put(Panel & panel, int half, int block, int step, __m256i bytes) {
    _mm256_store_si256(reinterpret_cast<__m256i *>(&panel.q[block][step][half * 32]), bytes);
}

inline __m256i low_nibbles(__m256i v) {
    return _mm256_and_si256(v, _mm256_set1_epi8(15));
}
inline __m256i high_nibbles(__m256i v) {
    return low_nibbles(_mm256_srli_epi16(v, 4));
}

// The half-precision numbers blocks begin with. Sixteen bytes of each row are read at once: to insert halves into a
// vector one by one takes longer.
inline void put_scales(const Rows & rows, int half, float * out) {
    __m256i head[4];
    transpose16(rows, 0, head);
    _mm256_store_ps(out + half * kHalf, low_halves(head[0]));
}

// 8-bit weights: signed for AVX2, offset by 128 for VNNI.
constexpr int kByteOffsetLog2 = SLIPSTREAM_KERNELS_VNNI ? 7 : -1;

struct Q8_0 {
    using Block = block_q8_0;
    static constexpr int bits = 8, offset_log2 = kByteOffsetLog2, sub_block = 32, columns = 32;
    static constexpr bool has_minimum = false;
    static constexpr bool integer_scales = false;
    static void decode(const Rows & rows, int half, int b, Panel & panel) {
        __m256i v[8];
        transpose32(rows, offsetof(Block, qs), v);
        for (int k = 0; k < 8; k++) {
            put(panel, half, b, k, place_sign(v[k]));
        }
        put_scales(rows, half, panel.block_scale[b]);
    }
};

// Q4_0, Q4_1, Q5_0, Q5_1: low nibbles are the first 16 columns, high ones the last.
template <typename B, int n_bits, bool minimum>
struct Legacy {
    using Block = B;
    static constexpr int bits = n_bits, offset_log2 = minimum ? -1 : n_bits - 1, sub_block = 32, columns = 32;
    static constexpr bool has_minimum = minimum;
    static constexpr bool integer_scales = false;
    static void decode(const Rows & rows, int half, int b, Panel & panel) {
        __m256i v[8];
        transpose16(rows, sizeof(Block) - 16, v); // qs is last in all four
        for (int k = 0; k < 4; k++) {
            v[k + 4] = high_nibbles(v[k]);
            v[k] = low_nibbles(v[k]);
        }
        __m256i head[4];
        transpose16(rows, 0, head);
        if constexpr (n_bits == 5) {
            add_fifth_bits(minimum ? head[1] : across(head[0], head[1]), v);
        }
        for (int k = 0; k < 8; k++) {
            put(panel, half, b, k, v[k]);
        }
        _mm256_store_ps(&panel.block_scale[b][half * kHalf], low_halves(head[0]));
        if constexpr (minimum) {
            _mm256_store_ps(&panel.block_minimum[b][half * kHalf],
                            low_halves(_mm256_srli_epi32(head[0], 16)));
        }
    }
    static constexpr size_t fifth_at = sizeof(Block) - 20;

  private:
    // Bit j of the 32 high bits belongs to column j.
    static void add_fifth_bits(__m256i high, __m256i * v) {
        const __m256i fifth = _mm256_set1_epi8(16);
        const __m256i first_byte =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
        for (int k = 0; k < 8; k++) {
            // All four bytes of a lane get the byte their bits are in, and look at one bit each.
            const __m256i byte =
                _mm256_shuffle_epi8(high, _mm256_add_epi8(first_byte, _mm256_set1_epi8(k / 2)));
            const __m256i bit = _mm256_set1_epi32(k % 2 ? static_cast<int>(0x80402010) : 0x08040201);
#if SLIPSTREAM_KERNELS_VNNI
            v[k] = _mm256_mask_add_epi8(v[k], _mm256_test_epi8_mask(byte, bit), v[k], fifth);
#else
            const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(byte, bit), bit);
            v[k] = _mm256_or_si256(v[k], _mm256_and_si256(set, fifth));
#endif
        }
    }
};
using Q4_0 = Legacy<block_q4_0, 4, false>;
using Q4_1 = Legacy<block_q4_1, 4, true>;
using Q5_0 = Legacy<block_q5_0, 5, false>;
using Q5_1 = Legacy<block_q5_1, 5, true>;

alignas(16) constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

inline __m256i iq4_values() {
    return place_sign(_mm256_broadcastsi128_si256(load128(kIq4Values)));
}

struct IQ4_NL {
    using Block = block_iq4_nl;
    static constexpr int bits = 8, offset_log2 = kByteOffsetLog2, sub_block = 32, columns = 32;
    static constexpr bool has_minimum = false;
    static constexpr bool integer_scales = false;
    static void decode(const Rows & rows, int half, int b, Panel & panel) {
        const __m256i values = iq4_values();
        __m256i v[4];
        transpose16(rows, offsetof(Block, qs), v);
        for (int k = 0; k < 4; k++) {
            put(panel, half, b, k, _mm256_shuffle_epi8(values, low_nibbles(v[k])));
            put(panel, half, b, k + 4, _mm256_shuffle_epi8(values, high_nibbles(v[k])));
        }
        put_scales(rows, half, panel.block_scale[b]);
    }
};

// d times the four signed bytes of each lane: the numbers of four blocks.
inline void put_numbers(__m256i bytes, __m256 d, int half, float (*out)[kPanelRows]) {
    for (int i = 0; i < 4; i++) {
        const __m256i number = _mm256_srai_epi32(_mm256_slli_epi32(bytes, 24 - 8 * i), 24);
        _mm256_store_ps(&out[i][half * kHalf], _mm256_mul_ps(d, _mm256_cvtepi32_ps(number)));
    }
}

inline __m256 negated_halves(__m256 v) {
    return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f));
}

inline void put(int32_t * out, int half, __m256i numbers) {
    _mm256_store_si256(reinterpret_cast<__m256i *>(out + half * kHalf), numbers);
}

// The four signed bytes of each lane, two by two as 16-bit numbers.
inline void put_pairs(__m256i bytes, int half, int32_t (*out)[kPanelRows]) {
    const __m256i upper =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
    put(out[0], half, _mm256_srai_epi16(_mm256_shuffle_epi8(bytes, upper), 8));
    put(out[1], half, _mm256_srai_epi16(_mm256_shuffle_epi8(_mm256_srli_epi32(bytes, 16), upper), 8));
}

// Q4_K and Q5_K: 8 blocks of 32, each with a 6-bit scale and a 6-bit minimum.
template <typename B, int n_bits>
struct SuperBlock {
    using Block = B;
    static constexpr int bits = n_bits, offset_log2 = -1, sub_block = 32, columns = 256;
    static constexpr bool has_minimum = true;
    static constexpr bool integer_scales = true;
    static void decode(const Rows & rows, int half, int, Panel & panel) {
        decode_scales(rows, half, panel);
        __m256i high[8];
        if constexpr (n_bits == 5) {
            transpose32(rows, 16, high);
        }
        for (int pair = 0; pair < 4; pair++) {
            __m256i v[8];
            transpose32(rows, sizeof(Block) - 128 + 32 * pair, v);
            for (int k = 0; k < 8; k++) {
                __m256i first = low_nibbles(v[k]), second = high_nibbles(v[k]);
                if constexpr (n_bits == 5) {
                    const __m256i fifth = _mm256_set1_epi8(16);
                    const __m256i bits = _mm256_srli_epi16(high[k], 2 * pair);
                    first = _mm256_or_si256(first, _mm256_and_si256(_mm256_slli_epi16(bits, 4), fifth));
                    second = _mm256_or_si256(second, _mm256_and_si256(_mm256_slli_epi16(bits, 3), fifth));
                }
                put(panel, half, 2 * pair, k, first);
                put(panel, half, 2 * pair + 1, k, second);
            }
        }
    }
    static void decode_scales(const Rows & rows, int half, Panel & panel) {
        // d and d_min; scales 0…3; minima 0…3, both with the upper bits of numbers 4…7 on top; the nibbles of those.
        __m256i head[4];
        transpose16(rows, 0, head);
        _mm256_store_ps(&panel.whole_scale[half * kHalf], low_halves(head[0]));
        _mm256_store_ps(&panel.whole_minimum[half * kHalf],
                        negated_halves(low_halves(_mm256_srli_epi32(head[0], 16))));
        const __m256i six = _mm256_set1_epi8(0x3f), upper = _mm256_set1_epi8(0x30);
        const auto second = [&](__m256i nibbles, __m256i first) {
            return _mm256_or_si256(nibbles, _mm256_and_si256(_mm256_srli_epi32(first, 2), upper));
        };
        put_pairs(_mm256_and_si256(head[1], six), half, panel.factor);
        put_pairs(second(low_nibbles(head[3]), head[1]), half, panel.factor + 2);
        put_pairs(_mm256_and_si256(head[2], six), half, panel.minimum_pair);
        put_pairs(second(high_nibbles(head[3]), head[2]), half, panel.minimum_pair + 2);
    }
};
using Q4_K = SuperBlock<block_q4_K, 4>;
using Q5_K = SuperBlock<block_q5_K, 5>;

struct Q6_K {
    using Block = block_q6_K;
    static constexpr int bits = 6, offset_log2 = 5, sub_block = 16, columns = 256;
    static constexpr bool has_minimum = false;
    static constexpr bool integer_scales = true;
    static void decode(const Rows & rows, int half, int, Panel & panel) {
        decode_scales(rows, half, panel);
        const __m256i upper = _mm256_set1_epi8(0x30);
        for (int part = 0; part < 2; part++) { // 128 columns each
            __m256i low[2][8], high[8];
            transpose32(rows, offsetof(Block, ql) + 64 * part, low[0]);
            transpose32(rows, offsetof(Block, ql) + 64 * part + 32, low[1]);
            transpose32(rows, offsetof(Block, qh) + 32 * part, high);
            for (int k = 0; k < 8; k++) {
                const __m256i h0 = _mm256_and_si256(_mm256_slli_epi16(high[k], 4), upper);
                const __m256i h1 = _mm256_and_si256(_mm256_slli_epi16(high[k], 2), upper);
                const __m256i h2 = _mm256_and_si256(high[k], upper);
                const __m256i h3 = _mm256_and_si256(_mm256_srli_epi16(high[k], 2), upper);
                put(panel, half, 4 * part, k, _mm256_or_si256(low_nibbles(low[0][k]), h0));
                put(panel, half, 4 * part + 1, k, _mm256_or_si256(low_nibbles(low[1][k]), h1));
                put(panel, half, 4 * part + 2, k, _mm256_or_si256(high_nibbles(low[0][k]), h2));
                put(panel, half, 4 * part + 3, k, _mm256_or_si256(high_nibbles(low[1][k]), h3));
            }
        }
    }
    static void decode_scales(const Rows & rows, int half, Panel & panel) {
        __m256i bytes[4];
        transpose16(rows, offsetof(Block, scales), bytes);
        _mm256_store_ps(&panel.whole_scale[half * kHalf], halves(rows, offsetof(Block, d)));
        for (int i = 0; i < 4; i++) {
            put_pairs(bytes[i], half, panel.factor + 2 * i);
        }
    }
};

// Bits of 2: byte i of 32 has column i of four blocks.
inline __m256i two_bits(__m256i v, int block) {
    return _mm256_and_si256(_mm256_srli_epi16(v, 2 * block), _mm256_set1_epi8(3));
}

// 16 blocks of 16, each with a 4-bit scale and a 4-bit minimum.
struct Q2_K {
    using Block = block_q2_K;
    static constexpr int bits = 2, offset_log2 = -1, sub_block = 16, columns = 256;
    static constexpr bool has_minimum = true;
    static constexpr bool integer_scales = false;
    static void decode(const Rows & rows, int half, int, Panel & panel) {
        __m256i numbers[4];
        transpose16(rows, offsetof(Block, scales), numbers);
        const __m256 d = halves(rows, sizeof(Block) - 4);
        const __m256 minus_d_min = negated_halves(halves(rows, sizeof(Block) - 2));
        for (int i = 0; i < 4; i++) {
            put_numbers(low_nibbles(numbers[i]), d, half, panel.block_scale + 4 * i);
            put_numbers(high_nibbles(numbers[i]), minus_d_min, half, panel.block_minimum + 4 * i);
        }
        for (int part = 0; part < 2; part++) { // 128 columns each
            __m256i v[8];
            transpose32(rows, offsetof(Block, qs) + 32 * part, v);
            for (int k = 0; k < 8; k++) {
                for (int block = 0; block < 4; block++) {
                    put(panel, half, 4 * part + block, k, two_bits(v[k], block));
                }
            }
        }
    }
};

// As Q2_K with a third bit and 6-bit scales, of which 32 is nothing.
struct Q3_K {
    using Block = block_q3_K;
    static constexpr int bits = 3, offset_log2 = 2, sub_block = 16, columns = 256;
    static constexpr bool has_minimum = false;
    static constexpr bool integer_scales = false;
    static void decode(const Rows & rows, int half, int, Panel & panel) {
        decode_scales(rows, half, panel);
        __m256i high[8]; // bit b belongs to block b
        transpose32(rows, offsetof(Block, hmask), high);
        for (int part = 0; part < 2; part++) {
            __m256i v[8];
            transpose32(rows, offsetof(Block, qs) + 32 * part, v);
            for (int k = 0; k < 8; k++) {
                for (int block = 0; block < 4; block++) {
                    const __m256i bit =
                        _mm256_and_si256(_mm256_srli_epi16(high[k], 4 * part + block), _mm256_set1_epi8(1));
                    put(panel, half, 4 * part + block, k,
                        _mm256_or_si256(two_bits(v[k], block), _mm256_slli_epi16(bit, 2)));
                }
            }
        }
    }
    // Low nibbles of scales 0…7, above them those of 8…15; then their upper two bits: byte i has 0 + i, 4 + i, ….
    static void decode_scales(const Rows & rows, int half, Panel & panel) {
        __m256i tail[4]; // 2 bytes before the 12, as 16 from their start would reach beyond the block
        transpose16(rows, sizeof(Block) - 16, tail);
        const __m256i first = across(tail[0], tail[1]), second = across(tail[1], tail[2]),
                      upper = across(tail[2], tail[3]);
        const __m256 d = low_halves(_mm256_srli_epi32(tail[3], 16));
        const __m256i nibbles[4] = {low_nibbles(first), low_nibbles(second), high_nibbles(first),
                                    high_nibbles(second)};
        for (int i = 0; i < 4; i++) {
            const __m256i number = _mm256_or_si256(nibbles[i], _mm256_slli_epi16(two_bits(upper, i), 4));
            put_numbers(_mm256_sub_epi8(number, _mm256_set1_epi8(32)), d, half, panel.block_scale + 4 * i);
        }
    }
};

// The values of IQ4_NL in blocks of 32 with 6-bit scales, of which 32 is nothing.
struct IQ4_XS {
    using Block = block_iq4_xs;
    static constexpr int bits = 8, offset_log2 = kByteOffsetLog2, sub_block = 32, columns = 256;
    static constexpr bool has_minimum = false;
    static constexpr bool integer_scales = false;
    static void decode(const Rows & rows, int half, int, Panel & panel) {
        decode_scales(rows, half, panel);
        const __m256i values = iq4_values();
        for (int b = 0; b < 8; b++) {
            __m256i v[4];
            transpose16(rows, offsetof(Block, qs) + 16 * b, v);
            for (int k = 0; k < 4; k++) {
                put(panel, half, b, k, _mm256_shuffle_epi8(values, low_nibbles(v[k])));
                put(panel, half, b, k + 4, _mm256_shuffle_epi8(values, high_nibbles(v[k])));
            }
        }
    }
    // d, two upper bits of each scale; the nibbles of all.
    static void decode_scales(const Rows & rows, int half, Panel & panel) {
        __m256i head[4];
        transpose16(rows, 0, head);
        const __m256 d = low_halves(head[0]);
        for (int b = 0; b < 8; b++) {
            const __m256i low = _mm256_and_si256(_mm256_srli_epi32(head[1], 4 * b), _mm256_set1_epi32(15));
            const __m256i high =
                _mm256_and_si256(_mm256_srli_epi32(head[0], 16 + 2 * b), _mm256_set1_epi32(3));
            const __m256i number =
                _mm256_sub_epi32(_mm256_or_si256(low, _mm256_slli_epi32(high, 4)), _mm256_set1_epi32(32));
            _mm256_store_ps(&panel.block_scale[b][half * kHalf],
                            _mm256_mul_ps(d, _mm256_cvtepi32_ps(number)));
        }
    }
};

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
