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

#include "ahead.h"
#include "decode.h"
#include "qmatmul.h"

namespace slipstream::kernels {
inline namespace SLIPSTREAM_KERNELS_NAMESPACE {

// The weight rows of a whole panel, from some column on.
struct RowBytes {
    const uint8_t * begin; // of the first row
    size_t stride;         // from one row to the next

    // 16 bytes at one offset of the rows j, j + 4, ….
    IntVector load(int j, size_t offset) const { return load_lanes(begin + j * stride + offset, 4 * stride); }

    // Those of all rows: lane i of out[k] holds bytes 4 k … 4 k + 3 of row i.
    void transposed(size_t offset, IntVector (&out)[4]) const {
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

// Byte i of every lane as a number.
inline FloatVector unsigned_byte(IntVector v, int i) {
    return to_float(bits_of(shift_right(v, 8 * i), broadcast_i(0xff)));
}
inline FloatVector signed_byte(IntVector v, int i) {
    return to_float(shift_right_signed(shift_left(v, 24 - 8 * i), 24));
}

template <typename T>
struct OneRow {
    static constexpr bool exists = false;
};

// Q4_K and Q5_K.
template <typename B, int n_bits>
struct OneRow<SuperBlock<B, n_bits>> {
    static constexpr bool exists = true;
    static constexpr int n_calls = 16; // of Ahead::some

    // Adds 256 columns to the sums.
    static void dot(const RowBytes & rows, const Activations & x, float * sums, Ahead & ahead) {
        const Scales scales(rows);
        FloatVector acc = load_f(sums);
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
                    low[j] = dot16(low[j], first, load_everywhere(q + 16 * part));
                    high[j] = dot16(high[j], second, load_everywhere(q + 32 + 16 * part));
                }
            }
            acc = add_block(sum_of_four(low), scales, x, 2 * pair, acc);
            acc = add_block(shift_right_signed(sum_of_four(high), high_shift), scales, x, 2 * pair + 1, acc);
        }
        store_f(sums, acc);
    }

  private:
    // With VNNI high nibbles stay 16 times too large until they are summed up.
    static constexpr int high_shift = SLIPSTREAM_KERNELS_VNNI && n_bits == 4 ? 4 : 0;

    // As SuperBlock::decode_scales does it.
    struct Scales {
        FloatVector d, minus_d_min;
        IntVector scale[2], minimum[2]; // 4 bytes each

        explicit Scales(const RowBytes & rows) {
            const IntVector six = broadcast_byte(0x3f), upper = broadcast_byte(0x30),
                            nibble = broadcast_byte(0x0f);
            IntVector head[4];
            rows.transposed(0, head);
            d = low_half(head[0]);
            minus_d_min = negated(low_half(shift_right(head[0], 16)));
            scale[0] = bits_of(head[1], six);
            minimum[0] = bits_of(head[2], six);
            scale[1] = either(bits_of(head[3], nibble), bits_of(shift_right(head[1], 2), upper));
            minimum[1] =
                either(bits_of(shift_right(head[3], 4), nibble), bits_of(shift_right(head[2], 2), upper));
        }
    };

    static FloatVector add_block(IntVector n, const Scales & scales, const Activations & x, int b,
                                 FloatVector acc) {
        const FloatVector scale = multiply(scales.d, unsigned_byte(scales.scale[b / 4], b % 4));
        const FloatVector minimum = multiply(scales.minus_d_min, unsigned_byte(scales.minimum[b / 4], b % 4));
        acc = multiply_add(multiply(to_float(n), broadcast_f(x.d[b])), scale, acc);
        return multiply_add(minimum, broadcast_f(x.d_sum[b]), acc);
    }
};

template <>
struct OneRow<Q6_K> {
    static constexpr bool exists = true;
    static constexpr int n_calls = 16;

    static void dot(const RowBytes & rows, const Activations & x, float * sums, Ahead & ahead) {
        IntVector scales[4], tail[4];
        rows.transposed(offsetof(block_q6_K, scales), scales);
        rows.transposed(offsetof(block_q6_K, d) - 14, tail);
        const FloatVector d = low_half(shift_right(tail[3], 16));
        FloatVector acc = load_f(sums);
        for (int part = 0; part < 2; part++) { // 128 columns each
            IntVector n[4][2];                 // by block of 32 and half of it
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                dot_halves(rows, x, part, half, n, ahead);
            }
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                const int b = 4 * part + i / 2, sub_block = 2 * b + i % 2;
                const IntVector sum =
                    add(n[i / 2][i % 2], shift_left(broadcast_i(x.minus_sum16[sub_block]), 5));
                const FloatVector scale = multiply(d, signed_byte(scales[sub_block / 4], i % 4));
                acc = multiply_add(multiply(to_float(sum), broadcast_f(x.d[b])), scale, acc);
            }
        }
        store_f(sums, acc);
    }

  private:
    // One half of each of the four blocks of a part.
    static void dot_halves(const RowBytes & rows, const Activations & x, int part, int half,
                           IntVector (&n)[4][2], Ahead & ahead) {
        const IntVector nibble = broadcast_byte(0x0f), upper = broadcast_byte(0x30);
        const int8_t * q = x.q + 128 * part + 16 * half;
        IntVector sums[4][4]; // by block and vector of rows
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            ahead.some();
            const IntVector first = rows.load(j, offsetof(block_q6_K, ql) + 64 * part + 16 * half);
            const IntVector second = rows.load(j, offsetof(block_q6_K, ql) + 64 * part + 32 + 16 * half);
            const IntVector high = rows.load(j, offsetof(block_q6_K, qh) + 32 * part + 16 * half);
            const IntVector weights[4] = {
                either(bits_of(first, nibble), bits_of(shift_left(high, 4), upper)),
                either(bits_of(second, nibble), bits_of(shift_left(high, 2), upper)),
                either(bits_of(shift_right(first, 4), nibble), bits_of(high, upper)),
                either(bits_of(shift_right(second, 4), nibble), bits_of(shift_right(high, 2), upper)),
            };
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                sums[i][j] = dot16(zero_i(), weights[i], load_everywhere(q + 32 * i));
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            n[i][half] = sum_of_four(sums[i]);
        }
    }
};

} // namespace SLIPSTREAM_KERNELS_NAMESPACE
} // namespace slipstream::kernels
