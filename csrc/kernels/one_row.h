// One activation row meets the weights as they lie in the file: a panel would be made to be used once.
//
// A 128-bit lane holds 16 bytes of one weight row. Vector j of four holds the rows j, j + 4, … of the panel, so that
// the four partial sums of every row, added up within lanes, come out in the order of the rows:
//
//     vector 0 | row 0 | row 4 | row 8  | row 12 |
//     vector 1 | row 1 | row 5 | row 9  | row 13 |   -> sum_of_four ->   | 0 1 2 3 | 4 5 6 7 | 8 9 10 11 | 12 13 14 15 |
//     vector 2 | row 2 | ...
//     vector 3 | row 3 | ...
//
// Integer sums are exact, and floats see what `tile` does to them in its order: results are bit-identical.
#pragma once

#include "tile.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

// The weight rows of a whole panel.
struct RowBytes : Rows {
    // 16 bytes at one offset of the rows j, j + 4, ….
    SLIPSTREAM_INLINE IntVector load(int j, size_t offset) const {
        return load_lanes(begin + j * stride + offset, 4 * stride);
    }

    // Those of all rows: lane i of out[k] holds bytes 4 k … 4 k + 3 of row i.
    SLIPSTREAM_INLINE void transposed(size_t offset, IntVector (&out)[4]) const {
        const IntVector v0 = load(0, offset), v1 = load(1, offset), v2 = load(2, offset),
                        v3 = load(3, offset);
        const IntVector low01 = interleave_low32(v0, v1), high01 = interleave_high32(v0, v1);
        const IntVector low23 = interleave_low32(v2, v3), high23 = interleave_high32(v2, v3);
        out[0] = interleave_low64(low01, low23);
        out[1] = interleave_high64(low01, low23);
        out[2] = interleave_low64(high01, high23);
        out[3] = interleave_high64(high01, high23);
    }
};

inline IntVector sum_of_four(const IntVector (&v)[4]) {
    const IntVector a = add(interleave_low32(v[0], v[1]), interleave_high32(v[0], v[1]));
    const IntVector b = add(interleave_low32(v[2], v[3]), interleave_high32(v[2], v[3]));
    return add(interleave_low64(a, b), interleave_high64(a, b));
}

template <typename T>
struct OneRow {
    static constexpr bool exists = false;
};

// Types whose blocks are of 32 columns. Weights<T>::bytes gives the two vectors of 16 columns each of the rows j, j + 4, ….
template <typename T>
struct Weights;

template <typename T>
struct OneRowOfBlocks {
    static constexpr bool exists = true;
    static constexpr int n_calls(int n_blocks) { return 4 * n_blocks; } // of Ahead::some

    static void dot(const RowBytes & rows, int n_blocks, const Activations & x, float * sums, Ahead & ahead) {
        constexpr size_t block_size = sizeof(typename T::Block);
        FloatVector acc = load_f(sums);
        for (int b = 0; b < n_blocks; b++) {
            const RowBytes block{{rows.begin + b * block_size, rows.stride}};
            const IntVector first = load_everywhere(x.q + 32 * b),
                            second = load_everywhere(x.q + 32 * b + 16);
            IntVector n[4], head[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                ahead.some();
                head[j] = block.load(j, 0);
                IntVector w[2];
                Weights<T>::bytes(block, head[j], j, w);
                n[j] = dot16<T::bits>(dot16<T::bits>(zero_i(), w[0], first), w[1], second);
            }
            IntVector sum = sum_of_four(n);
            if constexpr (T::offset_log2 >= 0) {
                sum = add(sum, broadcast_i(x.start32[b]));
            }
            const IntVector start =
                interleave_low64(interleave_low32(head[0], head[1]), interleave_low32(head[2], head[3]));
            acc = multiply_add(multiply(to_float(sum), broadcast_f(x.d[b])), low_half(start), acc);
            if constexpr (T::has_minimum) {
                acc = multiply_add(low_half(shift_right(start, 16)), broadcast_f(x.d_sum[b]), acc);
            }
        }
        store_f(sums, acc);
    }
};

template <>
struct Weights<Q8_0> {
    static void bytes(const RowBytes & block, IntVector, int j, IntVector (&out)[2]) {
        out[0] = place_sign(block.load(j, offsetof(block_q8_0, qs)));
        out[1] = place_sign(block.load(j, offsetof(block_q8_0, qs) + 16));
    }
};

template <>
struct Weights<IQ4_NL> {
    static void bytes(const RowBytes & block, IntVector, int j, IntVector (&out)[2]) {
        const IntVector values = place_sign(load_everywhere(kIq4Values)), nibble = broadcast_byte(0x0f);
        const IntVector v = block.load(j, offsetof(block_iq4_nl, qs));
        out[0] = look_up(values, bits_of(v, nibble));
        out[1] = look_up(values, bits_of(shift_right(v, 4), nibble));
    }
};

template <typename B, int n_bits, bool minimum>
struct Weights<Legacy<B, n_bits, minimum>> {
    static void bytes(const RowBytes & block, IntVector head, int j, IntVector (&out)[2]) {
        const IntVector v = block.load(j, sizeof(B) - 16), nibble = broadcast_byte(0x0f);
        out[0] = bits_of(v, nibble);
        out[1] = bits_of(shift_right(v, 4), nibble);
        if constexpr (n_bits == 5) {
            // Every byte of a column gets the byte its bit is in.
            constexpr char a = Legacy<B, n_bits, minimum>::fifth_at, b = a + 1, c = a + 2, d = a + 3;
            alignas(16) static constexpr char places[2][16] = {
                {a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b},
                {c, c, c, c, c, c, c, c, d, d, d, d, d, d, d, d}};
            alignas(16) static constexpr uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128,
                                                             1, 2, 4, 8, 16, 32, 64, 128};
            for (int i = 0; i < 2; i++) {
                out[i] =
                    add_fifth_bits(out[i], look_up(head, load_everywhere(places[i])), load_everywhere(bits));
            }
        }
    }
};

template <>
struct OneRow<Q8_0> : OneRowOfBlocks<Q8_0> {};
template <>
struct OneRow<IQ4_NL> : OneRowOfBlocks<IQ4_NL> {};
template <typename B, int n_bits, bool minimum>
struct OneRow<Legacy<B, n_bits, minimum>> : OneRowOfBlocks<Legacy<B, n_bits, minimum>> {};

// Q4_K and Q5_K.
template <typename B, int n_bits>
struct OneRow<SuperBlock<B, n_bits>> {
    static constexpr bool exists = true;
    static constexpr int n_calls(int) { return 16; } // of Ahead::some

    // Adds 256 columns to the sums.
    SLIPSTREAM_INLINE static void dot(const RowBytes & rows, int, const Activations & x, float * sums,
                                      Ahead & ahead) {
        IntVector head[4];
        rows.transposed(0, head);
        const SuperScales scales(head);
        IntVector sum = zero_i(), minima = zero_i();
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; pair++) {
            const int8_t * q = x.q + 64 * pair;
            IntVector low[4], high[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                ahead.some();
                low[j] = high[j] = zero_i();
#pragma GCC unroll 2
                for (int part = 0; part < 2; part++) {
                    const IntVector v = rows.load(j, sizeof(B) - 128 + 32 * pair + 16 * part);
                    IntVector first = bits_of(v, broadcast_byte(0x0f));
                    IntVector second = high_shift ? bits_of(v, broadcast_byte(0xf0))
                                                  : bits_of(shift_right(v, 4), broadcast_byte(0x0f));
                    if constexpr (n_bits == 5) {
                        const IntVector fifth = shift_right(rows.load(j, 16 + 16 * part), 2 * pair);
                        first = either(first, bits_of(shift_left(fifth, 4), broadcast_byte(0x10)));
                        second = either(second, bits_of(shift_left(fifth, 3), broadcast_byte(0x10)));
                    }
                    low[j] = dot16<n_bits>(low[j], first, load_everywhere(q + 16 * part));
                    high[j] = dot16<n_bits>(high[j], second, load_everywhere(q + 32 + 16 * part));
                }
            }
            const auto scale = [&](int b) { return unsigned_byte(scales.scale[b / 4], b % 4); };
            sum = add(sum, multiply_low(sum_of_four(low), scale(2 * pair)));
            sum = add(sum,
                      multiply_low(shift_right_signed(sum_of_four(high), high_shift), scale(2 * pair + 1)));
            minima = dot_pairs(minima, scales.minima(pair), broadcast_i(read32(x.sum32 + 2 * pair)));
        }
        store_f(sums, add_chunk(scaled(sum, scales.d, minima, scales.minus_d_min), x, load_f(sums)));
    }

  private:
    // With VNNI high nibbles stay 16 times too large until they are summed up.
    static constexpr int high_shift = SLIPSTREAM_KERNELS_VNNI && n_bits == 4 ? 4 : 0;
};

// Every sum of four products has a scale of 16 columns. The four of two sub-blocks fit 16 bits, where one instruction
// multiplies them with their scales and adds them up.
template <>
struct OneRow<Q6_K> {
    static constexpr bool exists = true;
    static constexpr int n_calls(int) { return 16; }

    SLIPSTREAM_INLINE static void dot(const RowBytes & rows, int, const Activations & x, float * sums,
                                      Ahead & ahead) {
        IntVector scales[4][2]; // of 8 sub-blocks each
        IntVector sum[4], offset[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const IntVector bytes = rows.load(j, offsetof(block_q6_K, scales));
            scales[j][0] = signed_low_bytes(bytes);
            scales[j][1] = signed_high_bytes(bytes);
            offset[j] = dot_pairs(zero_i(), scales[j][0], load_everywhere(x.sum16));
            offset[j] = dot_pairs(offset[j], scales[j][1], load_everywhere(x.sum16 + 8));
            sum[j] = zero_i();
        }
#pragma GCC unroll 2
        for (int part = 0; part < 2; part++) { // 128 columns each
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    ahead.some();
                    add_half(rows, x, part, half, j, scales[j][part], sum[j]);
                }
            }
        }
        IntVector tail[4]; // the last two bytes are d
        rows.transposed(sizeof(block_q6_K) - 16, tail);
        const IntVector total = add(sum_of_four(sum), shift_left(negated(sum_of_four(offset)), 5));
        store_f(sums, add_chunk(scaled(total, low_half(shift_right(tail[3], 16))), x, load_f(sums)));
    }

  private:
    // One half of each of the four blocks of a part.
    SLIPSTREAM_INLINE static void add_half(const RowBytes & rows, const Activations & x, int part, int half,
                                           int j, IntVector scales, IntVector & sum) {
        const IntVector first = rows.load(j, offsetof(block_q6_K, ql) + 64 * part + 16 * half);
        const IntVector second = rows.load(j, offsetof(block_q6_K, ql) + 64 * part + 32 + 16 * half);
        const IntVector high = rows.load(j, offsetof(block_q6_K, qh) + 32 * part + 16 * half);
        const int8_t * q = x.q + 128 * part + 16 * half;
        const auto dot = [&](IntVector weights, int block) {
            return dot16<6>(zero_i(), weights, load_everywhere(q + 32 * block));
        };
        const IntVector n0 = dot(six_bits(first, shift_left(high, 4)), 0);
        const IntVector n1 = dot(six_bits(second, shift_left(high, 2)), 1);
        const IntVector n2 = dot(six_bits(shift_right(first, 4), high), 2);
        const IntVector n3 = dot(six_bits(shift_right(second, 4), shift_right(high, 2)), 3);
        sum = dot_pairs(sum, pack16(n0, n1), look_up(scales, load_everywhere(places[half][0])));
        sum = dot_pairs(sum, pack16(n2, n3), look_up(scales, load_everywhere(places[half][1])));
    }

    // Where the scales are of half a block and of that of the next block, four times each.
    alignas(16) static constexpr int8_t places[2][2][16] = {
        {{0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5},
         {8, 9, 8, 9, 8, 9, 8, 9, 12, 13, 12, 13, 12, 13, 12, 13}},
        {{2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 6, 7, 6, 7, 6, 7},
         {10, 11, 10, 11, 10, 11, 10, 11, 14, 15, 14, 15, 14, 15, 14, 15}}};
};

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
